"""Recording what a module launches as a CUDA graph, and mending what a failed recording leaves behind."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from flashbias_kernels import layer_norm

# What rehearsals take is known from above only, and memory is never free in one piece.
_SPARE = 2
# The GPU's memory over what may be taken of it for good.
_LEAST_TIMES = 64


class RecordingError(Exception):
    """A step cannot be recorded.

    Args:
        reason: Why.
        for_good: Whether it will be so in the next prediction, too.
    """

    def __init__(self, reason: str, *, for_good: bool = True) -> None:
        super().__init__(reason)
        self.for_good = for_good


class CudaRecorder:
    """Records on a stream of its own, with memory of its own, which what it recorded shares.

    So these must not run at the same time, and what they give has to be copied before the next one runs.

    Args:
        module: What is run, or holds all that is.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._graphs: list[CudaGraph] = []
        self._pool: Any = None

    @property
    def _device(self) -> torch.device:
        return next(self._module.parameters()).device

    def why_not(self, x: Tensor) -> str | None:
        """Why it cannot record what works on such tensors; None if it can."""
        if not x.is_cuda:
            return f"the model is on {x.device}"
        if torch.cuda.is_current_stream_capturing():
            return "somebody else is recording"
        return None

    def has_room(self) -> bool:
        """Whether the memory of a whole step can be had a second time.

        Its peak is not known, but not above that of the prediction so far.
        """
        allocated = torch.cuda.memory_allocated(self._device)
        cached = torch.cuda.memory_reserved(self._device) - allocated
        needed = torch.cuda.max_memory_allocated(self._device) - allocated
        return torch.cuda.mem_get_info(self._device)[0] + cached >= _SPARE * needed

    def rehearse(self, run: Callable[[], Any]) -> Any:
        """Run with all kernels that a recording will have, so that they are loaded by then.

        A recording that waits for the GPU fails, and leaves much to mend. Here waiting raises, and nothing
        is broken. The random numbers are put back where it fails.
        """
        generator = self._generator()
        before = generator.get_state()
        try:
            with on_the_current_stream(self._module), _never_waiting():
                out = run()
            if not torch.equal(generator.get_state(), before):
                raise RecordingError("random numbers are drawn")
        except BaseException:
            generator.set_state(before)
            raise
        return out

    def record(self, run: Callable[[], Any]) -> CudaGraph:
        """Record what is launched; nothing of it runs."""
        device = self._device
        with torch.cuda.device(device):
            graph, pool = torch.cuda.CUDAGraph(), self._shared_pool()
            here, numbers = torch.cuda.current_stream(), self._generator().clone_state()
            recording = torch.cuda.graph(
                graph, pool=pool, stream=_stream(device), capture_error_mode="thread_local"
            )
            try:
                with on_the_current_stream(self._module), recording:
                    out = run()
            except BaseException:
                torch.cuda.set_stream(here)
                self._mend(graph, pool, numbers)
                raise
        recorded = CudaGraph(graph, out)
        self._graphs.append(recorded)
        return recorded

    def is_small(self) -> bool:
        """Tell if all recordings together take a negligible part of the GPU's memory."""
        if not any(graph.is_there for graph in self._graphs):
            return True
        segments = torch.cuda.memory_snapshot()
        own = sum(part["total_size"] for part in segments if tuple(part["segment_pool_id"]) == self._pool)
        return own * _LEAST_TIMES <= torch.cuda.mem_get_info(self._device)[1]

    def _shared_pool(self) -> Any:
        """The memory of the recordings that are there; one that nothing uses any more is not used again."""
        self._graphs = [graph for graph in self._graphs if graph.is_there]
        if not self._graphs:
            self._pool = torch.cuda.graph_pool_handle()
        return self._pool

    def _mend(self, graph: torch.cuda.CUDAGraph, pool: Any, numbers: torch.Generator) -> None:
        """Take back what torch leaves as it is where the end of a recording fails.

        Else its allocator would go on to think that one is under way, and refuse to free anything; and so
        would the generator, and refuse to draw.
        """
        with contextlib.suppress(RuntimeError):  # raised where it has ended, and been given back, already
            torch._C._cuda_endAllocateToPool(self._device.index, pool)
            torch._C._cuda_releasePool(self._device.index, pool)
        self._generator().graphsafe_set_state(numbers)
        graph.reset()

    def _generator(self) -> torch.Generator:
        return torch.cuda.default_generators[self._device.index]


class CudaGraph:
    """A recorded run.

    Args:
        graph: What was launched.
        out: What it wrote to.

    Attributes:
        is_there: Whether it has its memory still.
    """

    def __init__(self, graph: torch.cuda.CUDAGraph, out: Any) -> None:
        self._graph = graph
        self._out = out
        self.is_there = True

    def replay(self) -> Any:
        """Run it again, on the current stream."""
        assert self.is_there
        self._graph.replay()
        return self._out

    def release(self) -> None:
        """Give its memory back; what cuBLAS took of it, too."""
        self._out = None
        self.is_there = False
        self._graph.reset()
        torch._C._cuda_clearCublasWorkspaces()


@contextlib.contextmanager
def on_the_current_stream(module: nn.Module) -> Iterator[None]:
    """Have Protenix's compiled LayerNorm computed by ours meanwhile.

    It launches on the default stream, whichever is current: a graph would lack it, and not even know.
    """
    from protenix.model.triangular import layers

    kind = getattr(layers, "FusedLayerNorm", None)  # there only where it was compiled
    norms: list[Any] = [
        part
        for part in module.modules()
        if kind is not None and isinstance(part, kind) and "forward" not in vars(part)  # ours already
    ]
    for norm in norms:
        norm.forward = partial(_normalised, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _normalised(norm: Any, x: Tensor) -> Tensor:
    return layer_norm(x, norm.weight, norm.bias, norm.eps)


@contextlib.contextmanager
def _never_waiting() -> Iterator[None]:
    """Have whatever makes the CPU wait for the GPU raise."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is not watertight: the recording itself is
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all recordings: libraries keep a workspace for each stream that they have met."""
    return torch.cuda.Stream(device)
