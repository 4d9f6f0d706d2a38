"""One denoising step recorded as a CUDA graph and replayed: two thousand launches become one.

At a few hundred tokens a GPU computes a step in less time than Python takes to ask for it. From step to step
only the noisy coordinates and the noise level change, so what one step launches is right for all that follow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from flashbias_fold.pairformer.certificate import relative_error
from flashbias_fold.protenix_adapter.cuda_recorder import CudaRecorder, RecordingError
from flashbias_fold.protenix_adapter.denoising import Denoising

SWITCH = "FLASHBIAS_FOLD_CUDA_GRAPH"  # 0 in the environment switches it off
# Tokens times samples up to which it pays. On an H200, with five samples, a step of the base model took 28.0
# ms and replayed 6.0 at 64 tokens, 31.1 and 9.8 at 256, 32.7 and 17.5 at 512, 44.3 and 37.7 at 1024; at 2048
# it took 99.7 and 94.1, for which 4.2 GiB is much to set aside.
MOST_PLACES = 8192
# Rehearsing, recording and checking took three to five of these steps, which 5 replays gave back at 256
# tokens and 21 at 1024.
FEWEST_STEPS = 20
# Steps before the first that is rehearsed: layers make what they keep and decide what they compute.
_SETTLING = 1
# Two runs of the same step differ in the order of sums alone; a graph that lacks a kernel gives anything.
_NOISE = 1e-2
_MOVING = ("x_noisy", "t_hat_noise_level")


class Recorded(Protocol):
    """A recorded step."""

    def replay(self) -> Tensor:
        """Run it again; its output, which the next replay overwrites."""

    def release(self) -> None:
        """Give its memory back."""


class Recorder(Protocol):
    """What records: CUDA, or in tests something that runs where there is none."""

    def why_not(self, x: Tensor) -> str | None:
        """Why it cannot record what works on such tensors; None if it can."""

    def rehearse(self, run: Callable[[], Tensor]) -> Tensor:
        """Run a step as it will be recorded; whatever cannot be recorded raises, and draws no numbers."""

    def has_room(self) -> bool:
        """Whether a step's own memory can be had a second time, after it was rehearsed."""

    def record(self, run: Callable[[], Tensor]) -> Recorded:
        """Record a step; what fails leaves no trace."""


@dataclass(frozen=True)
class _Setting:
    """All that a step depends on besides what moves: the same tensors, unchanged, and the same options.

    Tensors are held, so that no other one can be taken for them.
    """

    held: tuple[Any, ...] = field(compare=False)
    seen: tuple[Any, ...]

    @classmethod
    def of(cls, given: dict[str, Any]) -> _Setting:
        shapes = tuple((given[name].shape, given[name].dtype, given[name].device) for name in _MOVING)
        others = tuple(_leaves({name: value for name, value in given.items() if name not in _MOVING}))
        modes = (torch.is_grad_enabled(), torch.is_autocast_enabled(given[_MOVING[0]].device.type))
        return cls(others, (*shapes, *modes, *map(_seen, others)))


class StepGraph:
    """Stands in for the forward of a model's diffusion module, on the instance, until it is removed.

    The first step of a sampling runs as ever, one is rehearsed, the next is recorded and the recording held
    against it; those that follow are replayed. What cannot be recorded, or goes wrong, runs as ever: no
    prediction fails by this. Hooks on the diffusion module see every step. Before the confidence head,
    which needs the memory, and whenever a prediction ends, everything is let go.

    Args:
        model: A Protenix model, whose layers are replaced already.
        recorder: What records.

    Attributes:
        why_not: Why the steps of the last setting were not replayed; None if they were, or will be.
        replayed: How many steps of the last prediction were.
    """

    def __init__(self, model: Any, recorder: Recorder | None = None) -> None:
        self._model = model
        self._diffusion = model.diffusion_module
        self._recorder = recorder or CudaRecorder(self._diffusion)
        self._forward = self._diffusion.forward
        self._diffusion.forward = self._step
        self._recorded: Recorded | None = None
        self._never: str | None = None
        self._begin()
        self._handles = [
            model.register_forward_pre_hook(self._begin),
            model.distogram_head.register_forward_pre_hook(self._release),
            model.register_forward_hook(self._release, always_call=True),
        ]

    def remove(self) -> None:
        """Put the diffusion module's own forward back."""
        self._release()
        for handle in self._handles:
            handle.remove()
        if vars(self._diffusion).get("forward") == self._step:
            del self._diffusion.forward

    def _begin(self, *_: object) -> None:
        """A prediction begins; what went wrong in the last one for want of memory may go well now."""
        self._release()
        self.replayed = 0
        self._failure = self._never
        self.why_not: str | None = self._failure

    def _release(self, *_: object) -> None:
        recorded, self._recorded = self._recorded, None
        self._setting: _Setting | None = None
        self._static: dict[str, Tensor] = {}
        self._steps = 0
        if recorded is not None:
            recorded.release()

    def _step(self, *args: Any, **given: Any) -> Tensor:
        if args or not given.keys() >= set(_MOVING):
            return self._forward(*args, **given)
        setting = _Setting.of(given)
        if setting != self._setting:
            self._release()
            self._setting = setting
            self.why_not = self._failure or self._unsuited(given)
        self._steps += 1
        if self.why_not is None and self._steps > _SETTLING:
            try:
                return self._without_launches(given)
            except Exception as error:  # whatever it is, the step itself may still be had
                self._give_up(error)
        return self._forward(**given)

    def _without_launches(self, given: dict[str, Any]) -> Tensor:
        """A step by way of the graph, or one on the way to it."""
        moving = {name: given[name] for name in _MOVING}
        if not self._static:
            self._static = {name: value.new_empty(value.shape) for name, value in moving.items()}
        for name, value in moving.items():
            self._static[name].copy_(value)
        if self._recorded is not None:
            out = self._recorded.replay().clone()
            self.replayed += 1
            return out
        static = {**given, **self._static}
        if self._steps > _SETTLING + 1:
            return self._record(given, static)
        out = self._recorder.rehearse(lambda: self._forward(**static))
        if not self._recorder.has_room():
            raise RecordingError("too little memory is free", for_good=False)
        return out

    def _record(self, given: dict[str, Any], static: dict[str, Any]) -> Tensor:
        """Record a step and replay it; what it gives is computed apart and must agree.

        The graph reads what layers keep where it lies. They let go of it after sampling, as is done here, or
        when they are given other pairs, and then the setting has changed before.
        """
        self._recorded = self._recorder.record(lambda: self._forward(**static))
        found, right = self._recorded.replay(), self._forward(**given)
        error = float(relative_error(found, right))
        if not error <= _NOISE:  # NaN is not
            raise RecordingError(f"the recorded step is off by {error:.2g}")
        return right

    def _give_up(self, error: Exception) -> None:
        """For the rest of the prediction; for good, unless it was for want of memory."""
        self._release()
        self.why_not = self._failure = f"{type(error).__name__}: {error}"
        passing = isinstance(error, torch.OutOfMemoryError) or not getattr(error, "for_good", True)
        self._never = None if passing else self._failure

    def _unsuited(self, given: dict[str, Any]) -> str | None:
        """Why steps of this kind are better run as ever."""
        x = given["x_noisy"]
        if os.environ.get(SWITCH) == "0":
            return f"{SWITCH}=0"
        return self._recorder.why_not(x) or self._unfit(x) or self._idle(given)

    def _unfit(self, x: Tensor) -> str | None:
        """Why a replay would not do all that a step does."""
        if torch.is_grad_enabled() or torch.is_inference_mode_enabled() or self._diffusion.training:
            return "gradients may be wanted, or tensors of inference mode are about"
        if torch.is_autocast_enabled(x.device.type):
            return "autocast casts weights, to memory that it gives back"
        return "something looks at what is inside of a step" if _is_watched(self._diffusion) else None

    def _idle(self, given: dict[str, Any]) -> str | None:
        """Why it would gain nothing."""
        places = given["s_inputs"].shape[-2] * given["x_noisy"].shape[-3]
        if places > MOST_PLACES:
            return f"{places} tokens in all samples, more than {MOST_PLACES}: launches do not count"
        steps = int(self._model.configs.sample_diffusion.N_step)
        return f"{steps} steps, fewer than {FEWEST_STEPS}" if steps < FEWEST_STEPS else None


def _leaves(value: Any) -> Iterator[Any]:
    """All that a nested dictionary holds, and where."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _leaves(inner)
    else:
        yield value


def _seen(value: Any) -> Any:
    """What tells a value from others: itself where it is plain, else that it is this very object."""
    if isinstance(value, Tensor):
        return id(value), 0 if value.is_inference() else value._version
    return value if isinstance(value, str | int | float | None) else id(value)


def _is_watched(diffusion: Any) -> bool:
    """Whether hooks other than ours are on its parts: a replay would not call them."""
    return any(
        not isinstance(getattr(hook, "__self__", None), Denoising)
        for part in diffusion.modules()
        if part is not diffusion
        for hooks in (part._forward_pre_hooks, part._forward_hooks)
        for hook in hooks.values()
    )
