"""Times that can be compared: interleaved in one process, the device idle before and after each call."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

WARM_UP = 2  # rounds before those that count


@dataclass(frozen=True)
class Step:
    """What is timed.

    Attributes:
        prepare: What comes before; not timed.
        work: The call that is timed, with what `prepare` gave.
    """

    prepare: Callable[[], Any]
    work: Callable[[Any], Any]

    def run(self) -> Any:
        """Once, untimed."""
        return self.work(self.prepare())


@dataclass(frozen=True)
class Spread:
    """The median of some times, and between which bounds eight in ten of them are."""

    median: float
    p10: float
    p90: float


def spread(times: list[float]) -> Spread:
    """Of at least one time."""
    if len(times) == 1:
        return Spread(times[0], times[0], times[0])
    tenths = statistics.quantiles(times, n=10, method="inclusive")
    return Spread(statistics.median(times), tenths[0], tenths[-1])


def milliseconds(step: Step, device: torch.device) -> float:
    """How long one call takes: on a GPU between two events of its own clock."""
    given = step.prepare()
    if device.type != "cuda":
        start = time.perf_counter()
        step.work(given)
        return (time.perf_counter() - start) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    step.work(given)
    end.record()
    torch.cuda.synchronize(device)
    return float(begin.elapsed_time(end))


def interleave(
    steps: dict[str, Step],
    repeats: int,
    device: torch.device,
    *,
    failed: Callable[[str, Exception], None],
    tick: Callable[[int, int], None],
) -> dict[str, list[float]]:
    """Milliseconds of every step, a call of each in turn, so that whatever the machine does meets them all.

    The order changes from round to round: what a call leaves behind in caches does not always meet the same.

    Args:
        steps: What to time, by name.
        repeats: Rounds that count.
        device: Where it runs.
        failed: Called for a step that raises, which is then left out.
        tick: Called after each round with how many are done, of how many.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    order = random.Random(0)
    for number in range(WARM_UP + repeats):
        for name in order.sample(list(times), len(times)):
            try:
                elapsed = milliseconds(steps[name], device)
            except Exception as error:  # whatever a driver or a compiler can raise
                del times[name]
                failed(name, error)
                continue
            if number >= WARM_UP:
                times[name].append(elapsed)
        tick(number + 1, WARM_UP + repeats)
    return times


def peak_bytes(step: Step, device: torch.device) -> int | None:
    """Device memory of one run beyond what was there before; None on a CPU, where nobody counts."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step.run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
