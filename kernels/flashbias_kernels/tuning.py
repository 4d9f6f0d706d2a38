"""How a launch cuts its work, by what is known of the problem before it runs.

Rows for 16 bits and heads of up to 128 were timed on an H200, at 256 to 1024 tokens; the others, and all
that are for GPUs before sm_90, were chosen by `python -m flashbias_kernels.audit`, which reads machine code.
With Triton 3.9 no row spills registers on sm_80, sm_90 or sm_100. Where ANY stands, the most demanding
problems (heads of 128, all 240 channels, a bias that cannot be loaded in pieces) are right but slow.

Triton 3.6 compiles tiles with less than 16 queries for each warp to reads beyond the end of shared memory, so
no row has them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from flashbias_kernels.problem import Problem

ANY = 10**9


class Blocks(NamedTuple):
    """Queries and keys of a tile, warps of a program, and tiles that are in flight."""

    queries: int
    keys: int
    warps: int
    stages: int


class Row(NamedTuple):
    """For heads of up to `dim` and factors of up to `channels`; the first row that fits is taken.

    Attributes:
        arithmetic: `half` for 16 bits, `fp32`, or `tf32`, which is fp32 where torch may use tensor cores.
        blocks: Backward, a program owns queries and walks over the keys.
        dense: Whether there may be a dense bias.
        since: The least compute capability, 90 for sm_90.
    """

    arithmetic: str
    dim: int
    channels: int
    blocks: Blocks
    dense: bool = True
    since: int = 80


FORWARD = (
    Row("half", 32, 128, Blocks(64, 64, 4, 2), dense=False, since=100),
    Row("half", 32, 240, Blocks(64, 32, 4, 2), since=100),
    Row("half", 32, 32, Blocks(64, 64, 4, 3), dense=False, since=90),
    Row("half", 32, 128, Blocks(64, 64, 4, 2), dense=False, since=90),
    Row("half", 32, 240, Blocks(64, 32, 4, 3)),
    Row("half", 64, 32, Blocks(64, 64, 4, 3), since=90),
    Row("half", 64, 128, Blocks(64, 64, 4, 2), dense=False, since=90),
    Row("half", 64, 240, Blocks(128, 32, 8, 2)),
    Row("half", 128, 96, Blocks(64, 32, 4, 3), since=90),
    Row("half", 128, 96, Blocks(128, 32, 8, 2)),
    Row("half", ANY, ANY, Blocks(128, 16, 8, 2), since=90),
    Row("half", ANY, ANY, Blocks(128, 16, 8, 1)),
    Row("tf32", 64, 32, Blocks(64, 16, 4, 2)),
    Row("tf32", ANY, ANY, Blocks(128, 16, 8, 2), since=90),
    Row("tf32", ANY, ANY, Blocks(128, 16, 8, 1)),
    Row("fp32", 32, 32, Blocks(64, 16, 4, 3)),
    Row("fp32", ANY, ANY, Blocks(16, 16, 8, 2)),
)
BACKWARD = (
    Row("half", 32, 32, Blocks(64, 32, 4, 3)),
    Row("half", 64, 128, Blocks(64, 32, 4, 2)),
    Row("half", 128, 96, Blocks(64, 32, 4, 2), since=90),
    Row("half", 128, 96, Blocks(64, 16, 4, 2)),
    Row("half", ANY, ANY, Blocks(64, 16, 4, 2)),
    Row("tf32", 32, 32, Blocks(64, 32, 4, 2)),
    Row("tf32", ANY, ANY, Blocks(64, 16, 4, 2)),
    Row("fp32", 32, 32, Blocks(32, 32, 8, 2)),
    Row("fp32", ANY, ANY, Blocks(16, 16, 8, 2)),
)
PAIRS = (
    Row("half", 32, 32, Blocks(64, 64, 4, 3), since=90),
    Row("half", 64, 128, Blocks(64, 64, 4, 2), since=90),
    *BACKWARD,
)
TABLES = {"forward": FORWARD, "queries": BACKWARD, "keys": BACKWARD, "pairs": PAIRS}
_INTERPRETED = Blocks(16, 16, 1, 1)


class TransitionBlocks(NamedTuple):
    """Places and hidden units of a tile, warps, tiles of weights in flight, programs on a multiprocessor."""

    rows: int
    hidden: int
    warps: int
    stages: int
    programs: int


class TransitionRow(NamedTuple):
    """For up to so many channels and a compute capability; the first that fits is taken.

    Attributes:
        channels: Of a place, at most.
        blocks: None where every tile that was compiled spills registers: torch computes it then.
        wide_places: Whether the places may be in float32.
        since: The least compute capability, 90 for sm_90.
    """

    channels: int
    blocks: TransitionBlocks | None
    wide_places: bool = True
    since: int = 80


# The products' operands are in 16 bits. Those of sm_90 were the fastest of a sweep on an H200; the others are
# known to compile without spills, and were never run.
TRANSITION = (
    TransitionRow(64, TransitionBlocks(128, 32, 8, 2, 2), since=90),
    TransitionRow(128, TransitionBlocks(64, 32, 4, 3, 2), since=90),
    TransitionRow(256, None, since=100),
    TransitionRow(256, TransitionBlocks(128, 32, 8, 3, 1), wide_places=False, since=90),
    TransitionRow(64, TransitionBlocks(64, 32, 4, 2, 2)),
    TransitionRow(128, TransitionBlocks(64, 16, 4, 2, 2)),
    TransitionRow(256, None),
)
_TRANSITION_INTERPRETED = TransitionBlocks(16, 32, 1, 1, 1)


def transition_blocks(channels: int, places: torch.dtype, arch: int) -> TransitionBlocks | None:
    """Return how a transition is cut for a compute capability; 0 stands for the interpreter."""
    if not arch:
        return _TRANSITION_INTERPRETED
    return transition_row(channels, places, arch).blocks


def transition_row(channels: int, places: torch.dtype, arch: int) -> TransitionRow:
    """Return the first of TRANSITION that fits the places."""
    return next(
        row
        for row in TRANSITION
        if channels <= row.channels and arch >= row.since and (row.wide_places or places != torch.float32)
    )


class PairBlocks(NamedTuple):
    """Places of a row, output channels that are computed at a time, warps, tiles of weights in flight."""

    places: int
    piece: int
    warps: int
    stages: int

    def constants(self, widen: bool) -> dict[str, Any]:
        """As a kernel is launched with them; `widen` for the interpreter."""
        return {
            "WIDEN": widen,
            "PLACES": self.places,
            "PIECE": self.piece,
            "STAGES": self.stages,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


class PairRow(NamedTuple):
    """For up to so many channels and a compute capability; the first that fits is taken."""

    channels: int
    blocks: PairBlocks
    since: int = 80


# Of the kernels around triangle multiplication and triangle attention. All are known to compile without
# spills; which are the fastest has not been measured.
EDGES = (
    PairRow(128, PairBlocks(64, 32, 4, 2)),
    PairRow(256, PairBlocks(64, 32, 4, 2)),
)
UPDATE = (
    PairRow(128, PairBlocks(64, 32, 4, 2)),
    PairRow(256, PairBlocks(64, 32, 4, 2)),
)
HEADS = (
    PairRow(128, PairBlocks(64, 64, 4, 2)),
    PairRow(256, PairBlocks(64, 64, 4, 2)),
)
OUTPUT = (PairRow(256, PairBlocks(64, 64, 4, 2)),)
PAIR_TABLES = {"edges": EDGES, "update": UPDATE, "heads": HEADS, "output": OUTPUT}
_PAIRS_INTERPRETED = PairBlocks(16, 16, 1, 1)


def pair_blocks(table: tuple[PairRow, ...], channels: int, outputs: int, arch: int) -> PairBlocks:
    """Return how pairs are cut for a compute capability; 0 stands for the interpreter."""
    blocks = pair_row(table, channels, arch).blocks if arch else _PAIRS_INTERPRETED
    return blocks._replace(piece=min(blocks.piece, outputs))


def pair_row(table: tuple[PairRow, ...], channels: int, arch: int) -> PairRow:
    """Return the first of a table that fits."""
    return next(row for row in table if channels <= row.channels and arch >= row.since)


def blocks(kernel: str, problem: Problem, arch: int) -> Blocks:
    """Of one of TABLES' kernels, for a compute capability; 0 for the interpreter."""
    if not arch:
        return _INTERPRETED
    found = row(TABLES[kernel], problem, arch).blocks
    if kernel == "keys":  # which owns keys, and walks over the queries
        return found._replace(queries=found.keys, keys=found.queries)
    return found


def row(table: tuple[Row, ...], problem: Problem, arch: int) -> Row:
    """The first of a table that fits."""
    arithmetic, channels = _arithmetic(problem), _channels(problem)
    dim = max(problem.q.shape[-1], problem.v.shape[-1])
    return next(
        row
        for row in table
        if row.arithmetic == arithmetic
        and dim <= row.dim
        and channels <= row.channels
        and arch >= row.since
        and (row.dense or problem.bias is None)
    )


def _channels(problem: Problem) -> int:
    """Of the factors; a bias that cannot be loaded in pieces has as many addresses as 128 have operands."""
    bias = problem.bias
    scattered = bias is not None and (bias.stride(-1) != 1 or bias.stride(-2) % 16 != 0)
    return problem.rank + 128 * scattered


def _arithmetic(problem: Problem) -> str:
    if problem.q.dtype == torch.float32:
        return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "fp32"
    return "half"
