"""Text and numbers as HTML.

Each number on the page is a `<data>` element whose `value` is the report's own, so that what is shown can be
traced back to it; a table sorts by the same value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

_MINUS = "\N{MINUS SIGN}"
_NOTHING = "\N{EN DASH}"
# What HTML cannot hold, even escaped: control characters, and halves of surrogate pairs.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def text(value: object) -> str:
    """Escaped for elements and for quoted attributes."""
    return escape(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(value)), quote=True)


def name(value: object) -> str:
    """A name from outside; one that is written from right to left does not turn what follows it."""
    return f"<bdi>{text(value)}</bdi>"


def score(value: float) -> str:
    """A value between 0 and 1."""
    return f"{value:.3f}"


def change(value: float) -> str:
    """A small difference: two digits, however small."""
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        digits, exponent = f"{value:.1e}".split("e")
        shown = f"{digits}e{int(exponent)}"
    else:
        shown = f"{value:.0f}" if abs(value) >= 10 else f"{value:#.2g}"
    return shown.replace("-", _MINUS)


def one_decimal(value: float) -> str:
    """A pLDDT."""
    return f"{value:.1f}".replace("-", _MINUS)


def two_decimals(value: float) -> str:
    """A distance in Angstroms, or a ratio."""
    return f"{value:.2f}".replace("-", _MINUS)


def seconds(value: float) -> str:
    """Seconds, with three digits or more."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def gibibytes(value: float) -> str:
    """Bytes, in GiB without the unit."""
    return f"{value / 2**30:.2f}"


def whole(value: float) -> str:
    """A count."""
    return f"{value:.0f}"


def data(value: float | None, shown: Callable[[float], str]) -> str:
    """A number of the report.

    Raises:
        ValueError: It is not finite, which JSON cannot hold.
    """
    if value is None:
        return f'<span class="nothing">{_NOTHING}</span>'
    if not math.isfinite(value):
        raise ValueError(f"expected a number that JSON can hold, got {value}")
    return f'<data value="{value!r}">{shown(value)}</data>'


def interval(found: Mapping[str, Any] | None, shown: Callable[[float], str]) -> str:
    """A mean with its interval below it."""
    if found is None:
        return data(None, shown)
    low, high = data(found["low"], shown), data(found["high"], shown)
    return f'{data(found["mean"], shown)}<span class="range">{low} to {high}</span>'
