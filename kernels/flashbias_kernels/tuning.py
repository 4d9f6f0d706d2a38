"""How a launch cuts its work, by what is known of the problem before it runs."""

from __future__ import annotations

from typing import NamedTuple

from flashbias_kernels.problem import Problem


class Blocks(NamedTuple):
    """Queries and keys of a tile, warps of a program, and tiles that are loaded ahead."""

    queries: int
    keys: int
    warps: int
    stages: int


_INTERPRETED = Blocks(16, 16, 1, 1)


def forward_blocks(problem: Problem, interpreted: bool) -> Blocks:
    """Of the forward kernel."""
    return _INTERPRETED if interpreted else Blocks(64, 64, 4, 3)


def backward_blocks(problem: Problem, interpreted: bool) -> Blocks:
    """Of all backward kernels."""
    return _INTERPRETED if interpreted else Blocks(64, 64, 4, 2)
