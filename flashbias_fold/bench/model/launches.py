"""How many kernels one recycling cycle and one denoising step start, and how long they keep a GPU busy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

CYCLES, STEPS = 2, 4  # that a prediction must have: the second cycle and the third step are looked at
_STEP = 3
_MOST_NAMES = 25
_LONGEST_NAME = 120


@dataclass(frozen=True)
class Kernel:
    """All kernels of one name."""

    name: str
    count: int
    busy_ms: float


@dataclass(frozen=True)
class Window:
    """What ran in one cycle or step.

    Attributes:
        count: Kernels, copies and fills.
        busy_ms: In which at least one of them ran.
        span_ms: From the first one's begin to the last one's end, slowed down by the profiler.
        kernels: Those that took longest, by name.
    """

    count: int
    busy_ms: float
    span_ms: float
    kernels: tuple[Kernel, ...]


class Launches:
    """Looks at the kernels of one prediction, by torch's profiler.

    Args:
        device: A GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._profiler: Any = None
        self.windows: dict[str, Window] = {}

    @contextmanager
    def watch(self, network: Any) -> Iterator[None]:
        """Have them counted meanwhile."""
        done = {"cycles": 0, "steps": 0}

        def after_cycle(*_: object) -> None:
            done["cycles"] += 1
            if done["cycles"] == CYCLES - 1:
                self._begin()
            elif done["cycles"] == CYCLES:
                self._end("cycle")

        def before_step(*_: object) -> None:
            done["steps"] += 1
            if done["steps"] == _STEP:
                self._begin()
            elif done["steps"] == _STEP + 1:
                self._end("step")

        handles = [
            network.pairformer_stack.register_forward_hook(after_cycle),
            _denoiser(network).register_forward_pre_hook(before_step),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._profiler = None

    def _begin(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        torch.cuda.synchronize(self._device)
        self._profiler = profile(activities=[ProfilerActivity.CUDA])
        self._profiler.start()

    def _end(self, name: str) -> None:
        torch.cuda.synchronize(self._device)
        self._profiler.stop()
        self.windows[name] = window(
            [
                (event.name, event.time_range.start, event.time_range.end)
                for event in self._profiler.events()
                if event.device_type == torch.autograd.DeviceType.CUDA
            ]
        )
        self._profiler = None


def window(events: list[tuple[str, float, float]]) -> Window:
    """From names with their begins and ends in microseconds."""
    busy, reached = 0.0, float("-inf")
    kernels: dict[str, list[float]] = {}
    for name, begin, end in sorted(events, key=lambda event: event[1]):
        busy += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
        kernels.setdefault(name[:_LONGEST_NAME], []).append(end - begin)
    span = reached - min(begin for _, begin, _ in events) if events else 0.0
    longest = sorted(kernels.items(), key=lambda item: -sum(item[1]))[:_MOST_NAMES]
    return Window(
        len(events),
        busy / 1e3,
        span / 1e3,
        tuple(Kernel(name, len(times), sum(times) / 1e3) for name, times in longest),
    )


def _denoiser(network: Any) -> nn.Module:
    return network.diffusion_module
