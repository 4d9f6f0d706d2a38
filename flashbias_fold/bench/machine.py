"""Where a benchmark ran: what a reader needs to believe it, and nothing that identifies the machine."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from flashbias_fold import __version__

_ROOT = Path(__file__).parents[2]
_PACKAGES = (
    "torch",
    "triton",
    "protenix",
    "cuequivariance-torch",
    "cuequivariance-ops-torch-cu12",
    "cuequivariance-ops-torch-cu13",
    "bionemo-ir",
)
_PATIENCE_S = 20


def describe(device: torch.device) -> dict[str, Any]:
    """The processor, its threads, and the GPU if that is where it ran."""
    found: dict[str, Any] = {
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.type != "cuda":
        return found
    properties = torch.cuda.get_device_properties(device)
    driver, clock = _driver_and_clock(str(getattr(properties, "uuid", "")))
    return found | {
        "gpu": properties.name,
        "compute_capability": [properties.major, properties.minor],
        "multiprocessors": properties.multi_processor_count,
        "gpu_memory_bytes": properties.total_memory,
        "max_clock_mhz": clock,
        "driver": driver,
        "cuda": torch.version.cuda,
    }


def place(found: Mapping[str, Any]) -> str:
    """Where it was, in words, of what `describe` found."""
    threads = found["threads"]
    return found.get("gpu") or f"{found['cpu']}, {threads} thread{'s' * (threads > 1)}"


def versions() -> dict[str, str]:
    """Of Python, of ours and of every package with a method in it that is installed."""
    found = {"python": platform.python_version(), "flashbias-fold": __version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit(folder: Path = _ROOT) -> dict[str, Any]:
    """The commit of the checkout that the code is in, and whether that was changed; None from a wheel."""
    top = _output("git", "-C", str(folder), "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != folder.resolve():  # an environment inside somebody's repository
        return {"commit": None, "changed": None}
    changes = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return {"commit": _output("git", "-C", str(folder), "rev-parse", "HEAD"), "changed": bool(changes)}


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The name that the processor gives itself."""
    try:
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _driver_and_clock(uuid: str) -> tuple[str | None, float | None]:
    """Version of the driver, and the highest clock of the multiprocessors in MHz."""
    query = ("--query-gpu=driver_version,clocks.max.sm", "--format=csv,noheader,nounits")
    one = (f"--id=GPU-{uuid.removeprefix('GPU-')}",) if uuid else ()
    said = _output("nvidia-smi", *one, *query)
    driver, _, clock = (said or "").partition("\n")[0].partition(",")
    return driver.strip() or None, float(clock) if clock.strip().isdigit() else None


def _output(*command: str) -> str | None:
    """What a program prints; None where it is missing, fails or does not answer."""
    tool = shutil.which(command[0])
    if tool is None:
        return None
    try:
        done = subprocess.run(
            [tool, *command[1:]], capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
