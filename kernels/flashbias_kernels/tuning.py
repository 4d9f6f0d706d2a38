"""How a launch cuts its work, by what is known of the problem before it runs.

The sizes were chosen by `python -m flashbias_kernels.audit`, which reads machine code, and not yet by timing:
the fewest instructions for each score among those whose loops keep everything in registers, with room for two
programs on a multiprocessor where that can be had, and shared memory for every GPU from sm_80 to sm_100.
Where ANY stands, the most demanding problems (heads of 128, all 240 channels, gradients of own factors) are
right but slow: nothing keeps their loops in registers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from flashbias_kernels.problem import Problem

ANY = 10**9


class Blocks(NamedTuple):
    """Queries and keys of a tile, warps of a program, tiles that are in flight, and a thread's most registers."""

    queries: int
    keys: int
    warps: int
    stages: int
    registers: int | None = None


class Row(NamedTuple):
    """For heads of up to `dim` and factors of up to `channels`; the first row that fits is taken.

    The arithmetic is `half` for 16 bits, `mixed` where factors beside these have 32, `fp32`, or `tf32`, which
    is fp32 where torch may use tensor cores. Backward, a program owns queries and walks over the keys.
    """

    arithmetic: str
    dim: int
    channels: int
    blocks: Blocks


FORWARD = (
    Row("half", 32, 16, Blocks(64, 64, 4, 3, 128)),
    Row("half", 32, 32, Blocks(64, 64, 4, 3)),
    Row("half", 64, 32, Blocks(64, 64, 4, 3)),
    Row("half", 64, 128, Blocks(64, 64, 4, 2)),
    Row("half", 128, 96, Blocks(64, 32, 4, 3)),
    Row("half", ANY, ANY, Blocks(64, 16, 4, 1)),
    Row("mixed", 64, 32, Blocks(64, 32, 4, 2)),
    Row("mixed", ANY, ANY, Blocks(64, 16, 4, 1)),
    Row("tf32", 64, 32, Blocks(64, 16, 4, 3)),
    Row("tf32", ANY, ANY, Blocks(64, 16, 4, 1)),
    Row("fp32", 32, 32, Blocks(64, 32, 4, 2)),
    Row("fp32", ANY, ANY, Blocks(16, 16, 8, 2)),
)
BACKWARD = (
    Row("half", 32, 32, Blocks(64, 32, 4, 3)),
    Row("half", 64, 128, Blocks(64, 32, 4, 2)),
    Row("half", 128, 96, Blocks(64, 32, 4, 2)),
    Row("half", ANY, ANY, Blocks(64, 16, 4, 1)),
    Row("mixed", 32, 32, Blocks(64, 32, 4, 1)),
    Row("mixed", ANY, ANY, Blocks(64, 16, 4, 1)),
    Row("tf32", 32, 32, Blocks(64, 32, 4, 2)),
    Row("tf32", ANY, ANY, Blocks(64, 16, 4, 1)),
    Row("fp32", 32, 32, Blocks(32, 32, 8, 2)),
    Row("fp32", ANY, ANY, Blocks(16, 16, 8, 2)),
)
PAIRS = (
    Row("half", 32, 32, Blocks(64, 64, 4, 3)),
    Row("half", 64, 128, Blocks(64, 64, 4, 2)),
    *BACKWARD[2:],
)
_INTERPRETED = Blocks(16, 16, 1, 1)


def forward_blocks(problem: Problem, interpreted: bool) -> Blocks:
    """Of the forward kernel."""
    return _INTERPRETED if interpreted else row(FORWARD, problem).blocks


def backward_blocks(problem: Problem, interpreted: bool, kernel: str = "queries") -> Blocks:
    """Of a backward kernel: `queries`, `keys` or `pairs`."""
    if interpreted:
        return _INTERPRETED
    blocks = row(PAIRS if kernel == "pairs" else BACKWARD, problem).blocks
    if kernel == "keys":  # which owns keys, and walks over the queries
        return blocks._replace(queries=blocks.keys, keys=blocks.queries)
    return blocks


def row(table: tuple[Row, ...], problem: Problem) -> Row:
    """The first of FORWARD or BACKWARD that fits."""
    arithmetic, channels = _arithmetic(problem), _channels(problem)
    dim = max(problem.q.shape[-1], problem.v.shape[-1])
    return next(
        row for row in table if row.arithmetic == arithmetic and dim <= row.dim and channels <= row.channels
    )


def _channels(problem: Problem) -> int:
    """Of the factors; a bias that cannot be loaded in pieces has as many addresses as 128 have operands."""
    bias = problem.bias
    scattered = bias is not None and (bias.stride(-1) != 1 or bias.stride(-2) % 16 != 0)
    return problem.rank + 128 * scattered


def _arithmetic(problem: Problem) -> str:
    if problem.q.dtype == torch.float32:
        return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "fp32"
    wide_factors = problem.q_factor is not None and problem.q_factor.dtype == torch.float32
    return "mixed" if wide_factors else "half"
