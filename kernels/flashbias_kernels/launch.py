"""From tensors of any shape and strides to launches of the Triton kernels."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flashbias_kernels.band import reach_of
from flashbias_kernels.problem import Problem, Shape
from flashbias_kernels.strides import mergeable
from flashbias_kernels.tuning import Blocks
from flashbias_kernels.tuning import blocks as blocks_of

PARTS = (128, 64, 32, 16)
LARGEST_RANK = sum(PARTS)
MASK_BLOCK = 1024
# The sum up to which a level from a few keys is trusted: fp16 ends at 65,504, the others at 2^127.
PATIENCE = {torch.float16: 2.0**15, torch.bfloat16: 2.0**64, torch.float32: 2.0**64}

Tensors = Mapping[str, Tensor | None]
_INPUTS = ("q", "k", "v", "q_factor", "k_factor", "bias")
_DIMENSIONS = {"closed": 3, "span": 3, "lse": 4, "dlse": 4, "delta": 4}  # with two leading ones; of others 5


class View(NamedTuple):
    """Where a tensor begins, and its strides: of two leading dimensions, then of its own."""

    tensor: Tensor
    strides: Shape


class Views(NamedTuple):
    """Tensors by name, and how many there are of each leading dimension and of heads."""

    named: Mapping[str, View | None]
    y: int
    z: int
    heads: int

    def matrices(self, name: str) -> int:
        """How many lie in memory: what is shared counts once."""
        view = self.named[name]
        assert view is not None
        sizes = zip((self.y, self.z, self.heads), view.strides, strict=False)
        return math.prod(size for size, step in sizes if step or size == 1)


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

    blocks = blocks_of("forward", problem, architecture(problem.q))
    for views in _two_leading_dimensions(problem, outputs):
        yield _call(
            forward_kernel,
            problem,
            views,
            blocks,
            pointers=(*_INPUTS, "band", "gate", "ranks", "closed", "span", "out", "lse"),
            strided=(*_INPUTS, "band", "gate", "out", "closed", "span"),
            programs=views.matrices("lse") * _blocks(problem.queries, blocks.queries),
            REACH=-1 if problem.band is None else reach_of(problem.band),
            HAS_GATE=problem.gate is not None,
            PATIENCE=PATIENCE[problem.q.dtype],
            STAGES=blocks.stages,
        )


def queries_calls(problem: Problem, tensors: Tensors) -> Iterator[Call]:
    """What writes `delta`, `dq` and, if wanted, `dq_factor`; reads `out`, `dout`, `lse` and `dlse`."""
    from flashbias_kernels.backward import queries_kernel

    blocks = blocks_of("queries", problem, architecture(problem.q))
    for views in _two_leading_dimensions(problem, tensors):
        yield _call(
            queries_kernel,
            problem,
            views,
            blocks,
            pointers=(*_INPUTS, "ranks", "closed", "out", "dout", "lse", "dlse", "delta", "dq", "dq_factor"),
            strided=(*_INPUTS, "out", "dout", "closed"),
            programs=views.matrices("lse") * _blocks(problem.queries, blocks.queries),
            FACTORS=views.named["dq_factor"] is not None,
        )


def keys_calls(problem: Problem, tensors: Tensors) -> Iterator[Call]:
    """What writes `dk`, `dv` and, if wanted, `dk_factor`; reads `dout`, `lse` and `delta`."""
    from flashbias_kernels.backward import keys_kernel

    blocks = blocks_of("keys", problem, architecture(problem.q))
    for views in _two_leading_dimensions(problem, tensors):
        yield _call(
            keys_kernel,
            problem,
            views,
            blocks,
            pointers=(*_INPUTS, "ranks", "closed", "dout", "lse", "delta", "dk", "dv", "dk_factor"),
            strided=(*_INPUTS, "dout", "closed"),
            programs=views.matrices("lse") * _blocks(problem.keys, blocks.keys),
            FACTORS=views.named["dk_factor"] is not None,
        )


def pairs_calls(problem: Problem, tensors: Tensors) -> Iterator[Call]:
    """What adds to `dpairs`, which is broadcast over what shares a pair; reads `dout`, `lse` and `delta`."""
    from flashbias_kernels.backward import pairs_kernel

    blocks = blocks_of("pairs", problem, architecture(problem.q))
    for views in _two_leading_dimensions(problem, tensors):
        tiles = _blocks(problem.queries, blocks.queries) * _blocks(problem.keys, blocks.keys)
        yield _call(
            pairs_kernel,
            problem,
            views,
            blocks,
            pointers=(*_INPUTS, "ranks", "closed", "dout", "lse", "delta", "dpairs"),
            strided=(*_INPUTS, "dout", "dpairs", "closed"),
            programs=views.matrices("dpairs") * tiles,
        )


def interpreted() -> bool:
    """Whether Triton emulates a GPU, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def architecture(tensor: Tensor) -> int:
    """The compute capability of a tensor's GPU, 90 for sm_90; 0 where Triton emulates one."""
    return 0 if interpreted() else _architecture(tensor.device)


@cache
def _architecture(device: torch.device) -> int:
    if torch.version.hip:  # AMD numbers its GPUs otherwise; they have little shared memory
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


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


def _call(
    kernel: Any,
    problem: Problem,
    views: Views,
    blocks: Blocks,
    pointers: Sequence[str],
    strided: Sequence[str],
    programs: int,
    **constants: Any,
) -> Call:
    named = views.named
    # What is not there is never read, but a pointer is wanted.
    given = [problem.q if view is None else view.tensor for view in map(named.get, pointers)]
    if "ranks" in pointers and problem.ranks is not None:
        given[pointers.index("ranks")] = problem.ranks
    strides: list[int] = []
    for name in strided:
        view = named[name]
        strides += (0,) * _DIMENSIONS.get(name, 5) if view is None else view.strides
    arguments = [
        *given, *strides, views.y, views.z, views.heads, problem.queries, problem.keys, problem.scale,
    ]  # fmt: skip
    return Call(kernel, (programs,), arguments, {**_constants(problem, blocks), **constants})


def _constants(problem: Problem, blocks: Blocks) -> dict[str, Any]:
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
        # The queries' scale takes in the factor from e to 2, where nothing beside them would want it too.
        "BINARY": _has_bias_alone(problem) and problem.q.dtype != torch.float32,
        "PRECISION": "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee",
        "WIDEN": interpreted(),
        "BLOCK_M": blocks.queries,
        "BLOCK_N": blocks.keys,
        "BLOCK_D": _tile(dim),
        "BLOCK_DV": _tile(value_dim),
        "num_warps": blocks.warps,
        "num_stages": blocks.stages,
    }


def _has_bias_alone(problem: Problem) -> bool:
    return problem.bias is not None and not problem.rank and problem.band is None


def _tile(dim: int) -> int:
    """What a matrix instruction takes: a power of two, 16 at least."""
    return max(16, 1 << (dim - 1).bit_length())


def _two_leading_dimensions(problem: Problem, others: Tensors) -> Iterator[Views]:
    """All tensors: leading dimensions are merged where they can be; over more than two we step.

    Only numbers are made here, no tensors, and those of each geometry once: a launch should cost less than
    what it launches.
    """
    tensors: dict[str, Tensor | None] = {name: getattr(problem, name) for name in (*_INPUTS, "band", "gate")}
    tensors |= others
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    geometry = _geometry(
        problem.leading,
        (problem.heads, problem.queries, problem.keys, problem.v.shape[-1]),
        tuple((name, tensor.shape, tensor.stride()) for name, tensor in present.items()),
    )
    for index in product(*map(range, geometry.outer)):
        views: dict[str, View | None] = dict.fromkeys(tensors)
        for name, tensor in present.items():
            start = sum(map(operator.mul, index, geometry.steps[name])) if index else 0
            first = tensor.as_strided((1,), (1,), tensor.storage_offset() + start) if start else tensor
            views[name] = View(first, geometry.strides[name])
        yield Views(views, geometry.y, geometry.z, problem.heads)


class Geometry(NamedTuple):
    """How tensors are stepped through.

    Attributes:
        outer: The dimensions that launches step over, beyond two.
        steps: By the names of the tensors, their strides along these.
        strides: Along all others: two leading ones, heads, and what follows.
    """

    outer: Shape
    y: int
    z: int
    steps: Mapping[str, Shape]
    strides: Mapping[str, Shape]


@lru_cache(maxsize=1024)
def _geometry(leading: Shape, sizes: Shape, tensors: tuple[tuple[str, Shape, Shape], ...]) -> Geometry:
    heads, queries, keys, value_dim = sizes
    whole = {  # where a size may be 1 for more
        "q_factor": (heads,),
        "k_factor": (heads,),
        "bias": (heads, queries, keys),
        "band": (heads,),
        "gate": (heads, queries, value_dim),
    }
    strides = {
        name: _expanded(shape, stride, leading, _DIMENSIONS.get(name, 5) - 2, whole.get(name, ()))
        for name, shape, stride in tensors
    }
    groups = mergeable(leading, [own[: len(leading)] for own in strides.values()])
    groups = [[]] * (2 - len(groups)) + groups
    merged = {
        name: tuple(own[group[-1]] if group else 0 for group in groups) for name, own in strides.items()
    }
    *outer, y, z = (math.prod(leading[i] for i in group) for group in groups)
    return Geometry(
        tuple(outer),
        y,
        z,
        {name: steps[:-2] for name, steps in merged.items()},
        {name: (*steps[-2:], *strides[name][len(leading) :]) for name, steps in merged.items()},
    )


def _expanded(shape: Shape, strides: Shape, leading: Shape, own: int, sizes: Shape) -> Shape:
    """Strides of a tensor with all leading dimensions, and `own` more; 0 where it is broadcast."""
    wanted = (*leading, *sizes, *shape[len(shape) - own + len(sizes) :])
    missing = len(wanted) - len(shape)
    return (0,) * missing + tuple(
        0 if size == 1 and size != whole else step
        for size, whole, step in zip(shape, wanted[missing:], strides, strict=True)
    )
