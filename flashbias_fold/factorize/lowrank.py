"""Factors of any bias, computed where it is used: no training, and the error is known.

A randomised range finder: the bias times a few random columns spans nearly what the first singular vectors
span, a second look makes it precise, and the projection on it is the product. What the projection lacks is
known without forming it, since norms of orthogonal parts add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from flashbias_fold.factorize.factors import Factors
from flashbias_fold.factorize.precision import all_digits

# More columns than the rank asks for: the best of a larger space are nearer to the best of all.
OVERSAMPLING = 16
# Looks at the bias from both sides; spectra as flat as noise's need two to come within a tenth of the best.
LOOKS = 2
_SEED = 20250512
_TINY = 1e-30
# Of a Gram matrix in float64 with ones on its diagonal: above its rounding, below that of float32's columns.
_SHIFT = 1e-12


def decompose(
    bias: Tensor, rank: int, *, key_mask: Tensor | None = None, dtype: torch.dtype | None = None
) -> Factors:
    """Find factors of a rank, nearly the best there are.

    No random number of torch's global generators is drawn.

    Args:
        bias: ``(..., H, queries, keys)``.
        rank: How many channels.
        key_mask: Boolean, broadcastable to ``(..., keys)`` without the heads: keys that count.
        dtype: Of the factors; the bias's own by default.
    """
    with all_digits(bias.device):
        matrix = _centred(bias, key_mask)
        left, right = _projection(matrix.values, rank)
        return _factors(bias, matrix, left, right, rank, dtype or bias.dtype)


@dataclass(frozen=True)
class _Matrix:
    """A bias around its rows' means, between -1 and 1.

    Attributes:
        values: Zero at keys that do not count.
        peak: What they are multiplied by, ``(..., H, 1, 1)``.
        keys: How many keys count, ``(..., 1)`` or a number.
        finite: Whether all numbers were, ``(..., H)``.
    """

    values: Tensor
    peak: Tensor
    keys: Tensor | int
    finite: Tensor

    @property
    def energy(self) -> Tensor:
        """The sum of all squares, float64."""
        return torch.linalg.vector_norm(self.values, dim=(-1, -2), dtype=torch.float64).square()


def _centred(bias: Tensor, key_mask: Tensor | None) -> _Matrix:
    finite = torch.isfinite(bias)
    keys: Tensor | int = bias.shape[-1]
    values = bias.float()
    if key_mask is not None:
        counted = key_mask[..., None, None, :]
        keys = key_mask.sum(-1, keepdim=True).clamp(min=1)
        finite = finite | ~counted
        values = values.masked_fill(~(finite & counted), 0.0)
        mean = values.sum(-1, keepdim=True) / keys[..., None, None]
        values = (values - mean).masked_fill_(~counted, 0.0)
    else:
        values = values.masked_fill(~finite, 0.0)
        values = values - values.mean(-1, keepdim=True)
    peak = values.abs().amax((-1, -2), keepdim=True).clamp(min=_TINY)
    return _Matrix(values / peak, peak, keys, finite.all(-1).all(-1))


def _projection(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Orthonormal columns, and the matrix's products with them, which matter most first."""
    width = min(rank + OVERSAMPLING, *matrix.shape[-2:])
    left = _orthonormal(matrix @ random_columns(matrix.shape[-1], width, matrix.device))
    for _ in range(LOOKS - 1):
        left = _orthonormal(matrix @ _orthonormal(matrix.transpose(-1, -2) @ left))
    right = matrix.transpose(-1, -2) @ left
    _, rotation = torch.linalg.eigh((right.transpose(-1, -2) @ right).double())
    rotation = rotation.flip(-1).to(matrix.dtype)
    return left @ rotation, right @ rotation


def _factors(
    bias: Tensor, matrix: _Matrix, left: Tensor, right: Tensor, rank: int, dtype: torch.dtype
) -> Factors:
    left, right = left[..., :rank], right[..., :rank]
    kept = _norms(right)[..., 0, :].double().square().sum(-1)
    lacking = (matrix.energy - kept).clamp(min=0.0) / (matrix.keys * bias.shape[-2])
    error = (lacking.sqrt() * matrix.peak[..., 0, 0]).float()
    # Both sides of about the same size, for dtypes that end early.
    root = (_norms(right) + _TINY).sqrt()
    size = matrix.peak.sqrt()
    q, k = (left * root * size).to(dtype), (right / root * size).to(dtype)
    return Factors(q, k, error.masked_fill(~matrix.finite, float("inf")))


def _norms(columns: Tensor) -> Tensor:
    return torch.linalg.vector_norm(columns, dim=-2, keepdim=True).clamp(min=_TINY)


def _orthonormal(columns: Tensor) -> Tensor:
    """A basis of what the columns span: twice the Cholesky factor of their Gram matrix.

    Where columns depend on each other the shift keeps the first factor real, and what is left of them may
    point anywhere; the second makes it orthogonal to the rest. A column of zeros stays one.
    """
    found = columns.double()
    unit = _SHIFT * torch.eye(columns.shape[-1], dtype=found.dtype, device=found.device)
    for _ in range(2):
        found = found / _norms(found)
        lower, failed = torch.linalg.cholesky_ex(found.transpose(-1, -2) @ found + unit)
        solved = torch.linalg.solve_triangular(lower, found.transpose(-1, -2), upper=False)
        found = torch.where(failed[..., None, None] == 0, solved.transpose(-1, -2), torch.zeros_like(found))
    is_unit = (torch.linalg.vector_norm(found, dim=-2, keepdim=True) - 1.0).abs() < 1e-3
    return torch.where(is_unit, found, torch.zeros_like(found)).to(columns.dtype)


@lru_cache(maxsize=8)
def random_columns(length: int, width: int, device: torch.device) -> Tensor:
    """Of normal numbers, the same each time, so that runs repeat; kept, so that none is drawn again."""
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randn(length, width, generator=generator).to(device)
