"""Factors of biases that have a closed form or never change: known beforehand, with what they lack.

`flashbias_kernels.factors` has the forms; here they state their error as every other way does. It is
measured, not assumed: points that are far apart leave float32 few digits for those that are near.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flashbias_fold.factorize.factors import Factors
from flashbias_kernels import factors as forms

# What float32 cannot tell from nothing.
_ROUNDING = 2.0**-24


def alibi(slopes: Tensor, queries: int, keys: int) -> Factors:
    """ALiBi: ``slope * (j - i)`` for query `i` and key `j`, rank 2.

    Args:
        slopes: One for each head, ``(..., H)``.
        queries: How many queries.
        keys: How many keys.
    """
    q, k = forms.alibi(torch.ones(1, device=slopes.device), queries, keys)
    slope = slopes.float()
    # The rounded part of a query is a constant of its row: what is left is that of slopes with more digits.
    spread = math.sqrt((keys**2 - 1) / 12)
    error = (slopes.double() - slope.double()).abs() * spread
    return _checked(slope[..., None, None] * q, k, error)


def squared_distance(x: Tensor, y: Tensor, weight: Tensor) -> Factors:
    """``-weight * |x_i - y_j|^2``, rank `dim + 2` (5 in space).

    Args:
        x: Where the queries are, ``(..., queries, dim)``.
        y: Where the keys are, ``(..., keys, dim)``.
        weight: One for each head, ``(..., H)``.
    """
    # Before they are float32: the digits of a place far from the origin are those of its distances.
    centre = y.double().mean(-2, keepdim=True)
    x, y = x.double() - centre, y.double() - centre
    q, k = forms.squared_distance(x, y, weight.new_ones(1))
    q = weight.float()[..., None, None] * q
    right_q, right_k = _in_double(x.unsqueeze(-3), y.unsqueeze(-3), weight.double()[..., None, None])
    return _checked(q, k, _difference(q.double(), k.double(), right_q, right_k))


def constant(bias: Tensor, rank: int | None = None, tolerance: float | None = None) -> Factors:
    """The best factors of a bias that never changes, as a trained table is: for use offline.

    Args:
        bias: ``(..., H, queries, keys)``.
        rank: How many channels at most; by default as many as there are.
        tolerance: Take for each head the least number of channels that leaves at most this share of the
            bias's norm (around its rows' means). Without it, and without a rank, only float32's rounding
            is left.
    """
    finite = torch.isfinite(bias).all(-1).all(-1)
    values = bias.double().masked_fill(~finite[..., None, None], 0.0)
    values = values - values.mean(-1, keepdim=True)
    most, ranks = min(bias.shape[-2:] if rank is None else (rank, *bias.shape[-2:])), None
    if rank is None or tolerance is not None:
        ranks = _ranks(values, _ROUNDING if tolerance is None else tolerance).clamp(max=most)
        most = int(ranks.max())
    q, k = forms.table(values, most)
    if ranks is not None:  # channels that a head does not need are none
        q = q * (torch.arange(most, device=q.device) < ranks[:, None, None])
    rest = values - q.double() @ k.double().transpose(-1, -2)
    rest = rest - rest.mean(-1, keepdim=True)
    error = torch.linalg.vector_norm(rest, dim=(-1, -2)) / math.sqrt(rest.shape[-1] * rest.shape[-2])
    return _checked(q, k, error.masked_fill(~finite, torch.inf), ranks)


def _checked(q: Tensor, k: Tensor, error: Tensor, ranks: Tensor | None = None) -> Factors:
    """Both sides with all their dimensions; what float32 has no room for has no factors."""
    leading = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    error = torch.where(error.isfinite(), error, torch.inf).float()
    return Factors(
        q.expand(*leading, *q.shape[-2:]), k.expand(*leading, *k.shape[-2:]), error.expand(leading), ranks
    )


def _in_double(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of squared distances with the digits that float32 lacks, to tell what it lacks."""
    ones_x, ones_y = torch.ones_like(x[..., :1]), torch.ones_like(y[..., :1])
    q = weight * torch.cat([-x.square().sum(-1, keepdim=True), 2 * x, -ones_x], -1)
    return q, torch.cat([ones_y, y, y.square().sum(-1, keepdim=True)], -1)


def _difference(q: Tensor, k: Tensor, right_q: Tensor, right_k: Tensor) -> Tensor:
    """Root of the mean square between two products that are nearly the same, around the rows' means.

    Without forming one: the difference is a product too, of small numbers with these, and the norm of a
    product is in the Gram matrices of its sides.
    """
    left = torch.cat([q - right_q, right_q.expand(q.shape)], -1)
    right = torch.cat([k, k - right_k], -1)
    right = right - right.mean(-2, keepdim=True)
    squares = (left.transpose(-1, -2) @ left) * (right.transpose(-1, -2) @ right)
    return (squares.sum((-1, -2)).clamp(min=0.0) / (q.shape[-2] * k.shape[-2])).sqrt()


def _ranks(values: Tensor, tolerance: float) -> Tensor:
    """How many channels each head needs, int32 ``(H,)``: the most of all that share the head."""
    singular = torch.linalg.svdvals(values)
    size = torch.linalg.vector_norm(singular, dim=-1, keepdim=True).clamp(min=torch.finfo(torch.double).tiny)
    left = (singular / size).square().flip(-1).cumsum(-1).flip(-1)  # over after 0, 1, 2... channels
    needed = (left > tolerance**2).sum(-1)
    return needed.reshape(-1, needed.shape[-1]).amax(0).clamp(min=1).to(torch.int32)
