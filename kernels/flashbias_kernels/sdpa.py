"""The portable way: torch's fused attention, with the bias as a mask or in additional channels."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from flashbias_kernels.band import spread
from flashbias_kernels.factors import Factors
from flashbias_kernels.problem import Problem, broadcast
from flashbias_kernels.reference import scores_of
from flashbias_kernels.strides import mergeable

# Lower than any score can be: a key with this in a channel of its own has no weight.
_FORBIDDEN = {torch.float16: -6e4}
_FORBIDDEN_ELSE = -1e30
_SCORES_IN_MEMORY = 2**24  # where the sums of their exponentials are wanted


def attend(problem: Problem) -> Tensor:
    """The output; what rows of a triangle share stays shared, and nothing as large as all scores is made."""
    factors, channels = _factors(problem), []
    if factors is not None and not problem.shares_factors:
        channels.append(factors)
        factors = None
    bias = _bias(problem, factors)
    allowed = _needed(problem.allowed_keys)
    some_key = None
    if bias is None:
        mask = allowed
        some_key = None if allowed is None else allowed.any(-1, keepdim=True)
    elif allowed is None or broadcast("bias and mask", bias.shape, allowed.shape) == bias.shape:
        mask = bias if allowed is None else bias.masked_fill(~allowed, -math.inf)
        some_key = (mask > -math.inf).any(-1, keepdim=True)
    else:  # together they would be as large as all scores
        mask = bias
        forbidden = _FORBIDDEN.get(problem.q.dtype, _FORBIDDEN_ELSE)
        closed = (~allowed).to(problem.q.dtype).transpose(-1, -2) * forbidden
        channels.append((problem.q.new_ones(1, 1, 1), closed))
        open_pairs = (bias > -math.inf).float()
        some_key = open_pairs @ allowed.float().transpose(-1, -2) > 0
    out = _attend(problem, mask, channels)
    if some_key is not None:  # torch's kernels disagree about a query without a key, so it is decided here
        out = out.masked_fill(~some_key, 0.0)
    return out if problem.gate is None else out * torch.sigmoid(problem.gate)


def _needed(allowed: Tensor | None) -> Tensor | None:
    """The mask, or none where it forbids nothing: on a CPU a look costs less than a mask."""
    if allowed is None or allowed.device.type != "cpu" or torch.compiler.is_compiling():
        return allowed
    return None if bool(allowed.all()) else allowed


def log_sum_exp(problem: Problem) -> Tensor:
    """The logarithm of the sum of each query's exponentials, which torch's kernels keep to themselves."""
    parts = []
    lines = max(1, _SCORES_IN_MEMORY // (math.prod((*problem.leading, problem.heads)) * problem.keys))
    for start in range(0, problem.queries, lines):
        scores = scores_of(problem, torch.promote_types(problem.q.dtype, torch.float32), start, start + lines)
        parts.append(torch.logsumexp(scores, -1))
    return torch.cat(parts, -1)


def _factors(problem: Problem) -> Factors | None:
    q_factor, k_factor = problem.live_q_factor, problem.k_factor
    return None if q_factor is None or k_factor is None else (q_factor, k_factor)


def _bias(problem: Problem, factors: Factors | None) -> Tensor | None:
    """What is added to the scores and has a small shape: bias, band, these factors, and the causal mask."""
    bias = problem.bias
    if factors is not None:
        wide = torch.promote_types(problem.q.dtype, torch.float32)
        product = factors[0].to(wide) @ factors[1].to(wide).transpose(-1, -2)
        bias = product if bias is None else product + _from_top(bias.to(wide))
    if problem.band is not None:
        near = spread(problem.band, problem.keys)
        bias = near if bias is None else bias + near
    pairs = problem.allowed_pairs
    if pairs is not None:
        bias = torch.zeros(pairs.shape, device=pairs.device) if bias is None else bias
        bias = bias.masked_fill(~pairs, -math.inf)
    return None if bias is None else _taken(bias, problem.q.dtype)


def _taken(bias: Tensor, dtype: torch.dtype) -> Tensor:
    """The bias in a dtype that torch takes beside queries of another: on a CPU float32, on a GPU the same."""
    if torch.finfo(bias.dtype).bits <= torch.finfo(dtype).bits:
        return bias.to(dtype)
    if bias.device.type == "cpu":
        return bias.float()
    return _from_top(bias).to(dtype)  # so that the digits are where they count


def _from_top(bias: Tensor) -> Tensor:
    """The bias less the largest of each row, which softmax does not see: what counts is near zero then."""
    top = bias.amax(-1, keepdim=True)
    return bias - top.where(top > -math.inf, 0.0)


def _attend(problem: Problem, mask: Tensor | None, channels: list[Factors]) -> Tensor:
    q, k, v = problem.q, problem.k, problem.v
    if not channels:
        return _in_four_dimensions(problem, q, k, v, mask, problem.scale)
    wide = _widest(q, *(channel for pair in channels for channel in pair))
    q, k, v = q.to(wide), k.to(wide), v.to(wide)
    mask = mask if mask is None or mask.dtype == torch.bool else mask.to(wide)
    q = _with_channels(q * problem.scale, [q_channel.to(wide) for q_channel, _ in channels])
    k = _with_channels(k, [k_channel.to(wide) for _, k_channel in channels])
    # torch's fast kernels want one size for all, and on a GPU a multiple of 8.
    size = -(-max(q.shape[-1], v.shape[-1]) // 8) * 8
    q, k, wide_v = (pad(t, (0, size - t.shape[-1])) for t in (q, k, v))
    out = _in_four_dimensions(problem, q, k, wide_v, mask, 1.0)
    return out[..., : v.shape[-1]].to(problem.q.dtype)


def _in_four_dimensions(
    problem: Problem, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """Torch's attention, whose fast kernels take one leading dimension; with more it makes all scores."""
    if mask is not None and not torch.is_grad_enabled():
        mask = mask.detach()  # a parameter's gradient, which nobody wants here, would also take the slow way
    if len(problem.leading) < 2:
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    given = [q, k, v] if mask is None else [q, k, v, mask[(None,) * (3 - mask.dim())]]
    expanded = [tensor.expand(*problem.leading, *tensor.shape[-3:]) for tensor in given]
    groups = mergeable(problem.leading, [tensor.stride() for tensor in expanded])
    sizes = [math.prod(problem.leading[dim] for dim in group) for group in groups] or [1]
    merged = [tensor.reshape(*sizes, *tensor.shape[-3:]) for tensor in expanded]
    parts = []
    for index in product(*map(range, sizes[:-1])):
        q, k, v, *masks = (tensor[index] for tensor in merged)
        attn_mask = masks[0] if masks else None
        parts.append(scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, scale=scale))
    out = torch.stack(parts) if len(parts) > 1 else parts[0]
    return out.reshape(*problem.leading, *out.shape[-3:])


def _widest(*tensors: Tensor) -> torch.dtype:
    return max((t.dtype for t in tensors), key=lambda dtype: torch.finfo(dtype).bits)


def _with_channels(tensor: Tensor, channels: list[Tensor]) -> Tensor:
    shape = broadcast("channels", tensor.shape[:-1], *(c.shape[:-1] for c in channels))
    return torch.cat([t.expand(*shape, t.shape[-1]) for t in (tensor, *channels)], -1)
