"""What must be settled before Protenix is imported, and what its import leaves behind."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from flashbias_fold.errors import SetupError

# Protenix comes without its requirements: it pins a torch for CUDA 12 on which nothing here was ever run.
PROTENIX = "protenix==2.0.0"
ADD_PROTENIX = f"pip install --no-deps {PROTENIX}"

# What torchrun leaves in the environment, and Protenix reads when it is imported.
_RANK_VARIABLES = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK")


def cuda_toolkit() -> Path | None:
    """The `nvcc` that Protenix would compile its LayerNorm with, if there is one."""
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if home and (nvcc := Path(home, "bin", "nvcc")).is_file():
            return nvcc
    found = shutil.which("nvcc")
    return Path(found) if found else None


def has_nvidia_gpu() -> bool:
    """Whether the NVIDIA driver shows a device here that is not hidden (asked without importing torch)."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    # A container may be given any one of a machine's devices, so it need not be the first.
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def choose_layernorm() -> None:
    """Settle which LayerNorm Protenix takes, before it is imported.

    It compiles a CUDA LayerNorm when it is imported unless LAYERNORM_TYPE says otherwise. Without a GPU or
    a CUDA toolkit that can only fail, so torch's own is taken there. A value that the user has set stays.
    """
    if "LAYERNORM_TYPE" not in os.environ and not (has_nvidia_gpu() and cuda_toolkit()):
        os.environ["LAYERNORM_TYPE"] = "torch"


@cache
def prepare() -> None:
    """Import what Protenix's runner needs, with the right LayerNorm and with its logging kept to itself.

    Raises:
        SetupError: Protenix, or something that it needs, cannot be imported.
    """
    choose_layernorm()
    try:
        with quiet_root_logger(), _compiler_on_stderr(), _single_process():
            import runner.dumper
            import runner.inference  # noqa: F401
    except ImportError as error:
        problem = absence(error) or f"Protenix cannot be imported: {error}; mend with: make install"
        raise SetupError(problem) from error
    except (RuntimeError, OSError) as error:
        if not uses_cuda_layernorm():
            raise
        raise SetupError(
            f"Protenix's CUDA LayerNorm could not be compiled: {error}; "
            "to do without it: export LAYERNORM_TYPE=torch"
        ) from error


def absence(error: Exception) -> str | None:
    """Return what to say where Protenix is not installed and its import failed; None of any other error."""
    name = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    if name.partition(".")[0] not in ("protenix", "runner", "configs"):
        return None
    return f"Protenix is not installed; add it, without the packages that it pins: {ADD_PROTENIX}"


@contextlib.contextmanager
def _single_process() -> Iterator[None]:
    """A process of ours is never one rank of a torchrun job, whatever the shell was left with."""
    left = {name: os.environ.pop(name) for name in _RANK_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(left)


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


@contextlib.contextmanager
def _compiler_on_stderr() -> Iterator[None]:
    """Send what the compiler of the CUDA LayerNorm writes to the descriptor itself to standard error."""
    if not uses_cuda_layernorm():
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def uses_cuda_layernorm() -> bool:
    """Whether Protenix was told to use its CUDA LayerNorm, or not told at all."""
    return os.environ.get("LAYERNORM_TYPE", "fast_layernorm") == "fast_layernorm"


def layernorm_kind() -> str:
    """Which LayerNorm Protenix was told to use, in words."""
    return "Protenix's CUDA kernel (compiled at first use)" if uses_cuda_layernorm() else "torch"
