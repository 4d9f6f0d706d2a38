"""A band of a matrix, its diagonals near the main one: `(..., rows, 2 * reach + 1)`.

Entry `d` of row `i` stands for column `i + d - reach`; where there is no such column it means nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reach_of(band: Tensor) -> int:
    """How far from the main diagonal it goes."""
    return band.shape[-1] // 2


def diagonals(matrix: Tensor, reach: int) -> Tensor:
    """The band of a matrix ``(..., rows, columns)``; zero where there is no such column."""
    place, inside = _columns(matrix.shape[-2], matrix.shape[-1], reach, matrix.device)
    return matrix.gather(-1, place.expand(*matrix.shape[:-2], *place.shape)).where(inside, 0.0)


def spread(band: Tensor, columns: int, first: int = 0) -> Tensor:
    """The matrix whose band this is, from row `first`, ``(..., rows, columns)``; zero elsewhere."""
    place, inside = _columns(band.shape[-2], columns, reach_of(band), band.device, first)
    matrix = band.new_zeros(*band.shape[:-1], columns)
    return matrix.scatter_add(-1, place.expand(band.shape), band.where(inside, 0.0))


def _columns(
    rows: int, columns: int, reach: int, device: torch.device, first: int = 0
) -> tuple[Tensor, Tensor]:
    """Where each entry of a band stands, somewhere else for those that are nowhere, and which are not."""
    steps = torch.arange(-reach, reach + 1, device=device)
    place = torch.arange(first, first + rows, device=device)[:, None] + steps
    return place.clamp(0, max(columns - 1, 0)), (place >= 0) & (place < columns)
