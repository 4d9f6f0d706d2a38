"""Files that are complete whenever they are seen under their name."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PARTIAL = ".partial"
# Linux's renameat2: paths as given, and the flag that exchanges them.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# A kernel, a sandbox or a file system (NFS, for one) that cannot exchange.
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write beside the file, then rename: a reader, or a run after a crash, sees all of it or nothing.

    Raises:
        OSError: It could not be written; the error names the file, and what was written of it is gone.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        error.filename = str(path)
        # On a full disk the room that it takes is wanted, for saying so.
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an error of input or output within name this path, if it names none, as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2, default=str) + "\n")


def read_json(path: Path) -> Any | None:
    """The value of a JSON file, or None where there is none that can be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def exchange(one: Path, other: Path) -> bool:
    """Exchange what two paths of a file system name, in one step; return False where that is not supported.

    Raises:
        OSError: One of them is not there, or may not be renamed.
    """
    status = _renameat2(os.fsencode(one), os.fsencode(other))
    if status == 0:
        return True
    if status in _NO_EXCHANGE:
        return False
    raise OSError(status, os.strerror(status), str(other))


def _renameat2(one: bytes, other: bytes) -> int:
    """Call the kernel; return 0 or the error's number."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return errno.ENOSYS
    ctypes.set_errno(0)
    failed = function(_AT_FDCWD, one, _AT_FDCWD, other, ctypes.c_uint(_RENAME_EXCHANGE))
    return ctypes.get_errno() if failed else 0


def link_or_copy(source: Path, target: Path) -> None:
    """Make a file, or a symbolic link, known under a second name; copy it where there are no hard links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:
        partial = target.with_name(target.name + PARTIAL)
        shutil.copy2(source, partial, follow_symlinks=False)
        partial.replace(target)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder outlast a power cut, where its file system can promise that."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
