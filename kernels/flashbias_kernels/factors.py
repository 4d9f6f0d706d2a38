"""Biases whose factors are known in closed form, for `biased_attention`.

Each function returns `(q_factor, k_factor)`, whose product is the bias. They are float32: positions and
squares of distances need more digits than bf16 has, and `biased_attention` takes float32 factors beside
16-bit queries.
"""

from __future__ import annotations

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]


def alibi(slopes: Tensor, queries: int, keys: int) -> Factors:
    """ALiBi: ``slope * (j - i)`` for query `i` and key `j`, rank 2.

    Args:
        slopes: One for each head.
        queries: How many queries.
        keys: How many keys.

    Returns:
        ``(H, queries, 2)`` and ``(1, keys, 2)``.
    """
    position = torch.arange(queries, device=slopes.device, dtype=torch.float32)
    slope = slopes.float()[:, None].expand(-1, queries)
    key = torch.arange(keys, device=slopes.device, dtype=torch.float32)
    return torch.stack([-slope * position, slope], -1), torch.stack([torch.ones_like(key), key], -1)[None]


def squared_distance(x: Tensor, y: Tensor, weight: Tensor) -> Factors:
    """``-weight * |x_i - y_j|^2``, rank `dim + 2` (5 in space).

    Args:
        x: Where the queries are, ``(..., queries, dim)``.
        y: Where the keys are, ``(..., keys, dim)``.
        weight: One for each head.

    Returns:
        ``(..., H, queries, dim + 2)`` and ``(..., 1, keys, dim + 2)``.
    """
    x, y = x.float(), y.float()
    centre = y.mean(-2, keepdim=True)  # the same distances, from smaller numbers
    x, y = (x - centre).unsqueeze(-3), (y - centre).unsqueeze(-3)
    ones_x, ones_y = torch.ones_like(x[..., :1]), torch.ones_like(y[..., :1])
    q_factor = torch.cat([-x.square().sum(-1, keepdim=True), 2 * x, -ones_x], -1)
    k_factor = torch.cat([ones_y, y, y.square().sum(-1, keepdim=True)], -1)
    return weight.float()[:, None, None] * q_factor, k_factor


def table(bias: Tensor, rank: int) -> Factors:
    """The best factors of a given rank for a constant bias, as a trained table of relative positions is.

    Args:
        bias: ``(..., queries, keys)``.
        rank: How many channels; with as many as queries or keys nothing is lost.

    Returns:
        ``(..., queries, rank)`` and ``(..., keys, rank)``.
    """
    u, s, v = torch.linalg.svd(bias.double(), full_matrices=False)
    root = s[..., :rank].sqrt().unsqueeze(-2)
    return (u[..., :rank] * root).float(), (v.transpose(-1, -2)[..., :rank] * root).float()
