"""The same attention under the signatures that people know from elsewhere."""

from __future__ import annotations

from torch import Tensor

from flashbias_kernels.attention import biased_attention


def flash_bias_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_bias: Tensor | None = None,
    k_bias: Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    softmax_scale: float | None = None,
) -> Tensor:
    """Attention with a factored bias, as FlashBias's authors call it.

    Args:
        q: ``(batch, queries, heads, dim)``.
        k: ``(batch, keys, heads, dim)``.
        v: The same.
        q_bias: ``(batch, queries, heads, rank)``; `batch` and `heads` may be 1.
        k_bias: ``(batch, keys, heads, rank)``, likewise.
        mask: Added to the scores, broadcastable to ``(batch, heads, queries, keys)``.
        causal: Whether a query sees no later key.
        softmax_scale: ``1 / sqrt(dim)`` by default.

    Returns:
        ``(batch, queries, heads, dim)``.
    """
    q, k, v = (t.transpose(-2, -3) for t in (q, k, v))
    q_factor, k_factor = (None if t is None else t.transpose(-2, -3) for t in (q_bias, k_bias))
    out = biased_attention(
        q, k, v, q_factor=q_factor, k_factor=k_factor, bias=mask, causal=causal, scale=softmax_scale
    )
    return out.transpose(-2, -3)


def triangle_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Triangle attention, as cuEquivariance calls it.

    Args:
        q: ``(batch, rows, heads, queries, dim)``; a single batch may be left out of all shapes.
        k: ``(batch, rows, heads, keys, dim)``.
        v: The same.
        bias: ``(batch, 1, heads, queries, keys)``, shared by the rows.
        mask: ``(batch, rows, 1, 1, keys)``, not zero where a key may be attended.
        scale: ``1 / sqrt(dim)`` by default.

    Returns:
        ``(batch, rows, heads, queries, dim)``.
    """
    key_mask = None if mask is None else mask[..., 0, 0, :].bool()
    return biased_attention(q, k, v, bias=bias, key_mask=key_mask, scale=scale)
