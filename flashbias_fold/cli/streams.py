"""Standard output and standard error as they come: closed, full, or with nobody left to read them."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


def settle() -> None:
    """Open what the caller has closed, and make sure that any text can be printed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # Else the next file that is opened gets the free number, and what a library says lands in it.
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 (for as long as we live)
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            # A path need not be text, and a terminal need not know every letter.
            stream.reconfigure(errors="backslashreplace")


def say(text: str, end: str = "\n") -> None:
    """Print to standard output. A reader that has gone is no error: the work is done.

    Raises:
        OSError: It cannot be written, on a full disk for instance.
    """
    with _handed_over(sys.stdout):
        print(text, end=end)


def complain(line: str = "") -> None:
    """Print to standard error, or fail in silence; without a line, hand over what was printed before."""
    with contextlib.suppress(OSError), _handed_over(sys.stderr):
        print(line, end="\n" if line else "", file=sys.stderr)


@contextlib.contextmanager
def _handed_over(stream: TextIO) -> Iterator[None]:
    try:
        yield
        stream.flush()
    except OSError as error:
        # Python would try again when it exits, and fail with words and a status of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(error, BrokenPipeError):
            raise OSError(error.errno, error.strerror, "standard output") from error
