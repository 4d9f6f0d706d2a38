"""Launches the Triton kernels: from tensors of any shape and strides to a grid of programs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flashbias_kernels.problem import Problem

LARGEST_DIM = 128
LARGEST_RANK = 240  # of which the parts are powers of two: 128 + 64 + 32 + 16
PARTS = (128, 64, 32, 16)
# The sum up to which a level from a few keys is trusted: fp16 ends at 65,504, the others at 2^127.
PATIENCE = {torch.float16: 2.0**15, torch.bfloat16: 2.0**64, torch.float32: 2.0**64}


class Blocks(NamedTuple):
    """How a launch cuts its work."""

    queries: int
    keys: int
    warps: int
    stages: int


def why_not(problem: Problem) -> str | None:
    """Why the Triton kernels cannot do this; None if they can."""
    dims = problem.q.shape[-1], problem.v.shape[-1]
    if find_spec("triton") is None:
        return "the package triton is not installed"
    if not problem.q.is_cuda and not _interpreted():
        return (
            f"the tensors are on {problem.q.device}, which has no compiler (TRITON_INTERPRET=1 emulates one)"
        )
    if problem.q.dtype not in PATIENCE:
        return f"{problem.q.dtype} is none of float32, bfloat16, float16"
    if max(dims) > LARGEST_DIM:
        return f"head dimensions {dims[0]} and {dims[1]} go beyond {LARGEST_DIM}"
    if problem.rank > LARGEST_RANK:
        return f"rank {problem.rank} goes beyond {LARGEST_RANK}"
    return None


def attend(problem: Problem) -> tuple[Tensor, Tensor]:
    """The output, and the logarithm of the sum of each query's exponentials."""
    q = problem.q
    out = torch.empty(problem.output_shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(problem.output_shape[:-1], dtype=torch.float32, device=q.device)
    if out.numel():
        for views in _two_leading_dimensions(problem, out, lse):
            _launch(problem, views)
    return out, lse


def parts_of(rank: int) -> list[int]:
    """The rank, rounded up to a multiple of 16, as four powers of two (or zeros)."""
    left = -(-rank // 16) * 16
    parts = []
    for part in PARTS:
        if left >= part:
            parts.append(part)
            left -= part
    return parts + [0] * (len(PARTS) - len(parts))


def blocks_for(problem: Problem) -> Blocks:
    """The sizes that were found to suit."""
    if _interpreted():
        return Blocks(16, 16, 1, 1)
    return Blocks(64, 64, 4, 3)


class Views(NamedTuple):
    """The tensors of a launch, each with two leading dimensions; None where there is none."""

    q: Any
    k: Any
    v: Any
    q_factor: Any
    k_factor: Any
    bias: Any
    gate: Any
    out: Any
    mask: Any
    lse: Any


def _two_leading_dimensions(problem: Problem, out: Tensor, lse: Tensor) -> Iterator[Views]:
    """Expand the leading dimensions, merge those that can be, and step over all but the last two."""
    heads, queries, keys = problem.heads, problem.queries, problem.keys
    mask = None if problem.key_mask is None else problem.key_mask.view(torch.uint8)
    tensors = {
        "q": (problem.q, (heads, queries, -1)),
        "k": (problem.k, (heads, keys, -1)),
        "v": (problem.v, (heads, keys, -1)),
        "q_factor": (problem.q_factor, (heads, queries, -1)),
        "k_factor": (problem.k_factor, (heads, keys, -1)),
        "bias": (problem.bias, (heads, queries, keys)),
        "gate": (problem.gate, (heads, queries, problem.v.shape[-1])),
        "out": (out, (heads, queries, -1)),
        "mask": (mask, (keys,)),
        "lse": (lse, (heads, queries)),
    }
    expanded = {
        name: None if tensor is None else tensor.expand(*problem.leading, *own)
        for name, (tensor, own) in tensors.items()
    }
    present = [tensor for tensor in expanded.values() if tensor is not None]
    groups = _mergeable(problem.leading, [tensor.stride() for tensor in present])
    merged = {
        name: None if t is None else _merge(t, groups, len(problem.leading)) for name, t in expanded.items()
    }
    outer = [math.prod(problem.leading[i] for i in group) for group in groups[:-2]]
    for index in product(*map(range, outer)):
        yield Views(**{name: None if t is None else t[index] for name, t in merged.items()})


def _mergeable(sizes: Sequence[int], strides: Sequence[Sequence[int]]) -> list[list[int]]:
    """Neighbouring dimensions in groups that every tensor steps through evenly; two groups at least."""
    groups: list[list[int]] = []
    for dim, size in enumerate(sizes):
        if size == 1:
            continue
        if groups and all(s[groups[-1][-1]] == size * s[dim] for s in strides):
            groups[-1].append(dim)
        else:
            groups.append([dim])
    return [[]] * (2 - len(groups)) + groups


def _merge(tensor: Tensor, groups: list[list[int]], leading: int) -> Tensor:
    """A view whose leading dimensions are the groups."""
    sizes = [math.prod(tensor.shape[i] for i in group) for group in groups]
    strides = [tensor.stride(group[-1]) if group else 0 for group in groups]
    return tensor.as_strided((*sizes, *tensor.shape[leading:]), (*strides, *tensor.stride()[leading:]))


def _launch(problem: Problem, views: Views) -> None:
    import triton

    from flashbias_kernels.forward import forward_kernel

    blocks = blocks_for(problem)
    precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
    y, z, heads, queries, dim = views.q.shape
    value_dim = views.v.shape[-1]
    grid = (y * z * heads * triton.cdiv(queries, blocks.queries),)
    ranks = problem.ranks
    # What is not there is never read, but a pointer is wanted.
    pointers = [
        views.q if t is None else t
        for t in (views.q_factor, views.k_factor, views.bias, views.mask, views.gate, ranks)
    ]
    strided = (views.q, views.k, views.v, views.q_factor, views.k_factor, views.bias, views.gate, views.out)
    strides = [s for t in strided for s in (t.stride() if t is not None else (0,) * 5)]
    mask_strides = views.mask.stride() if views.mask is not None else (0,) * 3
    forward_kernel[grid](
        views.q,
        views.k,
        views.v,
        *pointers,
        views.out,
        views.lse,
        *strides,
        *mask_strides,
        z,
        heads,
        queries,
        problem.keys,
        problem.scale,
        D=dim,
        DV=value_dim,
        RANK=problem.rank,
        **dict(zip(("C0", "C1", "C2", "C3"), parts_of(problem.rank), strict=True)),
        HAS_BIAS=views.bias is not None,
        HAS_MASK=views.mask is not None,
        HAS_GATE=views.gate is not None,
        HAS_RANKS=ranks is not None,
        CAUSAL=problem.causal,
        PATIENCE=PATIENCE[problem.q.dtype],
        PRECISION=precision,
        # Factors in float32 beside queries in 16 bits are so for their digits, which TF32 cuts off.
        FACTOR_PRECISION=precision if problem.q.dtype == torch.float32 else "tf32x3",
        WIDEN=_interpreted() and problem.q.dtype == torch.bfloat16,
        BLOCK_M=blocks.queries,
        BLOCK_N=blocks.keys,
        BLOCK_D=max(16, triton.next_power_of_2(dim)),
        BLOCK_DV=max(16, triton.next_power_of_2(value_dim)),
        num_warps=blocks.warps,
        num_stages=blocks.stages,
    )


def _interpreted() -> bool:
    """Whether Triton emulates a GPU, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"
