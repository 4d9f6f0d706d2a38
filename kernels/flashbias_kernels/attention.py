"""The public function: checks its arguments, then runs them through torch's fused attention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def biased_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Compute ``softmax(scale * q k^T + bias) v`` without materialising the scores.

    Args:
        q: Queries, ``(..., H, Lq, D)``.
        k: Keys, ``(..., H, Lk, D)``.
        v: Values, ``(..., H, Lk, Dv)``.
        bias: Added to the scaled scores, broadcastable to ``(..., H, Lq, Lk)``; ``-inf`` forbids a pair.
        key_mask: Boolean, broadcastable to ``(..., Lk)`` over the leading dimensions without the heads;
            true where a key may be attended.
        scale: Factor on the scores, ``1 / sqrt(D)`` by default.

    Returns:
        ``(..., H, Lq, Dv)`` in the dtype of ``q``. A query with no key left to attend gives zeros.

    Raises:
        ValueError: Shapes, dtypes or devices that do not fit together.
    """
    _check(q, k, v, bias, key_mask)
    if key_mask is None and bias is None:
        return scaled_dot_product_attention(q, k, v, scale=scale)
    allowed = None if key_mask is None else key_mask[..., None, None, :]
    if bias is None:
        assert allowed is not None
        out = scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale)
        return out.masked_fill(~allowed.any(-1, keepdim=True), 0.0)
    bias = bias.to(q.dtype)
    if allowed is not None:
        bias = bias.masked_fill(~allowed, float("-inf"))
    out = scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    # torch's kernels disagree about a row of -inf (NaN or zeros), so it is decided here.
    return out.masked_fill((bias == float("-inf")).all(-1, keepdim=True), 0.0)


def _check(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, key_mask: Tensor | None) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() < 3:
            raise ValueError(f"{name} must be (..., heads, length, dim), got shape {tuple(tensor.shape)}")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {tensor.dtype}")
        if tensor.dtype != q.dtype:
            raise ValueError(f"{name} is {tensor.dtype} but q is {q.dtype}")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q and k differ in their last dimension: {q.shape[-1]} and {k.shape[-1]}")
    if k.shape[-2] != v.shape[-2]:
        raise ValueError(f"k and v differ in length: {k.shape[-2]} and {v.shape[-2]}")
    if not q.shape[-3] == k.shape[-3] == v.shape[-3]:
        raise ValueError(f"q, k and v have {q.shape[-3]}, {k.shape[-3]} and {v.shape[-3]} heads")
    for name, other in (("k", k), ("v", v), ("bias", bias), ("key_mask", key_mask)):
        if other is not None and other.device != q.device:
            raise ValueError(f"{name} is on {other.device} but q is on {q.device}")
    leading = _broadcast("the leading dimensions of q, k and v", q.shape[:-3], k.shape[:-3], v.shape[:-3])
    _check_bias(bias, (*leading, q.shape[-3], q.shape[-2], k.shape[-2]))
    _check_mask(key_mask, (*leading, k.shape[-2]))


def _check_bias(bias: Tensor | None, scores: tuple[int, ...]) -> None:
    if bias is not None and not bias.is_floating_point():
        raise ValueError(f"bias must be floating point, got {bias.dtype}; a boolean mask is key_mask")
    if bias is not None and _broadcast("bias and the scores", bias.shape, scores) != scores:
        raise ValueError(f"bias of shape {tuple(bias.shape)} does not broadcast to the scores {scores}")


def _check_mask(key_mask: Tensor | None, keys: tuple[int, ...]) -> None:
    if key_mask is not None and key_mask.dtype != torch.bool:
        raise ValueError(f"key_mask must be boolean, got {key_mask.dtype}")
    if key_mask is not None and _broadcast("key_mask and the keys", key_mask.shape, keys) != keys:
        raise ValueError(f"key_mask of shape {tuple(key_mask.shape)} does not broadcast to the keys {keys}")


def _broadcast(what: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return tuple(torch.broadcast_shapes(*shapes))
    except RuntimeError:
        listed = ", ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(f"{what} do not broadcast: {listed}") from None
