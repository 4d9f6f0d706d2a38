"""What is compiled: launches of attention of every kind, forward and backward, and of the pairs' layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor

from flashbias_kernels import launch, triton_backend
from flashbias_kernels.launch import Call
from flashbias_kernels.norm import Norm
from flashbias_kernels.problem import Problem, check
from flashbias_kernels.projections import HeadWeights, heads_call, output_call
from flashbias_kernels.transition import TransitionWeights, transition_call
from flashbias_kernels.triangle_product import TriangleWeights, edges_call, update_call
from flashbias_kernels.tuning import (
    PAIR_TABLES,
    TABLES,
    Blocks,
    PairRow,
    Row,
    TransitionRow,
    pair_row,
    row,
    transition_row,
)

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "tf32": torch.float32}
HEADS, LENGTH = 4, 512
_DEVICE = "meta"  # shapes, strides and dtypes are all that a compiler sees


@dataclass(frozen=True)
class Case:
    """A kind of attention, and whether its gradients are taken.

    Attributes:
        backward: Whether the kernels are those of the gradients.
        dtype: One of DTYPES; tf32 is fp32 where torch may use tensor cores for it.
        dim: Of the heads.
        rank: Of the factors, 0 for none.
        factors: Their dtype, which is `dtype` by default.
        own_factors: Whether each row has its own; those of triangle attention are shared.
        bias: The dtype of a dense bias; nothing for none.
        reach: Of a band beside the factors, in the dtype of the heads; -1 for none.
        masked: Whether there is a key mask, as in Protenix.
        causal: Whether a query sees no later key.
        ranks: Whether each head has a rank of its own.
        layout: Of a dense bias, where no load has two neighbours: `odd length`, or `heads last`, as a linear
            layer leaves it.
    """

    backward: bool = False
    dtype: str = "bf16"
    dim: int = 32
    rank: int = 0
    factors: str = ""
    own_factors: bool = False
    bias: str = ""
    reach: int = -1
    masked: bool = True
    causal: bool = False
    ranks: bool = False
    layout: str = ""

    @property
    def words(self) -> str:
        """The bias and the options, in short."""
        own, precision = " own" * self.own_factors, f" {self.factors}" if self.factors else ""
        parts = [f"dense {self.bias}"] if self.bias else []
        parts += [f"R{self.rank}{own}{precision}"] if self.rank else []
        parts += [f"band {self.reach}"] if self.reach >= 0 else []
        options = {"causal": self.causal, "ranks": self.ranks, "no mask": not self.masked}
        chosen = [self.layout] * bool(self.layout) + [name for name, option in options.items() if option]
        return ", ".join([" + ".join(parts) or "none", *chosen])

    def launches(self, arch: int) -> dict[str, Call]:
        """By the name of the kernel; a kernel that is launched twice is the same both times."""
        with self.problem() as problem, _launching_for(arch) as calls:
            if self.backward:
                _take_gradients(problem)
            else:
                triton_backend.attend(problem)
        names = {call.kernel.__name__.removesuffix("_kernel"): call for call in calls}
        names.pop("mask", None)  # it has no loop with exponentials
        return names

    def row(self, kernel: str, arch: int) -> Row:
        """Return where the block sizes of one of the launches stand."""
        with self.problem() as problem:
            return row(TABLES[kernel], problem, arch)

    @staticmethod
    def blocks(call: Call) -> Blocks:
        """Return the block sizes of a launch."""
        own = call.options
        return Blocks(own["BLOCK_M"], own["BLOCK_N"], own["num_warps"], own["num_stages"])

    @contextmanager
    def problem(self) -> Iterator[Problem]:
        """Triangle attention over a pair representation, without its numbers; torch is set as for `dtype`."""
        dtype, length = DTYPES[self.dtype], LENGTH - (self.layout == "odd length")
        heads = _empty(1, length, length, HEADS, self.dim, dtype=dtype).transpose(-2, -3)
        factor = bias = band = mask = ranks = None
        if self.rank:
            rows = length if self.own_factors else 1
            factor = _empty(1, rows, HEADS, length, self.rank, dtype=DTYPES[self.factors or self.dtype])
        if self.bias:
            bias = _empty(1, 1, HEADS, length, length, dtype=DTYPES[self.bias])
            if self.layout == "heads last":
                bias = bias.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
        if self.reach >= 0:
            band = _empty(1, 1, HEADS, length, 2 * self.reach + 1, dtype=dtype)
        if self.masked:
            mask = _empty(1, length, length, dtype=torch.bool)
        if self.ranks:
            ranks = _empty(HEADS, dtype=torch.int32)
        with _tf32(self.dtype == "tf32"):
            yield check(
                heads,
                heads,
                heads,
                q_factor=factor,
                k_factor=factor,
                bias=bias,
                band=band,
                key_mask=mask,
                gate=None if self.backward else heads,  # gradients are of attention without its gate
                causal=self.causal,
                ranks=ranks,
            )


@dataclass(frozen=True)
class TransitionCase:
    """A transition of all pairs.

    Attributes:
        dtype: Of the products' operands, one of DTYPES.
        channels: Of a pair.
        factor: How many times as wide the hidden layer is.
        pairs: Their dtype, which is `dtype` by default.
    """

    dtype: str = "bf16"
    channels: int = 128
    factor: int = 4
    pairs: str = ""

    @property
    def dim(self) -> int:
        """The channels."""
        return self.channels

    @property
    def words(self) -> str:
        """The options, in short."""
        return f"x {self.factor}" + (f", pairs {self.pairs}" if self.pairs else "")

    def launches(self, arch: int) -> dict[str, Call]:
        """By the name of the kernel; nothing where torch does it."""
        if self.row("transition", arch).blocks is None:
            return {}
        dtype, hidden = DTYPES[self.dtype], self.factor * self.channels
        pairs = _empty(LENGTH * LENGTH, self.channels, dtype=DTYPES[self.pairs or self.dtype])
        norm = _empty(self.channels, dtype=torch.float32)
        weights = TransitionWeights(
            _empty(2 * hidden, self.channels, dtype=dtype),
            _empty(self.channels, hidden, dtype=dtype),
            norm,
            norm,
        )
        with _launching_for(arch):
            return {"transition": transition_call(pairs, weights, pairs, add_input=True)}

    def row(self, kernel: str, arch: int) -> TransitionRow:
        """Return where the block sizes stand; there is one kernel."""
        return transition_row(self.channels, DTYPES[self.pairs or self.dtype], arch)

    @staticmethod
    def blocks(call: Call) -> Blocks:
        """Return the block sizes of a launch, places standing for queries and hidden units for keys."""
        own = call.options
        return Blocks(own["ROWS"], own["PIECE"], own["num_warps"], own["num_stages"])


@dataclass(frozen=True)
class PairCase:
    """The kernels around triangle multiplication and triangle attention.

    Attributes:
        dtype: Of the products' operands, one of DTYPES.
        channels: Of a pair, of an edge, and of all heads together.
        pairs: Their dtype, which is `dtype` by default.
        masked: Whether there is a mask of pairs.
    """

    dtype: str = "bf16"
    channels: int = 128
    pairs: str = ""
    masked: bool = False

    @property
    def dim(self) -> int:
        """The channels."""
        return self.channels

    @property
    def words(self) -> str:
        """The options, in short."""
        return f"pairs {self.pairs or self.dtype}" + ", mask" * self.masked

    def launches(self, arch: int) -> dict[str, Call]:
        """By the name of the kernel."""
        dtype, channels, lines = DTYPES[self.dtype], self.channels, LENGTH
        pairs = _empty(1, lines, lines, channels, dtype=DTYPES[self.pairs or self.dtype])
        scale = _empty(channels, dtype=torch.float32)
        norm = Norm(scale, scale)

        def weight(units: int) -> Tensor:
            return _empty(units, channels, dtype=dtype)

        triangle = TriangleWeights(
            weight(2 * channels), weight(2 * channels), weight(channels), weight(channels), norm, norm
        )
        heads = HeadWeights(weight(4 * channels), weight(max(1, channels // 32)), norm)
        edges = _empty(2 * channels, lines, lines, dtype=dtype)
        units = _empty(1, lines, lines, 4 * channels, dtype=dtype)
        bias = _empty(1, len(heads.bias), lines, lines, dtype=dtype)
        mask = _empty(1, lines, lines, dtype=torch.float32) if self.masked else None
        with _launching_for(arch):
            found = {"edges": edges_call(pairs, triangle, mask, edges)}
            if not self.masked:  # the others have none
                found |= {
                    "update": update_call(pairs, edges[:channels], triangle, pairs, add_input=True),
                    "heads": heads_call(pairs, heads, units, bias),
                    "output": output_call(pairs, units[..., :channels], triangle.update),
                }
            return found

    def row(self, kernel: str, arch: int) -> PairRow:
        """Return where the block sizes of one of the launches stand."""
        return pair_row(PAIR_TABLES[kernel], self.channels, arch)

    @staticmethod
    def blocks(call: Call) -> Blocks:
        """Return the block sizes of a launch, places standing for queries and output channels for keys."""
        own = call.options
        return Blocks(own["PLACES"], own["PIECE"], own["num_warps"], own["num_stages"])


AnyCase = Case | TransitionCase | PairCase
AnyRow = Row | TransitionRow | PairRow

USUAL: tuple[AnyCase, ...] = (
    # Triangle attention of Protenix, and its other head dimensions (24 and 48) and types.
    *(Case(**bias) for bias in ({"bias": "bf16"}, {"rank": 16}, {"rank": 32}, {"rank": 96}, {})),
    *(Case(dim=dim, **bias) for dim in (24, 48, 64, 128) for bias in ({"bias": "bf16"}, {"rank": 32})),
    *(Case(dtype=dtype, bias=dtype) for dtype in ("fp16", "fp32")),
    *(Case(dtype=dtype, rank=32) for dtype in ("fp16", "fp32", "tf32")),
    Case(dtype="tf32", bias="fp32"),
    # Factors with pairs near the diagonal as they are.
    *(Case(rank=rank, reach=16) for rank in (16, 32, 96)),
    *(Case(dim=dim, rank=32, reach=16) for dim in (24, 48, 64)),
    *(Case(dtype=dtype, rank=32, reach=16) for dtype in ("fp32", "tf32")),
    # What callers may have: factors in closed form, a bias in any layout, causal attention.
    Case(rank=5, factors="fp32"),
    Case(bias="bf16", layout="odd length"),
    Case(bias="bf16", layout="heads last"),
    Case(bias="bf16", causal=True),
    *(Case(backward=True, **bias) for bias in ({"bias": "bf16"}, {"rank": 32}, {"rank": 96})),
    Case(backward=True, rank=32, own_factors=True),
    Case(backward=True, dim=48, bias="bf16"),
    Case(backward=True, dim=128, bias="bf16"),
    Case(backward=True, dtype="fp32", bias="fp32"),
    Case(backward=True, dtype="tf32", bias="fp32"),
    *(TransitionCase(channels=channels, factor=factor) for channels in (64, 128, 256) for factor in (2, 4)),
    *(TransitionCase("fp16", channels) for channels in (64, 128, 256)),
    *(TransitionCase(channels=channels, pairs="fp32") for channels in (64, 128, 256)),
    *(PairCase(channels=channels) for channels in (64, 128, 256)),
    *(PairCase(channels=channels, pairs="fp32") for channels in (128, 256)),
    PairCase("fp16"),
    PairCase(masked=True),
)
# Between them they take every row of the tables of block sizes.
ROWS: tuple[AnyCase, ...] = (
    Case(rank=32),
    Case(rank=96),
    Case(rank=32, bias="bf16"),
    Case(dim=64, bias="bf16"),
    Case(dim=64, rank=96),
    Case(dim=128, bias="bf16"),
    Case(rank=240, dim=128),
    Case(rank=32, factors="fp32"),
    Case(rank=32, factors="fp32", bias="bf16", layout="odd length"),
    Case(dtype="tf32", bias="fp32"),
    Case(dtype="tf32", dim=128, bias="fp32"),
    Case(dtype="fp32", rank=32),
    Case(dtype="fp32", dim=128, bias="fp32"),
    Case(backward=True, rank=32, own_factors=True, bias="bf16"),
    Case(backward=True, rank=96, bias="bf16"),
    Case(backward=True, dim=128, bias="bf16"),
    Case(backward=True, rank=240),
    Case(backward=True, rank=32, factors="fp32"),
    Case(backward=True, dim=64, rank=32, factors="fp32"),
    Case(backward=True, dtype="tf32", bias="fp32"),
    Case(backward=True, dtype="tf32", dim=64, bias="fp32"),
    Case(backward=True, dtype="fp32", bias="fp32"),
    Case(backward=True, dtype="fp32", dim=128, bias="fp32"),
    *(TransitionCase(channels=channels) for channels in (64, 128, 256)),
    *(PairCase(channels=channels) for channels in (128, 256)),
)


def _take_gradients(problem: Problem) -> None:
    out = _empty(*problem.output_shape, dtype=problem.q.dtype)
    sums = _empty(*problem.output_shape[:-1], dtype=torch.float32)
    inputs = ("q", "k", "v", "q_factor", "k_factor", "bias", "band")
    wanted = {name for name in inputs if getattr(problem, name) is not None}
    triton_backend.gradients(problem, out, sums, out, sums, wanted)


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=_DEVICE)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32 = before


@contextmanager
def _launching_for(arch: int) -> Iterator[list[Call]]:
    """Launches for a GPU that need not be there are listed instead of run."""
    calls: list[Call] = []

    def record(call: Call) -> None:
        calls.append(call)

    with patch.object(Call, "run", record), patch.object(launch, "architecture", lambda _: arch):
        yield calls
