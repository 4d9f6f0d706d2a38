"""What the kernels read in place of what the caller gave, where that does not suit them.

Most callers' tensors are read as they are; what is broadcast stays so.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from flashbias_kernels.problem import Problem

# A float32 is the sum of three bf16, its first, middle and last digits. Of the nine products of two such
# numbers these six matter: the others are below the last digit of the first.
PRODUCTS = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0))
QUERY_PARTS, KEY_PARTS = ([pair[side] for pair in PRODUCTS] for side in (0, 1))


def readable(problem: Problem) -> Problem:
    """With channels side by side, and factors in 16 bits where heads are."""
    if not problem.has_wide_factors and all(t is None or t.stride(-1) == 1 for t in _with_channels(problem)):
        return problem
    q_factor, k_factor, ranks = problem.q_factor, problem.k_factor, problem.ranks
    if q_factor is not None and k_factor is not None and problem.has_wide_factors:
        q_factor = _in_parts(problem, q_factor, QUERY_PARTS)
        k_factor = _in_parts(problem, k_factor, KEY_PARTS)
        ranks = None
    return replace(
        problem,
        q=with_channels_together(problem.q),
        k=with_channels_together(problem.k),
        v=with_channels_together(problem.v),
        q_factor=None if q_factor is None else with_channels_together(q_factor),
        k_factor=None if k_factor is None else with_channels_together(k_factor),
        ranks=ranks,
    )


def _with_channels(problem: Problem) -> tuple[Tensor | None, ...]:
    return problem.q, problem.k, problem.v, problem.q_factor, problem.k_factor


def with_channels_together(tensor: Tensor) -> Tensor:
    """With the channels of each place side by side in memory, as layers leave them: else a copy.

    Kernels that read single numbers would take longer than copying does. Nor can they be trusted: ptxas 12.8,
    of Triton 3.4 to 3.6, compiles some such loops for sm_90 to products with memory that nobody chose.
    """
    if tensor.stride(-1) == 1:
        return tensor
    return once(tensor).clone(memory_format=torch.contiguous_format).expand(tensor.shape)


def once(tensor: Tensor) -> Tensor:
    """What a broadcast tensor repeats; its last dimension is left as it is."""
    return tensor[tuple(slice(1 if step == 0 else None) for step in tensor.stride()[:-1])]


def _in_parts(problem: Problem, factor: Tensor, parts: list[int]) -> Tensor:
    """A float32 factor as channels of bf16, whose products with those of the other are its products."""
    rest, found = problem.only_live(once(factor)), []
    for _ in range(3):
        found.append(rest.to(torch.bfloat16))
        rest = rest - found[-1].float()
    channels = torch.cat([found[part] for part in parts], -1)
    return channels.expand(*factor.shape[:-3], *channels.shape[-3:])


def of_whole(gradient: Tensor, parts: list[int], rank: int) -> Tensor:
    """The gradient of a float32 factor, from that of its channels of bf16: where its first digits stand.

    What these are multiplied by adds up to the whole of the other factor.
    """
    channels = gradient.split(rank, -1)
    first, *others = (channel for channel, part in zip(channels, parts, strict=True) if part == 0)
    return sum(others, first)
