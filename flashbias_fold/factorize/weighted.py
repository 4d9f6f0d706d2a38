"""Factors that are right where it matters: pairs count as much as attention looks at them.

The best product by norm spends its channels on pairs whose softmax weight is nothing. Given how much each
pair weighs, on average over the rows that share the bias, the best product by that measure has no closed
form; but given one side, each place of the other is a small least-squares problem of its own. Taking turns
from the best by norm, one turn of each side gains nearly all there is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flashbias_fold.factorize.factors import Factors

# What a pair weighs at least, against the mean: the rows that were looked at are not all there are.
FLOOR = 0.05
# Channels that hardly any weight determines stay small.
_RIDGE = 1e-4


def refit(bias: Tensor, weights: Tensor, factors: Factors) -> Factors:
    """Factors of the same rank that are nearer where the weights are.

    Args:
        bias: ``(..., H, queries, keys)``, finite.
        weights: As large as the bias, not negative: zero for keys that do not count.
        factors: Where to start, as `decompose` gives them.
    """
    with torch.autocast(bias.device.type, enabled=False):
        values, weights = bias.float(), _with_floor(weights.float())
        k = _unit(factors.k.float())
        ones = torch.ones_like(k[..., :1])
        solved = _solve(values, weights, torch.cat([ones, k], -1))
        constant, q = solved[..., :1], solved[..., 1:]
        size = _size(q)
        q = q / size
        k = _solve((values - constant).transpose(-1, -2), weights.transpose(-1, -2), q)
        rest = values - constant - q @ k.transpose(-1, -2)
        total = weights.sum((-1, -2)).clamp(min=1e-30)
        error = ((weights * rest.square()).sum((-1, -2)) / total).sqrt()
        root = _size(k).sqrt()
        q, k = q * root, k / root
    error = torch.maximum(error, torch.where(factors.error.isinf(), factors.error, 0.0))
    return Factors(q.to(factors.q.dtype), k.to(factors.k.dtype), error, factors.ranks)


def _with_floor(weights: Tensor) -> Tensor:
    """Each row's weights add up to one before, and some more after; what weighs nothing does not then."""
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)
    counted = (weights.sum(-2, keepdim=True) > 0).to(weights.dtype)
    return weights + FLOOR * counted / counted.sum(-1, keepdim=True).clamp(min=1)


def _solve(values: Tensor, weights: Tensor, channels: Tensor) -> Tensor:
    """For each row, what its channels are multiplied by to come nearest to its values, as the weights say."""
    width = channels.shape[-1]
    squares = (channels.unsqueeze(-1) * channels.unsqueeze(-2)).flatten(-2)
    gram = (weights @ squares).unflatten(-1, (width, width))
    ridge = _RIDGE * torch.eye(width, dtype=gram.dtype, device=gram.device)
    lower, _ = torch.linalg.cholesky_ex(gram + ridge)
    right = (weights * values) @ channels
    return torch.cholesky_solve(right.unsqueeze(-1), lower).squeeze(-1)


def _size(columns: Tensor) -> Tensor:
    """Root of the mean square of each channel."""
    return columns.square().mean(-2, keepdim=True).sqrt().clamp(min=1e-20)


def _unit(columns: Tensor) -> Tensor:
    return columns / _size(columns)
