"""Factors that are right where it matters: pairs count as much as attention looks at them.

The best product by norm spends its channels on pairs whose softmax weight is nothing. Given how much each
pair weighs, on average over the rows that share the bias, the best product by that measure has no closed
form; but given one side, each place of the other is a small least-squares problem of its own. Taking turns
from the best by norm, one turn of each side gains nearly all there is.

What channels find hardest is mostly near the diagonal: steps from one place to the next, and what is said of
neighbours alone. Within a reach the product need not be right, since a band adds there what it lacks.

What a pair weighs is known well enough from the bias alone: rows differ in their own scores, and over all of
them these smooth what softmax makes of the bias. Weights from rows that were attended gain nothing more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flashbias_fold.factorize.factors import Factors
from flashbias_fold.factorize.lowrank import decompose
from flashbias_fold.factorize.precision import all_digits
from flashbias_kernels.band import diagonals, far

# What a pair weighs at least, against the mean.
FLOOR = 0.05
# How much of the bias the rows' own scores leave to see, on average.
SHARE = 0.75
# Channels that hardly any weight determines stay small.
_RIDGE = 1e-4


def importance(
    bias: Tensor,
    key_mask: Tensor | None = None,
    *,
    share: float | Tensor = SHARE,
    of_keys: float | Tensor = 0.0,
    floor: float | Tensor = FLOOR,
    reach: int = 0,
) -> Tensor:
    """How much attention looks at each pair, as far as the bias tells; for a query that adds up to 1 + floor.

    Args:
        bias: ``(..., H, queries, keys)``.
        key_mask: Boolean, broadcastable to ``(..., keys)`` without the heads: keys that count.
        share: What the bias is multiplied by.
        of_keys: What is added to it, ``(..., H, 1, keys)``.
        floor: What the keys of a query have in common, all together.
        reach: Pairs at most so many places apart weigh nothing; 0 for none.
    """
    scores = bias.float() * share + of_keys
    if key_mask is None:
        weights = scores.softmax(-1) + floor / bias.shape[-1]
    else:
        counted = key_mask[..., None, None, :]
        weights = scores.masked_fill(~counted, float("-inf")).softmax(-1).nan_to_num(0.0)
        weights = weights + counted * floor / counted.sum(-1, keepdim=True).clamp(min=1)
    return weights * far(bias, reach) if reach else weights


def far_alone(bias: Tensor, reach: int, key_mask: Tensor | None = None) -> Tensor:
    """The bias with the mean of a query's others in place of pairs at most `reach` places apart."""
    if not reach:
        return bias
    beyond = far(bias, reach)
    seen = beyond if key_mask is None else beyond & key_mask[..., None, None, :]
    mean = bias.float().where(seen, 0.0).sum(-1, keepdim=True) / seen.sum(-1, keepdim=True).clamp(min=1)
    return bias.where(beyond, mean.to(bias.dtype))  # of the dtype that factors are to have


def computed(
    bias: Tensor, rank: int, last: Factors | None = None, key_mask: Tensor | None = None, reach: int = 0
) -> Factors:
    """Factors of a rank: from the last where these are of the same shape, else from the best by norm.

    Args:
        bias: As for `refit`, and all else too.
        rank: How many channels.
        last: Those of the cycle before, which are near already if they are of the same pairs.
    """
    if last is None or last.k.shape[:-1] != bias.shape[:-1]:
        last = decompose(far_alone(bias, reach, key_mask), rank, key_mask=key_mask)
    return refit(bias, last, key_mask, reach)


def refit(bias: Tensor, factors: Factors, key_mask: Tensor | None = None, reach: int = 0) -> Factors:
    """Factors of the same rank that are nearer where attention looks.

    Args:
        bias: ``(..., H, queries, keys)``, finite.
        factors: Where to start, as `decompose` gives them, or those of nearly the same bias.
        key_mask: Boolean, broadcastable to ``(..., keys)`` without the heads: keys that count.
        reach: Pairs at most so many places apart keep their bias, in a band; 0 for none.
    """
    with all_digits(bias.device):
        values, weights = bias.float(), importance(bias, key_mask, reach=reach)
        q, k, constant = turn(values, weights, factors.k.float())
        q, k = q.to(factors.q.dtype), k.to(factors.k.dtype)
        rest = values - constant - q.float() @ k.float().transpose(-1, -2)
        total = weights.sum((-1, -2)).clamp(min=1e-30)
        error = ((weights * rest.square()).sum((-1, -2)) / total).sqrt()
    if factors.error is not None:
        error = torch.maximum(error, torch.where(factors.error.isinf(), factors.error, 0.0))
    return Factors(q, k, error, diagonals(rest, reach).to(q.dtype) if reach else None)


def turn(values: Tensor, weights: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The queries' side for a side of the keys, and then the keys' side again; and each query's constant."""
    k = unit(k)
    solved = _solve(values, weights, torch.cat([torch.ones_like(k[..., :1]), k], -1))
    constant, q = solved[..., :1], solved[..., 1:]
    q = unit(q)
    k = _solve((values - constant).transpose(-1, -2), weights.transpose(-1, -2), q)
    # Both sides of about the same size, for dtypes that end early.
    root = _size(k).sqrt()
    return q * root, k / root, constant


def unit(columns: Tensor) -> Tensor:
    """Channels with a mean square of 1."""
    return columns / _size(columns)


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
