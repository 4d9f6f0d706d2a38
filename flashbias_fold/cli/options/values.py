"""What the values of options may be: types for argparse that say what they expected."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

_MOST_SHOWN = 60  # letters of a wrong value


def path(text: str) -> Path:
    """A path, which is not the empty text."""
    # What `"$UNSET"` gives; Path would make the working directory of it.
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty string")
    return Path(text)


def seeds(text: str) -> tuple[int, ...]:
    """Seeds, separated by commas."""
    if not re.fullmatch(r"\s*\d{1,20}\s*(,\s*\d{1,20}\s*)*", text, re.ASCII):
        raise argparse.ArgumentTypeError(
            f"expected whole numbers separated by commas, such as 101,102, got '{text[:_MOST_SHOWN]}'"
        )
    return tuple(int(seed) for seed in text.split(","))


def count(text: str) -> int:
    """A whole number from 1."""
    if not re.fullmatch(r"0{0,9}[1-9]\d{0,8}", text, re.ASCII):
        raise argparse.ArgumentTypeError(
            f"expected a whole number from 1 to 999999999, got '{text[:_MOST_SHOWN]}'"
        )
    return int(text)


def count_or_none(text: str) -> int:
    """A whole number from 0."""
    return 0 if re.fullmatch(r"0{1,9}", text, re.ASCII) else count(text)


def numbers(most: int) -> Callable[[str], tuple[int, ...]]:
    """A type of different numbers, separated by commas, in the order that they are given in."""

    def several(text: str) -> tuple[int, ...]:
        if re.fullmatch(r"\s*\d{1,9}\s*(,\s*\d{1,9}\s*)*", text, re.ASCII):
            found = tuple(dict.fromkeys(int(number) for number in text.split(",")))
            if all(1 <= number <= most for number in found):
                return found
        raise argparse.ArgumentTypeError(
            f"expected whole numbers from 1 to {most} separated by commas, such as 128,256, "
            f"got '{text[:_MOST_SHOWN]}'"
        )

    return several


def names(choices: Collection[str], endings: tuple[str, ...] = ()) -> Callable[[str], tuple[str, ...]]:
    """A type of names, separated by commas, each once, in the order that they are given in.

    Args:
        choices: What they may be.
        endings: How the names of files end that may stand beside them, for people and in small letters.
    """
    files = f" and files {', '.join(endings)}" if endings else ""

    def several(text: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
        for name in found:
            if name not in choices and not name.lower().endswith(endings or ("\0",)):
                raise argparse.ArgumentTypeError(
                    f"expected some of {', '.join(choices)}{files}, separated by commas, "
                    f"got '{name[:_MOST_SHOWN]}'"
                )
        return found

    return several


def listed(numbers: Sequence[int]) -> str:
    """Numbers as such a type reads them."""
    return ",".join(map(str, numbers))
