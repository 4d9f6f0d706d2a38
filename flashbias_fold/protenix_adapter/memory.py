"""Peak memory of a run, what there is of it, and the chunks in which Protenix spares it."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

# Rows attended at once, from roomy to tight, tried in turn when the device runs out of memory.
# None leaves the choice to Protenix, which makes it by the number of tokens.
CHUNK_LADDER: tuple[int | None, ...] = (None, 128, 32)
_CLEAR_PEAK = "5"  # what Linux wants written to clear_refs to reset the peak of the resident set


class DeviceMemory:
    """Peak memory from its making on, and of each lap since."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = {"device": 0, "process": 0}
        self._begin_lap()

    def lap(self) -> int:
        """Peak since the last lap, or since the making: of the device; on a CPU, of the process."""
        process = _process_peak()
        lap = torch.cuda.max_memory_allocated(self._device) if self._on_gpu else process
        self._before = {
            "device": max(self._before["device"], lap),
            "process": max(self._before["process"], process),
        }
        self._begin_lap()
        return lap

    def peak(self) -> int:
        """Peak of the device; on a CPU, of the process."""
        if self._on_gpu:
            return max(self._before["device"], torch.cuda.max_memory_allocated(self._device))
        return self.process_peak()

    def process_peak(self) -> int:
        """Peak resident set of the process."""
        return max(self._before["process"], _process_peak())

    @property
    def _on_gpu(self) -> bool:
        return self._device.type == "cuda"

    def _begin_lap(self) -> None:
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats(self._device)
        # Without the right to reset it the peak is that of the process's whole life.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK)


def _process_peak() -> int:
    """Since it was last reset."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def available_bytes(
    device: torch.device, *, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> int:
    """Memory that a run may use: of the GPU, or of the machine within the limits of its cgroups.

    Args:
        device: Where the run is.
        proc: Where the kernel's files on processes and memory are.
        cgroups: Where those on cgroups are.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    limits = [
        int(line.split()[1]) * 1024 for line in _lines(proc / "meminfo") if line.startswith("MemTotal:")
    ]
    for file in _cgroup_files(_lines(proc / "self" / "cgroup"), cgroups):
        limits += [int(line) for line in _lines(file) if line.strip().isdigit()]
    return min(limits, default=2**63 - 1)


def free_bytes(device: torch.device, *, proc: Path = Path("/proc")) -> int:
    """Memory that nobody uses at the moment, of what a run may use."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [
        int(line.split()[1]) * 1024 for line in _lines(proc / "meminfo") if line.startswith("MemAvailable:")
    ]
    return min([available_bytes(device, proc=proc), *free])


def _cgroup_files(groups: list[str], root: Path) -> Iterator[Path]:
    """The files with the limits of the process's cgroup and of each one above it (version 2, and 1)."""
    for group in groups:
        _, _, rest = group.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            top, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = top / path.lstrip("/")
        # In a container the path may be the one outside, and only the top is there: it is the container's.
        for above in (folder, *folder.parents):
            yield above / name
            if above == top:
                break


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def chunk_rows(config: Any, n_token: int) -> int | None:
    """How many rows Protenix attends at once at this size; None for all of them."""
    thresholds = {int(tokens): rows for tokens, rows in config.infer_setting.chunk_size_thresholds.items()}
    for tokens in sorted(thresholds):
        if n_token <= tokens:
            return None if thresholds[tokens] == -1 else int(thresholds[tokens])
    return 32
