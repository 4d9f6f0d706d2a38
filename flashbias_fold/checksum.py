"""The checksum kept beside a downloaded file: `NAME.pt.sha256`, in the format of ``sha256sum``.

Hashing a checkpoint of 1.5 GB takes seconds, so the file also notes, in a comment that ``sha256sum -c``
skips, the size and modification time at which the content last agreed. While both are unchanged,
:func:`verify` does not read the file again: it finds a replaced, cut or rewritten file, and leaves silent
decay of the disk to ``sha256sum -c``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
from pathlib import Path

from flashbias_fold.errors import SetupError

_ENTRY = re.compile(r"^([0-9a-f]{64}) [ *]", re.MULTILINE | re.IGNORECASE)
_QUICKLY_HASHED = 64 * 2**20


def sidecar(path: Path) -> Path:
    """Where the checksum of ``path`` is kept."""
    return path.with_name(path.name + ".sha256")


def keep(path: Path, content: Path) -> None:
    """Keep the checksum of ``content``, a complete file that is about to be renamed to ``path``."""
    with content.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    _write(path, digest, _state(content))


def identify(path: Path) -> str:
    """What tells ``path`` from another file: its checksum where kept or quickly made, else its size."""
    kept = sidecar(path)
    entry = _ENTRY.search(kept.read_text(encoding="utf-8", errors="replace")) if kept.exists() else None
    if entry is not None:
        return f"sha256 {entry[1].lower()}"
    size = path.stat().st_size
    if size > _QUICKLY_HASHED:
        return f"{size} bytes"
    with path.open("rb") as handle:
        return f"sha256 {hashlib.file_digest(handle, 'sha256').hexdigest()}"


def verify(path: Path) -> None:
    """Raise SetupError if the content of ``path`` is not what its kept checksum says.

    A file without a checksum, placed by hand or by Protenix, has nothing to be compared with and passes.
    """
    kept = sidecar(path)
    if not kept.exists():
        return
    text = kept.read_text(encoding="utf-8", errors="replace")
    entry = _ENTRY.search(text)
    if entry is None:
        raise SetupError(f"{kept} holds no SHA-256 checksum: remove it, or write it with sha256sum")
    if _state(path) in text.splitlines():
        return
    expected = entry[1].lower()
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != expected:
        remove = f"rm {shlex.quote(str(path))} {shlex.quote(str(kept))}"
        raise SetupError(
            f"{path} is not the file that its checksum {kept} was kept for; download it again with: "
            f"{remove} && flashbias-fold fetch {_fetch_name(path)} "
            f"(or remove only {kept.name}, if the change is yours)"
        )
    # In a shared read-only folder the note cannot be kept, and every load hashes.
    with contextlib.suppress(OSError):
        _write(path, expected, _state(path))


def _state(path: Path) -> str:
    stat = path.stat()
    return f"# agreed at size {stat.st_size}, mtime_ns {stat.st_mtime_ns}"


def _write(path: Path, digest: str, state: str) -> None:
    kept = sidecar(path)
    # A name of its own for each process: those of one job load, and note this, at the same moment.
    beside = kept.with_name(f"{kept.name}.{os.getpid()}")
    beside.write_text(f"{digest}  {path.name}\n{state}\n", encoding="utf-8")
    beside.replace(kept)


def _fetch_name(path: Path) -> str:
    """What ``flashbias-fold fetch`` calls this file: the checkpoint's name, or `components`."""
    return path.stem if path.suffix == ".pt" else path.name.partition(".")[0]
