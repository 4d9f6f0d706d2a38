"""How long the tests are: what `make test` runs in its time, and the same in full for `make test-long`."""

from __future__ import annotations

import os
from typing import TypeVar

import pytest

IN_FULL = os.environ.get("FLASHBIAS_FOLD_LONG_TESTS") == "1"
only_in_full = pytest.mark.skipif(not IN_FULL, reason="for make test-long")

T = TypeVar("T")


def at_length(short: T, full: T) -> T:
    """Return one or the other: a count of examples or of jobs, or the cases to try."""
    return full if IN_FULL else short
