"""Why a run ended, noted in the folder's lock: a full disk has no room for `run.json` or for anything else.

The lock takes its room when the run begins, and what is in a file already can be written over.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from flashbias_fold.predict.account import one_line

_SIZE = 1024
_ENDED = "ended: "
INTERRUPTED = "interrupted"


def note_holder(lock: int) -> None:
    """Note in an open lock who holds it, and take the room for saying how that ends."""
    _fill(lock, f"process {os.getpid()} on {socket.gethostname()}")


def note_end(lock: int, error: BaseException) -> None:
    """Note in an open lock what ended the run."""
    why = one_line(error) if isinstance(error, Exception) else INTERRUPTED
    _fill(lock, _ENDED + why)


def read_end(lock: Path) -> str | None:
    """Return why the last run ended, in one line; None if all was well, or if it could not say."""
    try:
        text = lock.read_text(errors="replace")
    except OSError:
        return None
    return " ".join(text.removeprefix(_ENDED).split()) if text.startswith(_ENDED) else None


def _fill(lock: int, text: str) -> None:
    os.pwrite(lock, text.encode(errors="replace")[: _SIZE - 1].ljust(_SIZE, b"\n"), 0)
    os.fsync(lock)
