"""A module's forward recorded as a CUDA graph and replayed: thousands of launches become one.

Where a GPU computes a call in less time than Python takes to ask for it, replaying is what helps. Who uses
this says which arguments change from call to call; all others must stay the same.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from flashbias_fold.pairformer.certificate import relative_error
from flashbias_fold.protenix_adapter.cuda_recorder import RecordingError
from flashbias_fold.protenix_adapter.denoising import Denoising

SWITCH = "FLASHBIAS_FOLD_CUDA_GRAPH"  # 0 in the environment switches it off
# Calls before the first that is rehearsed: layers make what they keep and decide what they compute, and
# kernels are compiled.
_SETTLING = 1
# Two runs of the same call differ in the order of sums alone; a graph that lacks a kernel gives anything.
_NOISE = 1e-2

# A tensor, or a tuple of tensors and Nones.
Outputs = Any
Run = Callable[[], Outputs]


class Recording(Protocol):
    """A recorded call."""

    def replay(self) -> Outputs:
        """Run it again; its outputs, which the next replay overwrites."""

    def release(self) -> None:
        """Give its memory back."""


class Recorder(Protocol):
    """A recorder of calls: CUDA, or in tests something that runs where there is none."""

    def why_not(self, x: Tensor) -> str | None:
        """Why it cannot record what works on such tensors; None if it can."""

    def rehearse(self, run: Run) -> Outputs:
        """Run a call as it will be recorded; whatever cannot be recorded raises, and draws no numbers."""

    def has_room(self) -> bool:
        """Tell if a rehearsed call's own memory can be allocated a second time."""

    def record(self, run: Run) -> Recording:
        """Record a call; what fails leaves no trace."""

    def is_small(self) -> bool:
        """Tell if all recordings together take a negligible part of the memory."""


# Where the recordings read what changes, by name, shape and dtype; those that run in turn may share it.
Buffers = dict[tuple[Any, ...], Tensor]


@dataclass(frozen=True)
class _Setting:
    """All that a call depends on besides the numbers that move: the same tensors, unchanged, and options.

    Tensors are held, so that no other one can be taken for them.
    """

    held: tuple[Any, ...] = field(compare=False)
    seen: tuple[Any, ...]

    @classmethod
    def of(cls, given: dict[str, Any], moving: dict[str, Tensor]) -> _Setting:
        forms = tuple((name, x.shape, x.dtype, x.device) for name, x in moving.items())
        kind = next(iter(moving.values())).device.type
        modes = (
            torch.is_grad_enabled(),
            torch.is_autocast_enabled(kind),
            torch.get_autocast_dtype(kind),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cuda.matmul.allow_tf32,
        )
        others = tuple(_leaves({name: value for name, value in given.items() if name not in moving}))
        return cls(others, (*forms, *modes, *map(_seen, others)))


class RecordedForward:
    """Stands in for the forward of a module, on the instance, until it is removed.

    The first call of a setting runs as ever; the next one is rehearsed and recorded, and the recording held
    against it; those that follow are replayed. What cannot be recorded, or goes wrong, runs as ever: no
    prediction fails by this. Hooks on the module itself see every call.

    Args:
        module: What is run, on tensors that it may write to.
        recorder: What records.
        moving: The names of the arguments that change from call to call, where they are tensors.
        positional: The names of the arguments that may come without them. More of these, and the call runs
            as ever.
        buffers: Shared with others that are never run at the same time.

    Attributes:
        why_not: Why the calls of the last setting were not replayed; None if they were, or will be.
        replayed: How many calls of the last prediction were.
    """

    def __init__(
        self,
        module: Any,
        recorder: Recorder,
        moving: tuple[str, ...],
        positional: tuple[str, ...] = (),
        buffers: Buffers | None = None,
    ) -> None:
        self._module = module
        self._recorder = recorder
        self._moving = moving
        self._positional = positional
        self._buffers: Buffers = {} if buffers is None else buffers
        self._forward: Callable[..., Outputs] = module.forward
        module.forward = self._call
        self._recording: Recording | None = None
        self._never: str | None = None
        self.begin()

    def begin(self, *_: object) -> None:
        """Begin a prediction: what went wrong in the last one for want of memory may go well now."""
        if not self._stays():
            self.release()
        self.replayed = 0
        self._is_asked = False
        self._failure = self._never
        self.why_not: str | None = self._failure

    def release(self, *_: object) -> None:
        """Let go of the recording, and of all that it holds."""
        recording, self._recording = self._recording, None
        self._setting: _Setting | None = None
        self._static: dict[str, Tensor] = {}
        self._calls = 0
        self._buffers.clear()
        if recording is not None:
            recording.release()

    def remove(self) -> None:
        """Put the module's own forward back."""
        self.release()
        if vars(self._module).get("forward") == self._call:
            del self._module.forward

    def _call(self, *args: Any, **given: Any) -> Outputs:
        if len(args) > len(self._positional):
            return self._forward(*args, **given)
        given = {**dict(zip(self._positional, args, strict=False)), **given}
        moving = {name: given[name] for name in self._moving if isinstance(given.get(name), Tensor)}
        if not moving:
            return self._forward(**given)
        setting = _Setting.of(given, moving)
        if setting != self._setting:
            self.release()
            self._setting = setting
            self._is_asked = False
        if not self._is_asked:
            self._is_asked = True
            self.why_not = self._failure or self._unsuited(given, next(iter(moving.values())))
        self._calls += 1
        if self.why_not is None and self._calls > _SETTLING:
            try:
                return self._without_launches(given, moving)
            except Exception as error:  # whatever it is, the call itself may still be had
                self._give_up(error)
        return self._forward(**given)

    def _without_launches(self, given: dict[str, Any], moving: dict[str, Tensor]) -> Outputs:
        """Compute a call by way of the graph, or make the graph of it."""
        self._fill(moving)
        if self._recording is None:
            return self._record(given, moving)
        out = _copied(self._recording.replay())
        self.replayed += 1
        return out

    def _record(self, given: dict[str, Any], moving: dict[str, Tensor]) -> Outputs:
        """Record a call and replay it; what it gives must agree with the rehearsal.

        The graph reads what layers keep where it lies. They let go of it when the recording is let go of, or
        when they are given other tensors, and then the setting has changed before.
        """

        def run() -> Outputs:
            return self._forward(**{**given, **self._static})

        with _autocast_keeping_nothing():
            expected = _copied(self._recorder.rehearse(run))
            if not self._recorder.has_room():
                raise RecordingError("too little memory is free", for_good=False)
            self._recording = self._recorder.record(run)
        self._fill(moving)  # the rehearsal may have written to it
        error = _largest_error(self._recording.replay(), expected)
        if not error <= _NOISE:  # NaN is not
            raise RecordingError(f"what was recorded is off by {error:.2g}")
        return expected

    def _stays(self) -> bool:
        """Tell if the last prediction's recording may serve the next one."""
        return False

    def _fill(self, moving: dict[str, Tensor]) -> None:
        """Copy what moves to where the recording reads it."""
        for name, value in moving.items():
            if name not in self._static:
                form = (name, value.shape, value.dtype, value.device)
                if form not in self._buffers:
                    self._buffers[form] = value.new_empty(value.shape)
                self._static[name] = self._buffers[form]
            self._static[name].copy_(value)

    def _give_up(self, error: Exception) -> None:
        """Record nothing for the rest of the prediction; for good, unless it was for want of memory."""
        self.release()
        self.why_not = self._failure = f"{type(error).__name__}: {error}"
        passing = isinstance(error, torch.OutOfMemoryError) or not getattr(error, "for_good", True)
        self._never = None if passing else self._failure

    def _unsuited(self, given: dict[str, Any], x: Tensor) -> str | None:
        """Say why calls of this kind are better run as ever."""
        if os.environ.get(SWITCH) == "0":
            return f"{SWITCH}=0"
        return self._recorder.why_not(x) or self._unfit(x) or self._idle(given)

    def _unfit(self, x: Tensor) -> str | None:
        """Say why a replay would not do all that a call does."""
        if torch.is_grad_enabled() or torch.is_inference_mode_enabled() or self._module.training:
            return "gradients may be wanted, or tensors of inference mode are about"
        return "something looks at what is inside" if _is_watched(self._module) else None

    def _idle(self, given: dict[str, Any]) -> str | None:
        """Say why it would gain nothing."""
        raise NotImplementedError


@contextlib.contextmanager
def _autocast_keeping_nothing() -> Iterator[None]:
    """Have autocast cast anew whatever it casts: what it keeps may lie in memory that it gives back."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _copied(out: Outputs) -> Outputs:
    """Outputs that nothing overwrites."""
    if isinstance(out, tuple):
        return tuple(map(_copied, out))
    return None if out is None else out.clone()


def _largest_error(replayed: Outputs, expected: Outputs) -> float:
    """The largest relative error of the outputs."""
    if isinstance(expected, tuple):
        errors = [_largest_error(*pair) for pair in zip(replayed, expected, strict=True)]
        return next(filter(math.isnan, errors), max(errors))  # no number is larger than NaN, nor smaller
    return 0.0 if expected is None else float(relative_error(replayed, expected))


def _leaves(value: Any) -> Iterator[Any]:
    """All that a nested dictionary holds, and where."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _leaves(inner)
    else:
        yield value


def _seen(value: Any) -> Any:
    """Return what tells a value from others: itself where it is plain, else its identity."""
    if isinstance(value, Tensor):
        return id(value), 0 if value.is_inference() else value._version
    return value if isinstance(value, str | int | float | None) else id(value)


def _is_watched(module: Any) -> bool:
    """Tell if hooks other than ours are on its parts: a replay would not call them."""
    return any(
        not isinstance(getattr(hook, "__self__", None), Denoising)
        for part in module.modules()
        if part is not module
        for hooks in (part._forward_pre_hooks, part._forward_hooks)
        for hook in hooks.values()
    )
