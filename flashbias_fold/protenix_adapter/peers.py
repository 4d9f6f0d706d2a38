"""Protenix's own attention functions, called as its triangle attention layer calls them: for benchmarks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flashbias_fold.protenix_adapter import environment

_MASKED = 1e9  # `inf` of Protenix's TriangleAttention


def mask_bias(key_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What Protenix adds to the scores for a mask: zeros where nothing is masked, as it always is added.

    Args:
        key_mask: ``(rows, keys)``, true where a key may be attended.
        dtype: That of the queries.

    Returns:
        ``(rows, 1, 1, keys)``.
    """
    return (_MASKED * (key_mask.to(dtype) - 1))[:, None, None, :]


def torch_attention(q: Tensor, k: Tensor, v: Tensor, biases: list[Tensor]) -> Tensor:
    """The plain torch path, Protenix's way on a CPU.

    Protenix scales the queries in place, which are its own; here others need them too, so that this step,
    small beside the passes over all scores, writes to new memory.

    Args:
        q: ``(rows, heads, queries, dim)``.
        k: The same.
        v: The same.
        biases: That of the mask, and ``(1, heads, queries, keys)``.
    """
    environment.prepare()
    from protenix.model.triangular.layers import _attention

    return _attention(q / math.sqrt(q.shape[-1]), k, v, biases)


def triattention(q: Tensor, k: Tensor, v: Tensor, biases: list[Tensor]) -> Tensor:
    """Protenix's own Triton kernel; the arguments of `torch_attention`."""
    environment.prepare()
    from protenix.model.triangular.layers import _tri_attention

    return _tri_attention(q / math.sqrt(q.shape[-1]), k, v, biases).transpose(-2, -3)
