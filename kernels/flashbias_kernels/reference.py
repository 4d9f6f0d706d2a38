"""The definition, written out: what every fast path is compared with."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from flashbias_kernels.band import spread
from flashbias_kernels.problem import Problem, check


@overload
def reference_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    dtype: torch.dtype = torch.float64,
    return_lse: Literal[False] = False,
    **options: Any,
) -> Tensor: ...


@overload
def reference_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    dtype: torch.dtype = torch.float64,
    return_lse: Literal[True],
    **options: Any,
) -> tuple[Tensor, Tensor]: ...


def reference_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    dtype: torch.dtype = torch.float64,
    return_lse: bool = False,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """`biased_attention` with all scores in memory, computed and returned in `dtype`."""
    out, lse = attend(check(q, k, v, **options), dtype)
    return (out, lse) if return_lse else out


def attend(problem: Problem, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The output and, for each query, the logarithm of the sum of its exponentials: -inf without a key."""
    scores = scores_of(problem, dtype)
    # A row without a key has no maximum; its weights are zero, not NaN.
    top = scores.amax(-1, keepdim=True).clamp_min(torch.finfo(dtype).min)
    weights = torch.exp(scores - top)
    total = weights.sum(-1, keepdim=True)
    out = (weights @ problem.v.to(dtype)) / total.where(total > 0, 1.0)
    if problem.gate is not None:
        out = out * torch.sigmoid(problem.gate.to(dtype))
    return out, (top + total.log()).squeeze(-1)


def scores_of(problem: Problem, dtype: torch.dtype, first: int = 0, end: int | None = None) -> Tensor:
    """The scores of the queries from `first` to before `end`, -inf where a key may not be attended."""
    lines = slice(first, end)
    scores = problem.q[..., lines, :].to(dtype) @ problem.k.to(dtype).transpose(-1, -2) * problem.scale
    q_factor = problem.live_q_factor
    if q_factor is not None and problem.k_factor is not None:
        scores = scores + q_factor[..., lines, :].to(dtype) @ problem.k_factor.to(dtype).transpose(-1, -2)
    if problem.bias is not None:
        bias = problem.bias.expand(*problem.bias.shape[:-2], problem.queries, problem.keys)
        scores = scores + bias[..., lines, :].to(dtype)
    if problem.band is not None:
        places = torch.arange(problem.queries, device=problem.q.device)[lines]
        scores = scores + spread(problem.band[..., lines, :].to(dtype), problem.keys, places)
    if problem.allowed_keys is not None:
        scores = scores.masked_fill(~problem.allowed_keys, float("-inf"))
    if problem.allowed_pairs is not None:
        scores = scores.masked_fill(~problem.allowed_pairs[lines], float("-inf"))
    return scores
