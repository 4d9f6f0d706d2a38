"""Interruptions, from the keyboard or from a scheduler, that end a run wherever they meet it."""

from __future__ import annotations

import signal
import sys

_AGAIN_S = 0.01


class Interrupted(KeyboardInterrupt):
    """A KeyboardInterrupt under a name of its own.

    Python remembers one that it met in `exec`, which many imports use, and dies of it even if it was caught.
    """


def catch() -> None:
    """Raise Interrupted on SIGINT, unless it is ignored as in a background job of a shell, and on SIGTERM."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _interrupt)
    sys.unraisablehook = _not_raised


def _interrupt(signum: int, frame: object) -> None:
    raise Interrupted


def _not_raised(unraisable: sys.UnraisableHookArgs) -> None:
    """What is raised in a destructor or a callback goes no further: an interruption has to come again."""
    if isinstance(unraisable.exc_value, Interrupted):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
    else:
        sys.__unraisablehook__(unraisable)
