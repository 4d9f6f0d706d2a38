"""The definition, written out: what every fast path is compared with."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def reference_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Biased attention with all scores in memory, computed in ``dtype`` (see ``biased_attention``)."""
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    scores = q @ k.transpose(-1, -2) * (1.0 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if bias is not None:
        scores = scores + bias.to(dtype)
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[..., None, None, :], float("-inf"))
    # A row without a key has no maximum; its weights are zero, not NaN.
    top = scores.amax(-1, keepdim=True).clamp_min(torch.finfo(dtype).min)
    weights = torch.exp(scores - top)
    total = weights.sum(-1, keepdim=True)
    return (weights @ v) / total.where(total > 0, 1.0)
