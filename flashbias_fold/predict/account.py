"""What a run says of itself and of what went wrong: when, where, with which versions, and why not."""

from __future__ import annotations

import datetime
import errno
import platform
import traceback
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from flashbias_fold import __version__
from flashbias_fold.errors import FlashbiasError

# The next job would meet these too.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_REPORTED_VERSIONS = ("protenix", "torch", "triton", "numpy", "rdkit", "biotite", "cuequivariance-torch")


def one_line(error: Exception) -> str:
    """What went wrong, as a user reads it."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, FlashbiasError) else f"unexpected {type(error).__name__}: {text}"


def error_json(error: Exception) -> dict[str, Any]:
    """What `error.json` holds."""
    known = isinstance(error, FlashbiasError)
    kind = "file" if isinstance(error, OSError) else "unexpected"
    return {
        "error": one_line(error),
        "kind": error.kind if isinstance(error, FlashbiasError) else kind,
        "file": getattr(error, "file", None),
        "job": getattr(error, "job", None),
        "field": getattr(error, "field", None),
        # For whoever has to mend it; a user's own mistake needs no trace.
        "trace": None if known and error.__cause__ is None else traceback.format_exception(error),
        "versions": versions(),
    }


def difference(made: dict[str, Any], wanted: dict[str, Any]) -> str:
    """In which settings results differ from what is wanted, in words; nothing if in none."""
    changed = [key for key in wanted if made.get(key) != wanted[key]]
    if not changed:
        return ""
    digests = {"input_sha256": "another input", "weights": "other weights", "plan": "another plan"}
    shown = ", ".join(digests.get(key, f"{key} {made.get(key)} instead of {wanted[key]}") for key in changed)
    return f"made with {shown}"


def device_name(device: Any) -> str:
    """The device as a reader knows it."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def versions() -> dict[str, str | None]:
    """Of what results depend on; None where it is not installed."""
    found: dict[str, str | None] = {"flashbias-fold": __version__, "python": platform.python_version()}
    for name in _REPORTED_VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def now() -> str:
    """Date and time."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
