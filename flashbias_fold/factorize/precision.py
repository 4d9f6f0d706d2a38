"""Arithmetic with all the digits that a type has: least squares do not forgive fewer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def all_digits(device: torch.device) -> Iterator[None]:
    """Neither autocast nor TF32, which Protenix switches on, shortens what is computed here."""
    matmul = torch.backends.cuda.matmul
    shortened = matmul.allow_tf32
    try:
        matmul.allow_tf32 = False
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.allow_tf32 = shortened
