"""The Triton kernels: what they can do, the output, and the gradients."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from importlib.util import find_spec

import torch
from torch import Tensor

from flashbias_kernels import launch
from flashbias_kernels.band import diagonals, reach_of, spread
from flashbias_kernels.operands import (
    KEY_PARTS,
    PRODUCTS,
    QUERY_PARTS,
    of_whole,
    once,
    readable,
    with_channels_together,
)
from flashbias_kernels.problem import Problem, Shape, broadcast

LARGEST_DIM = 128
MOST_CHANNELS = 160  # in float32, of heads and factors: more find no room in shared memory
_HAVE_TRITON = find_spec("triton") is not None


def why_not(problem: Problem) -> str | None:
    """Why the Triton kernels cannot do this; None if they can."""
    if not _HAVE_TRITON:
        return "the package triton is not installed"
    if not problem.q.is_cuda and not launch.interpreted():
        return (
            f"the tensors are on {problem.q.device}, which has no compiler (TRITON_INTERPRET=1 emulates one)"
        )
    if problem.q.dtype not in launch.PATIENCE:
        return f"{problem.q.dtype} is none of float32, bfloat16, float16"
    return _too_large(problem)


def _too_large(problem: Problem) -> str | None:
    dims = problem.q.shape[-1], problem.v.shape[-1]
    if max(dims) > LARGEST_DIM:
        return f"head dimensions {dims[0]} and {dims[1]} go beyond {LARGEST_DIM}"
    if problem.rank > launch.LARGEST_RANK:
        return f"rank {problem.rank} goes beyond {launch.LARGEST_RANK}"
    dim, rank = max(dims), problem.rank
    if problem.q.dtype == torch.float32 and dim + rank > MOST_CHANNELS:
        return f"{dim} channels of heads and {rank} of factors in float32 go beyond {MOST_CHANNELS}"
    if problem.has_wide_factors and rank * len(PRODUCTS) > launch.LARGEST_RANK:
        most = launch.LARGEST_RANK // len(PRODUCTS)
        return f"rank {rank} of factors in float32 beside {problem.q.dtype} heads goes beyond {most}"
    return None


def attend(problem: Problem) -> tuple[Tensor, Tensor]:
    """The output, and the logarithm of the sum of each query's exponentials."""
    out = problem.empty_output()
    lse = out.new_empty(problem.output_shape[:-1], dtype=torch.float32)
    problem = readable(problem)
    if out.numel():
        for call in launch.forward_calls(problem, {**_mask(problem), "out": out, "lse": lse}):
            call.run()
    return out, lse


def gradients(
    problem: Problem, out: Tensor, lse: Tensor, dout: Tensor, dlse: Tensor, wanted: Collection[str]
) -> dict[str, Tensor]:
    """Of the wanted ones among q, k, v, q_factor, k_factor, bias and band; `problem` has no gate.

    What several rows share is reduced in the kernels, tile by tile: nothing as large as all scores is made.
    """
    if not out.numel():
        return {name: torch.zeros_like(getattr(problem, name)) for name in wanted}
    given = readable(_band_in_bias(problem))
    heads, queries, keys, rank = given.heads, given.queries, given.keys, given.rank
    own_factors = not problem.shares_factors

    def full(like: Tensor | None, length: int, dim: int, needed: bool = True) -> Tensor | None:
        shape = (*problem.leading, heads, length, dim)
        if like is None or not needed:
            return None
        final = like.shape == shape and like.dtype == problem.q.dtype  # else there is a sum to come
        return torch.empty(shape, dtype=like.dtype if final else torch.float32, device=like.device)

    tensors: dict[str, Tensor | None] = {
        "closed": _mask(problem)["closed"],
        "out": out,
        "dout": with_channels_together(dout),
        "lse": lse,
        "dlse": dlse.contiguous(),
        "delta": torch.empty_like(lse),
        "dq": full(problem.q, queries, problem.q.shape[-1]),
        "dk": full(problem.k, keys, problem.k.shape[-1]),
        "dv": full(problem.v, keys, problem.v.shape[-1]),
        "dq_factor": full(given.q_factor, queries, rank, own_factors and "q_factor" in wanted),
        "dk_factor": full(given.k_factor, keys, rank, own_factors and "k_factor" in wanted),
    }
    for call in launch.queries_calls(given, tensors):
        call.run()
    if {"k", "v"} & set(wanted) or tensors["dk_factor"] is not None:
        for call in launch.keys_calls(given, tensors):
            call.run()
    found = {name: tensors.get(f"d{name}") for name in wanted}
    if problem.has_wide_factors:
        for name, parts in (("q_factor", QUERY_PARTS), ("k_factor", KEY_PARTS)):
            if (gradient := found.get(name)) is not None:
                found[name] = of_whole(gradient, parts, problem.rank)
    found |= _of_shared(problem, given, tensors, set(wanted) - {n for n, t in found.items() if t is not None})
    return {
        name: gradient.sum_to_size(getattr(problem, name).shape).to(getattr(problem, name).dtype)
        for name, gradient in found.items()
        if gradient is not None
    }


def _band_in_bias(problem: Problem) -> Problem:
    """A dense bias in place of a band: as large as the gradient of the pairs, which holds the band's."""
    if problem.band is None:
        return problem
    bias = spread(problem.band, problem.keys)
    return replace(problem, bias=bias if problem.bias is None else problem.bias + bias, band=None)


def _mask(problem: Problem) -> dict[str, Tensor | None]:
    """What the kernels read of the key mask: of each of its lines, which what shares it does too."""
    mask = problem.key_mask
    if mask is None:
        return {"closed": None, "span": None}
    own = once(mask)
    leading, keys = own.shape[:-1], problem.keys
    closed = torch.empty((*leading, keys), dtype=torch.float32, device=mask.device)
    span = torch.empty((*leading, 2), dtype=torch.int32, device=mask.device)
    launch.mask_call(own.expand(*leading, keys).reshape(-1, keys), closed, span).run()
    return {"closed": closed, "span": span}


def _of_shared(
    problem: Problem, given: Problem, tensors: launch.Tensors, wanted: set[str]
) -> dict[str, Tensor | None]:
    """Gradients of bias and band, and of factors that rows share: by way of that of the pairs.

    `given` is what the kernels are given of the problem.
    """
    found: dict[str, Tensor | None] = {}
    summed: dict[Shape, Tensor] = {}  # bias and factors are mostly shared by the same rows

    def pairs_of(leading: Shape) -> Tensor:
        own = (1,) * (len(problem.leading) - len(leading)) + tuple(leading)
        if own not in summed:
            summed[own] = _of_pairs(given, tensors, own)
        return summed[own]

    if "bias" in wanted and problem.bias is not None:
        found["bias"] = pairs_of(problem.bias.shape[:-3])
    if "band" in wanted and problem.band is not None:
        found["band"] = diagonals(pairs_of(problem.band.shape[:-3]), reach_of(problem.band))
    q_factor, k_factor = problem.live_q_factor, problem.k_factor
    if wanted & {"q_factor", "k_factor"} and q_factor is not None and k_factor is not None:
        pairs = pairs_of(broadcast("factors", q_factor.shape[:-3], k_factor.shape[:-3]))
        if "q_factor" in wanted:
            found["q_factor"] = problem.only_live(pairs @ k_factor.float())
        if "k_factor" in wanted:
            found["k_factor"] = pairs.transpose(-1, -2) @ q_factor.float()
    return found


def _of_pairs(problem: Problem, tensors: launch.Tensors, own: Shape) -> Tensor:
    """The gradient of the scores, summed over the leading dimensions that have size 1 in `own`."""
    dpairs = torch.zeros(
        (*own, problem.heads, problem.queries, problem.keys), dtype=torch.float32, device=problem.q.device
    )
    for call in launch.pairs_calls(problem, {**tensors, "dpairs": dpairs}):
        call.run()
    return dpairs
