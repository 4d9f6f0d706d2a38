"""From tensors of any shape and strides to launches of the Triton kernels."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flashbias_kernels.problem import Problem
from flashbias_kernels.strides import mergeable
from flashbias_kernels.tuning import Blocks, backward_blocks, forward_blocks

PARTS = (128, 64, 32, 16)
LARGEST_RANK = sum(PARTS)
MASK_BLOCK = 1024
# The sum up to which a level from a few keys is trusted: fp16 ends at 65,504, the others at 2^127.
PATIENCE = {torch.float16: 2.0**15, torch.bfloat16: 2.0**64, torch.float32: 2.0**64}

Tensors = Mapping[str, Tensor | None]
_INPUTS = ("q", "k", "v", "q_factor", "k_factor", "bias")
_DIMENSIONS = {"closed": 3, "span": 3, "lse": 4, "dlse": 4, "delta": 4}  # with two leading ones; of others 5


class Call(NamedTuple):
    """A kernel and all that it is launched with."""

    kernel: Any
    grid: tuple[int]
    arguments: list[Any]
    options: dict[str, Any]

    def run(self) -> None:
        """Launch it."""
        self.kernel[self.grid](*self.arguments, **self.options)


def mask_call(mask: Tensor, closed: Tensor, span: Tensor) -> Call:
    """What writes `closed` and `span` from the lines of a mask."""
    from flashbias_kernels.mask import mask_kernel

    arguments = [mask.view(torch.uint8), closed, span, *mask.stride(), mask.shape[1]]
    return Call(mask_kernel, (mask.shape[0],), arguments, {"BLOCK": MASK_BLOCK})


def forward_calls(problem: Problem, outputs: Tensors) -> Iterator[Call]:
    """What writes `out` and `lse`; reads `closed` and `span`, as all others read `closed`."""
    from flashbias_kernels.forward import forward_kernel

    blocks = forward_blocks(problem, interpreted())
    for views in _two_leading_dimensions(problem, outputs):
        yield _call(
            forward_kernel,
            problem,
            views,
            blocks,
            pointers=(*_INPUTS, "gate", "ranks", "closed", "span", "out", "lse"),
            strided=(*_INPUTS, "gate", "out", "closed", "span"),
            programs=_lines(views["lse"]) * _blocks(problem.queries, blocks.queries),
            HAS_GATE=problem.gate is not None,
            PATIENCE=PATIENCE[problem.q.dtype],
            STAGES=blocks.stages,
        )


def queries_calls(problem: Problem, tensors: Tensors) -> Iterator[Call]:
    """What writes `delta`, `dq` and, if wanted, `dq_factor`; reads `out`, `dout`, `lse` and `dlse`."""
    from flashbias_kernels.backward import queries_kernel

    blocks = backward_blocks(problem, interpreted())
    for views in _two_leading_dimensions(problem, tensors):
        yield _call(
            queries_kernel,
            problem,
            views,
            blocks,
            pointers=(*_INPUTS, "ranks", "closed", "out", "dout", "lse", "dlse", "delta", "dq", "dq_factor"),
            strided=(*_INPUTS, "out", "dout", "closed"),
            programs=_lines(views["lse"]) * _blocks(problem.queries, blocks.queries),
            FACTORS=views["dq_factor"] is not None,
        )


def keys_calls(problem: Problem, tensors: Tensors) -> Iterator[Call]:
    """What writes `dk`, `dv` and, if wanted, `dk_factor`; reads `dout`, `lse` and `delta`."""
    from flashbias_kernels.backward import keys_kernel

    blocks = backward_blocks(problem, interpreted(), "keys")
    for views in _two_leading_dimensions(problem, tensors):
        yield _call(
            keys_kernel,
            problem,
            views,
            blocks,
            pointers=(*_INPUTS, "ranks", "closed", "dout", "lse", "delta", "dk", "dv", "dk_factor"),
            strided=(*_INPUTS, "dout", "closed"),
            programs=_lines(views["lse"]) * _blocks(problem.keys, blocks.keys),
            FACTORS=views["dk_factor"] is not None,
        )


def pairs_calls(problem: Problem, tensors: Tensors) -> Iterator[Call]:
    """What adds to `dpairs`, which is broadcast over what shares a pair; reads `dout`, `lse` and `delta`."""
    from flashbias_kernels.backward import pairs_kernel

    blocks = backward_blocks(problem, interpreted(), "pairs")
    for views in _two_leading_dimensions(problem, tensors):
        tiles = _blocks(problem.queries, blocks.queries) * _blocks(problem.keys, blocks.keys)
        yield _call(
            pairs_kernel,
            problem,
            views,
            blocks,
            pointers=(*_INPUTS, "ranks", "closed", "dout", "lse", "delta", "dpairs"),
            strided=(*_INPUTS, "dout", "dpairs", "closed"),
            programs=_lines(views["dpairs"]) * tiles,
        )


def interpreted() -> bool:
    """Whether Triton emulates a GPU, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def parts_of(rank: int) -> list[int]:
    """The rank, rounded up to a multiple of 16, as four powers of two (or zeros)."""
    left = _blocks(rank, 16) * 16
    parts = []
    for part in PARTS:
        if left >= part:
            parts.append(part)
            left -= part
    return parts + [0] * (len(PARTS) - len(parts))


def _blocks(length: int, size: int) -> int:
    return -(-length // size)


def _lines(tensor: Any) -> int:
    """How many matrices there are in memory, leading dimensions times heads: what is shared counts once."""
    return math.prod(
        size for size, step in zip(tensor.shape[:3], tensor.stride()[:3], strict=True) if step or size == 1
    )


def _call(
    kernel: Any,
    problem: Problem,
    views: Mapping[str, Any],
    blocks: Blocks,
    pointers: Sequence[str],
    strided: Sequence[str],
    programs: int,
    **constants: Any,
) -> Call:
    views = {**views, "ranks": problem.ranks}
    # What is not there is never read, but a pointer is wanted.
    given = [views["q"] if views[name] is None else views[name] for name in pointers]
    strides = [
        step
        for name in strided
        for step in ((0,) * _DIMENSIONS.get(name, 5) if views[name] is None else views[name].stride())
    ]
    y, z, heads = views["q"].shape[:3]
    arguments = [*given, *strides, y, z, heads, problem.queries, problem.keys, problem.scale]
    return Call(kernel, (programs,), arguments, {**_constants(problem, blocks), **constants})


def _constants(problem: Problem, blocks: Blocks) -> dict[str, Any]:
    precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
    dim, value_dim = problem.q.shape[-1], problem.v.shape[-1]
    return {
        "D": dim,
        "DV": value_dim,
        "RANK": problem.rank,
        **dict(zip(("C0", "C1", "C2", "C3"), parts_of(problem.rank), strict=True)),
        "HAS_BIAS": problem.bias is not None,
        "HAS_MASK": problem.key_mask is not None,
        "HAS_RANKS": problem.ranks is not None,
        "CAUSAL": problem.causal,
        # The queries' rounded scale takes in the factor from e to 2, where no factors beside them would want it.
        "BINARY": problem.bias is not None and not problem.rank and problem.q.dtype != torch.float32,
        "PRECISION": precision,
        # Factors in float32 beside queries in 16 bits are so for their digits, which TF32 cuts off.
        "FACTOR_PRECISION": precision if problem.q.dtype == torch.float32 else "tf32x3",
        "WIDEN": interpreted() and problem.q.dtype == torch.bfloat16,
        "BLOCK_M": blocks.queries,
        "BLOCK_N": blocks.keys,
        "BLOCK_D": _tile(dim),
        "BLOCK_DV": _tile(value_dim),
        "num_warps": blocks.warps,
        "num_stages": blocks.stages,
        # Triton knows this limit for NVIDIA's GPUs alone.
        **({} if torch.version.hip or not blocks.registers else {"maxnreg": blocks.registers}),
    }


def _tile(dim: int) -> int:
    """What a matrix instruction takes: a power of two, 16 at least."""
    return max(16, 1 << (dim - 1).bit_length())


def _two_leading_dimensions(problem: Problem, others: Tensors) -> Iterator[dict[str, Any]]:
    """All tensors, expanded: leading dimensions are merged where they can be; over more than two we step."""
    tensors: dict[str, Tensor | None] = {name: getattr(problem, name) for name in (*_INPUTS, "gate")}
    tensors |= others
    sizes = {  # where a size may be 1 for more
        "q_factor": (problem.heads, problem.queries, -1),
        "k_factor": (problem.heads, problem.keys, -1),
        "bias": (problem.heads, problem.queries, problem.keys),
        "gate": (problem.heads, problem.queries, problem.v.shape[-1]),
    }
    expanded = {
        name: None
        if t is None
        else t.expand(*problem.leading, *sizes.get(name, (-1,) * (_DIMENSIONS.get(name, 5) - 2)))
        for name, t in tensors.items()
    }
    present = [tensor for tensor in expanded.values() if tensor is not None]
    groups = mergeable(problem.leading, [tensor.stride() for tensor in present])
    groups = [[]] * (2 - len(groups)) + groups
    merged = {
        name: None if t is None else _merge(t, groups, len(problem.leading)) for name, t in expanded.items()
    }
    outer = [math.prod(problem.leading[i] for i in group) for group in groups[:-2]]
    for index in product(*map(range, outer)):
        yield {name: None if t is None else t[index] for name, t in merged.items()}


def _merge(tensor: Tensor, groups: list[list[int]], leading: int) -> Tensor:
    """A view whose leading dimensions are the groups."""
    sizes = [math.prod(tensor.shape[i] for i in group) for group in groups]
    strides = [tensor.stride(group[-1]) if group else 0 for group in groups]
    return tensor.as_strided((*sizes, *tensor.shape[leading:]), (*strides, *tensor.stride()[leading:]))
