"""What must be settled before Protenix is imported, and what its import leaves behind."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def cuda_toolkit() -> Path | None:
    """The `nvcc` that Protenix would compile its LayerNorm with, if there is one."""
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if home and (nvcc := Path(home, "bin", "nvcc")).is_file():
            return nvcc
    found = shutil.which("nvcc")
    return Path(found) if found else None


def has_nvidia_gpu() -> bool:
    """Whether the NVIDIA driver shows a device here (asked without importing torch)."""
    return Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists()


@cache
def prepare() -> None:
    """Choose the LayerNorm before Protenix is imported, and keep its logging to itself.

    Protenix compiles a CUDA LayerNorm when it is first used unless LAYERNORM_TYPE says otherwise. Without
    a GPU or a CUDA toolkit that can only fail, so torch's own is taken there. A value that the user has
    set stays.
    """
    if "LAYERNORM_TYPE" not in os.environ and not (has_nvidia_gpu() and cuda_toolkit()):
        os.environ["LAYERNORM_TYPE"] = "torch"
    # A process of ours is never one rank of a torchrun job, whatever the shell was left with.
    os.environ.pop("WORLD_SIZE", None)
    with quiet_root_logger():
        import runner.dumper
        import runner.inference  # noqa: F401


@contextlib.contextmanager
def quiet_root_logger() -> Iterator[None]:
    """Undo what Protenix's `get_logger` does to the root logger: a handler and level INFO."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextlib.contextmanager
def swallow_stdout() -> Iterator[None]:
    """Protenix prints while it builds a model; standard output belongs to the user's pipeline."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def layernorm_kind() -> str:
    """Which LayerNorm Protenix was told to use, in words."""
    chosen = os.environ.get("LAYERNORM_TYPE", "fast_layernorm")
    return "Protenix's CUDA kernel (compiled at first use)" if chosen == "fast_layernorm" else "torch"
