"""The Triton kernels: what they can do, the output, and the gradients."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec

import torch
from torch import Tensor

from flashbias_kernels import launch
from flashbias_kernels.problem import Problem, Shape

LARGEST_DIM = 128
# More channels in float32, of heads and factors together, find no room in shared memory; more than these of
# factors in float32, beside heads in 16 bits, none in registers.
MOST_CHANNELS = 160
WIDE_RANK, WIDE_DIM = 32, 64
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
    if problem.has_wide_factors and (rank > WIDE_RANK or dim > WIDE_DIM):
        return (
            f"factors in float32 of rank {rank} beside {problem.q.dtype} heads of {dim} "
            f"go beyond {WIDE_RANK} and {WIDE_DIM}"
        )
    return None


def attend(problem: Problem) -> tuple[Tensor, Tensor]:
    """The output, and the logarithm of the sum of each query's exponentials."""
    q = problem.q
    out = torch.empty(problem.output_shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(problem.output_shape[:-1], dtype=torch.float32, device=q.device)
    if out.numel():
        for call in launch.forward_calls(problem, {**_mask(problem), "out": out, "lse": lse}):
            call.run()
    return out, lse


def gradients(
    problem: Problem, out: Tensor, lse: Tensor, dout: Tensor, dlse: Tensor, wanted: Collection[str]
) -> dict[str, Tensor]:
    """Of the wanted ones among q, k, v, q_factor, k_factor and bias; `problem` has no gate.

    What several rows share is reduced in the kernels, tile by tile: nothing as large as all scores is made.
    """
    if not out.numel():
        return {name: torch.zeros_like(getattr(problem, name)) for name in wanted}
    heads, queries, keys, rank = problem.heads, problem.queries, problem.keys, problem.rank
    own_factors = not problem.shares_factors

    def full(like: Tensor | None, length: int, dim: int, needed: bool = True) -> Tensor | None:
        shape = (*problem.leading, heads, length, dim)
        if like is None or not needed:
            return None
        whole = like.shape == shape  # else it is summed over what is broadcast
        return torch.empty(shape, dtype=like.dtype if whole else torch.float32, device=like.device)

    tensors: dict[str, Tensor | None] = {
        "closed": _mask(problem)["closed"],
        "out": out,
        "dout": dout,
        "lse": lse,
        "dlse": dlse.contiguous(),
        "delta": torch.empty_like(lse),
        "dq": full(problem.q, queries, problem.q.shape[-1]),
        "dk": full(problem.k, keys, problem.k.shape[-1]),
        "dv": full(problem.v, keys, problem.v.shape[-1]),
        "dq_factor": full(problem.q_factor, queries, rank, own_factors and "q_factor" in wanted),
        "dk_factor": full(problem.k_factor, keys, rank, own_factors and "k_factor" in wanted),
    }
    for call in launch.queries_calls(problem, tensors):
        call.run()
    if {"k", "v"} & set(wanted) or tensors["dk_factor"] is not None:
        for call in launch.keys_calls(problem, tensors):
            call.run()
    found = {name: tensors.get(f"d{name}") for name in wanted}
    found |= _of_shared(problem, tensors, set(wanted) - {n for n, t in found.items() if t is not None})
    return {
        name: gradient.sum_to_size(getattr(problem, name).shape).to(getattr(problem, name).dtype)
        for name, gradient in found.items()
        if gradient is not None
    }


def _mask(problem: Problem) -> dict[str, Tensor | None]:
    """What the kernels read of the key mask: of each of its lines, which what shares it does too."""
    mask = problem.key_mask
    if mask is None:
        return {"closed": None, "span": None}
    own = mask[tuple(slice(1 if step == 0 else None) for step in mask.stride()[:-1])]
    leading, keys = own.shape[:-1], problem.keys
    closed = torch.empty((*leading, keys), dtype=torch.float32, device=mask.device)
    span = torch.empty((*leading, 2), dtype=torch.int32, device=mask.device)
    launch.mask_call(own.expand(*leading, keys).reshape(-1, keys), closed, span).run()
    return {"closed": closed, "span": span}


def _of_shared(problem: Problem, tensors: launch.Tensors, wanted: set[str]) -> dict[str, Tensor | None]:
    """Gradients of the bias, and of factors that rows share: by way of that of the pairs."""
    found: dict[str, Tensor | None] = {}
    summed: dict[Shape, Tensor] = {}  # bias and factors are mostly shared by the same rows

    def pairs_of(leading: Shape) -> Tensor:
        own = (1,) * (len(problem.leading) - len(leading)) + tuple(leading)
        if own not in summed:
            summed[own] = _of_pairs(problem, tensors, own)
        return summed[own]

    if "bias" in wanted and problem.bias is not None:
        found["bias"] = pairs_of(problem.bias.shape[:-3])
    q_factor, k_factor = problem.live_q_factor, problem.k_factor
    if wanted & {"q_factor", "k_factor"} and q_factor is not None and k_factor is not None:
        pairs = pairs_of(torch.broadcast_shapes(q_factor.shape[:-3], k_factor.shape[:-3]))
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
