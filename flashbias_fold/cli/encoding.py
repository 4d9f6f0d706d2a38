"""Locales in which Python cannot write the name of every job as a path."""

from __future__ import annotations

import os
import sys

_UTF8_MODE = "utf8=1"


def use_utf8() -> None:
    """Start this process anew in Python's UTF-8 mode, unless its paths are in UTF-8 already.

    A file system holds any name. It is the locale, such as C or one of ISO 8859, by which Python refuses
    some, and that is settled when the interpreter starts. What is printed stays in the terminal's encoding.
    """
    if sys.getfilesystemencoding() == "utf-8" or _UTF8_MODE in sys.orig_argv or not sys.executable:
        return
    if sys.stderr is not None:
        os.environ.setdefault("PYTHONIOENCODING", sys.stderr.encoding)
    os.environ["PYTHONUTF8"] = "1"  # for the processes that this one starts
    os.execv(sys.executable, [sys.executable, "-X", _UTF8_MODE, *sys.orig_argv[1:]])
