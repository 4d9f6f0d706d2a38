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
    rows = torch.arange(matrix.shape[-2], device=matrix.device)
    place, inside = _columns(rows, matrix.shape[-1], reach)
    return matrix.gather(-1, place.expand(*matrix.shape[:-2], *place.shape)).where(inside, 0.0)


def spread(band: Tensor, columns: int, rows: Tensor | None = None) -> Tensor:
    """The matrix whose band this is, ``(..., rows, columns)``, zero elsewhere; `rows` are those of a part."""
    rows = torch.arange(band.shape[-2], device=band.device) if rows is None else rows
    place, inside = _columns(rows, columns, reach_of(band))
    matrix = band.new_zeros(*band.shape[:-1], columns)
    return matrix.scatter_add(-1, place.expand(band.shape), band.where(inside, 0.0))


def far(matrix: Tensor, reach: int) -> Tensor:
    """Which places of a matrix ``(..., rows, columns)`` are beyond the band, ``(rows, columns)``."""
    rows, columns = (torch.arange(size, device=matrix.device) for size in matrix.shape[-2:])
    return (rows[:, None] - columns).abs() > reach


def _columns(rows: Tensor, columns: int, reach: int) -> tuple[Tensor, Tensor]:
    """Where each entry of a band stands, somewhere else for those that are nowhere, and which are not."""
    place = rows[:, None] + torch.arange(-reach, reach + 1, device=rows.device)
    return place.clamp(0, max(columns - 1, 0)), (place >= 0) & (place < columns)
