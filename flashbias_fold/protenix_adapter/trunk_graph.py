"""The cycles of the trunk recorded as CUDA graphs and replayed: seven thousand launches become a few hundred.

From cycle to cycle only the representations change. Recorded is what draws no random numbers and has the same
shapes each time: the Pairformer, and the blocks like its own that update the pairs within the alignment's and
the templates' tracks. What recycling drops and the rows sampled from an alignment stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from flashbias_fold.pairformer import PairBiasAttention, TriangleAttention
from flashbias_fold.protenix_adapter.cast_weights import CastWeights
from flashbias_fold.protenix_adapter.cuda_recorder import CudaRecorder
from flashbias_fold.protenix_adapter.norms import OwnNorms
from flashbias_fold.protenix_adapter.recording import Buffers, Outputs, RecordedForward, Recorder

# Tokens up to which launches count: at 1,024 an H200 is busy all the time with what Python asks of it.
MOST_TOKENS = 768
# Recording takes about as long as a cycle, and two are not replayed.
FEWEST_CYCLES = 4
_REPRESENTATIONS = ("s", "z", "pair_mask")


class TrunkGraph:
    """Records and replays the parts of a model's trunk, until it is removed.

    Under autocast their weights are cast once. What takes little memory stays for the next prediction of the
    same size. Else all is let go after the last cycle, since diffusion begins with the largest tensors of its
    own; and whenever a prediction fails.

    Args:
        model: A Protenix model, whose layers are replaced already.
        recorder: What records.

    Attributes:
        why_not: Why the cycles of the last prediction were not replayed; None if they were, or will be.
        replayed: How many cycles of the last prediction were.
    """

    def __init__(self, model: Any, recorder: Recorder | None = None) -> None:
        self._model = model
        modules = _repeated(model)
        self._norms = OwnNorms(modules)
        buffers: Buffers = {}
        self._recorder = recorder or CudaRecorder(model)
        self._parts = [_Part(module, self._recorder, buffers, self._cycles) for module in modules]
        self._begin()
        self._handles = [
            model.register_forward_pre_hook(self._begin),
            model.pairformer_stack.register_forward_hook(self._after_cycle),
            model.register_forward_hook(self._end, always_call=True),
        ]

    @property
    def why_not(self) -> str | None:
        """The first reason that a part has, the Pairformer's before others."""
        return next((part.why_not for part in self._parts if part.why_not is not None), None)

    @property
    def replayed(self) -> int:
        """How often the Pairformer was; so were the other parts, if they are repeated as often."""
        return self._parts[0].replayed

    def remove(self) -> None:
        """Put the forwards of the parts and of their norms back."""
        for handle in self._handles:
            handle.remove()
        for part in self._parts:
            part.remove()
        self._norms.remove()

    def _cycles(self) -> int:
        return int(self._model.N_cycle)

    def _begin(self, *_: object) -> None:
        self._done = 0
        for part in self._parts:
            part.begin()

    def _after_cycle(self, *_: object) -> None:
        self._done += 1
        if self._done == self._cycles():
            small = self._recorder.is_small()
            self._release(part for part in self._parts if not (small and part.is_recorded))

    def _end(self, _module: Any, _arguments: Any, out: Any) -> None:
        if out is None:  # by an error, which may be one for want of memory
            self._release(self._parts)

    def _release(self, parts: Iterable[_Part]) -> None:
        for part in parts:
            part.release()


class _Part(RecordedForward):
    """A part of the trunk that every cycle runs on other numbers.

    Args:
        module: The part: it takes the single representation, the pairs and their mask, in any of the ways
            that Protenix's Pairformer does, and may write to them.
        recorder: What records.
        buffers: Shared by all parts.
        cycles: Says how many there are.
    """

    def __init__(
        self, module: nn.Module, recorder: Recorder, buffers: Buffers, cycles: Callable[[], int]
    ) -> None:
        self._weights = CastWeights(module)
        super().__init__(module, recorder, _REPRESENTATIONS, _REPRESENTATIONS, buffers)
        self._cycles = cycles
        self._own_forward, self._forward = self._forward, self._with_cast_weights

    @property
    def is_recorded(self) -> bool:
        """Tell if it was run in this prediction, and a recording of it is there."""
        return self._is_asked and self._recording is not None

    def release(self, *_: object) -> None:
        """Let go of the recording, and of the weights that it reads."""
        super().release()
        self._weights.forget()

    def _with_cast_weights(self, *args: Any, **given: Any) -> Outputs:
        device = next(self._module.parameters()).device
        with self._weights.in_place(device):
            return self._own_forward(*args, **given)

    def _record(self, given: dict[str, Any], moving: dict[str, Tensor]) -> Outputs:
        self._read = _state_of(self._module)
        return super()._record(given, moving)

    def _stays(self) -> bool:
        """As long as the weights are what they were when they were cast, and lie where they are read."""
        return self._recording is not None and self._read == _state_of(self._module)

    def _unfit(self, x: Tensor) -> str | None:
        kinds = (TriangleAttention, PairBiasAttention)
        if any(isinstance(part, kinds) and part.rule.rank is not None for part in self._module.modules()):
            return "factors are computed and measured in each call, which waits for the GPU"
        return super()._unfit(x)

    def _idle(self, given: dict[str, Any]) -> str | None:
        tokens = given["z"].shape[-2]
        if tokens > MOST_TOKENS:
            return f"{tokens} tokens, more than {MOST_TOKENS}: launches do not count"
        cycles = self._cycles()
        return f"{cycles} cycles, fewer than {FEWEST_CYCLES}" if cycles < FEWEST_CYCLES else None


def _state_of(module: nn.Module) -> list[tuple[int, int]]:
    """Where the weights lie, and how often they were written to."""
    return [(weight.data_ptr(), weight._version) for weight in module.parameters()]


def _repeated(model: Any) -> list[nn.Module]:
    """The parts of the trunk that can be recorded, the Pairformer first."""
    templates = model.template_embedder.pairformer_stack
    alignment = [block.pair_stack for block in model.msa_module.blocks]
    return [model.pairformer_stack, *alignment, *([templates] if templates.n_blocks else [])]
