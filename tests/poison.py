"""Memory that is allocated and not written shows: it is no number, or one far from all that are right."""

from __future__ import annotations

import functools

import torch

# All that give memory as it was. What they call of each other inside of torch they call in C++.
ALLOCATORS = (
    (torch, "empty"),
    (torch, "empty_like"),
    (torch, "empty_strided"),
    (torch.Tensor, "new_empty"),
    (torch.Tensor, "new_empty_strided"),
)


def value_of(dtype: torch.dtype) -> float | int | bool:
    """Return the value that memory of this type is filled with."""
    if dtype.is_floating_point or dtype.is_complex:
        return float("nan")
    return True if dtype == torch.bool else torch.iinfo(dtype).max


def poison(monkeypatch) -> None:
    """Fill whatever is allocated from here on."""
    for where, name in ALLOCATORS:
        monkeypatch.setattr(where, name, _filling(getattr(where, name)))


def _filling(allocate):
    @functools.wraps(allocate)
    def allocate_and_fill(*arguments, **options):
        tensor = allocate(*arguments, **options)
        with torch.no_grad():
            return tensor.fill_(value_of(tensor.dtype))

    return allocate_and_fill
