"""The NVIDIA driver: which one is here, and whether torch can use it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from flashbias_fold.protenix_adapter.environment import has_nvidia_gpu

# The oldest driver for each major version of CUDA, by NVIDIA's table of compatibility.
OLDEST = {12: "525.60.13", 13: "580.65.06"}
_NUMBER = re.compile(r"\b\d{3,}\.\d+(?:\.\d+)?\b")


def driver_version(proc: Path = Path("/proc")) -> str | None:
    """Return the driver's version, from the kernel's own file, or where that is hidden from `nvidia-smi`."""
    try:
        said = (proc / "driver" / "nvidia" / "version").read_text()
    except OSError:
        said = _asked_nvidia_smi()
    found = _NUMBER.search(said)
    return found[0] if found else None


def _asked_nvidia_smi() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def why_no_gpu() -> tuple[str, str] | None:
    """Return why torch cannot use the NVIDIA GPU that is here, and what mends it.

    None where it can, and where there is no GPU.
    """
    import torch

    if not has_nvidia_gpu() or torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build for CPUs", "FLASHBIAS_FOLD_SET=gpu make install"
    return _why_not(str(torch.__version__), torch.version.cuda, driver_version())


def _why_not(torch_version: str, cuda: str, driver: str | None) -> tuple[str, str]:
    built = f"torch {torch_version} is built for CUDA {cuda}"
    oldest = OLDEST.get(int(cuda.partition(".")[0]))
    if driver is None:
        return (
            f"{built}, and no driver answers",
            "install NVIDIA's driver, and hand it to the container if this is one",
        )
    if oldest is not None and _numbers(driver) < _numbers(oldest):
        mend = "update the driver, or take torch for an earlier CUDA (docs/install.md, An older driver)"
        return f"{built}, which needs driver {oldest} or later; this one is {driver}", mend
    return f"{built}, driver {driver} is new enough, and yet CUDA does not start", "nvidia-smi says more"


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
