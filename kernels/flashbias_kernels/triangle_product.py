"""Triangle multiplication of AlphaFold 3: each pair is updated from the two other edges of all its triangles.

Two kernels and a batched product of matrices: the edges are normalised, projected, gated and laid out channel
by channel in one, the products normalised, projected, gated and added in the other.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from flashbias_kernels import launch
from flashbias_kernels.launch import Call, interpreted
from flashbias_kernels.norm import Norm
from flashbias_kernels.tuning import EDGES, UPDATE, PairBlocks, pair_blocks

CHANNELS = (16, 32, 64, 128, 256)
_ROOM = 16  # rows of a matrix begin a multiple of so many numbers apart, so that loads take many at once
_OPERANDS = (torch.bfloat16, torch.float16)
_HAVE_TRITON = find_spec("triton") is not None


class TriangleWeights(NamedTuple):
    """Weights as the kernels read them; made once by `pack`, used for many calls.

    Attributes:
        gate: (2 * H, C), of the linear layers whose outputs go through a sigmoid: of the first edge, then of
            the second.
        value: (2 * H, C), of those that are multiplied by it.
        update: (C, H), of the layer behind the product of edges.
        update_gate: (C, C), of the layer whose output gates that.
        norm: Of the pairs.
        product_norm: Of the products, over their H channels.
    """

    gate: Tensor
    value: Tensor
    update: Tensor
    update_gate: Tensor
    norm: Norm
    product_norm: Norm

    @classmethod
    def pack(
        cls,
        gates: tuple[Tensor, Tensor],
        values: tuple[Tensor, Tensor],
        update: Tensor,
        update_gate: Tensor,
        norm: Norm = Norm(),  # noqa: B008
        product_norm: Norm = Norm(),  # noqa: B008
        dtype: torch.dtype | None = None,
    ) -> TriangleWeights:
        """Copy the weights of six linear layers, as torch has them, and of two normalisations.

        Args:
            gates: (H, C) each, of the first and the second edge.
            values: (H, C) each.
            update: (C, H).
            update_gate: (C, C).
            norm: Of the pairs.
            product_norm: Of the products.
            dtype: Of the products' operands, that of the weights by default.
        """
        dtype = dtype or update.dtype
        gate, value = (torch.cat([t.detach() for t in both]).to(dtype) for both in (gates, values))
        update, update_gate = (t.detach().to(dtype, copy=True).contiguous() for t in (update, update_gate))
        return cls(gate, value, update, update_gate, norm.packed(), product_norm.packed())

    @property
    def hidden(self) -> int:
        """Channels of an edge."""
        return self.update.shape[1]


def triangle_multiplication(
    x: Tensor,
    weights: TriangleWeights,
    mask: Tensor | None = None,
    *,
    outgoing: bool,
    add_input: bool = False,
    in_place: bool = False,
) -> Tensor:
    """Update pairs from the edges that leave, or that reach, the same third place.

    Of the normalised pairs ``y``, ``edge = sigmoid(y @ gate.T) * (y @ value.T) * mask`` twice; the products
    are ``sum_k first[i, k] * second[j, k]`` of outgoing edges, ``sum_k first[k, i] * second[k, j]`` of
    incoming ones; the update is ``(normalised(products) @ update.T) * sigmoid(y @ update_gate.T)``. Sums and
    what is not a product are in float32; operands, edges and products in the weights' dtype. What the kernels
    do not take (see `why_not_fused`) torch computes, by the same formula. There are no gradients.

    Args:
        x: ``(..., N, N, C)``, in any dtype.
        weights: From `TriangleWeights.pack`.
        mask: ``(..., N, N)``, what the edges are multiplied by; None for ones.
        outgoing: Whether they leave.
        add_input: Add `x` to it, as the layer around it does.
        in_place: Write to `x` and return it.
    """
    if x.dim() < 3 or x.shape[-2] != x.shape[-3]:
        raise ValueError(f"x: expected (..., N, N, C), got {tuple(x.shape)}")
    if mask is not None and mask.shape != x.shape[:-1]:
        raise ValueError(f"mask: expected {tuple(x.shape[:-1])}, got {tuple(mask.shape)}")
    dtype = weights.update.dtype
    with torch.no_grad():
        if why_not_fused(x, weights.hidden, dtype) is not None:
            result = reference_triangle_multiplication(
                x, weights, mask, dtype, outgoing=outgoing, add_input=add_input
            ).to(x.dtype)
            return x.copy_(result) if in_place else result
        pairs = x.reshape(-1, *x.shape[-3:]).contiguous()
        reads_x = pairs.data_ptr() == x.data_ptr()
        out = pairs if in_place and reads_x else torch.empty(pairs.shape, dtype=x.dtype, device=x.device)
        if pairs.numel():
            products = _products(pairs, weights, mask, outgoing)
            update_call(pairs, products, weights, out, add_input).run()
        if not in_place:
            return out.view(x.shape)
        return x if reads_x else x.copy_(out.view(x.shape))


def reference_triangle_multiplication(
    x: Tensor,
    weights: TriangleWeights,
    mask: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
    *,
    outgoing: bool,
    add_input: bool = False,
) -> Tensor:
    """Compute `triangle_multiplication` in torch, one operation after the other.

    Args:
        x: ``(..., N, N, C)``.
        weights: From `TriangleWeights.pack`.
        mask: ``(..., N, N)``.
        dtype: Of the products' operands, the edges and what they give. All else is in float32, or wider.
        outgoing: Whether edges leave the third place.
        add_input: Add `x` to it.
    """
    wide = torch.promote_types(dtype, torch.float32)

    def projected(values: Tensor, weight: Tensor) -> Tensor:
        return linear(values.to(dtype), weight.to(dtype)).to(wide)

    y = weights.norm.of(x.to(wide))
    edges = torch.sigmoid(projected(y, weights.gate)) * projected(y, weights.value)
    if mask is not None:
        edges = edges * mask.to(wide)[..., None]
    first, second = edges.to(dtype).movedim(-1, -3).chunk(2, -3)
    products = first @ second.mT if outgoing else first.mT @ second
    products = weights.product_norm.of(products.movedim(-3, -1).to(wide))
    out = projected(products, weights.update) * torch.sigmoid(projected(y, weights.update_gate))
    return x.to(wide) + out if add_input else out


def why_not_fused(x: Tensor, hidden: int, operands: torch.dtype) -> str | None:
    """Say why the kernels do not take it; None if they do.

    Args:
        x: ``(..., N, N, C)``.
        hidden: Channels of an edge.
        operands: The weights' dtype.
    """
    channels = x.shape[-1]
    if not (_HAVE_TRITON and (x.is_cuda or interpreted())):
        return f"x is on {x.device}" if _HAVE_TRITON else "Triton is not installed"
    if x.dtype not in (*_OPERANDS, torch.float32) or operands not in _OPERANDS:
        return f"dtypes are {x.dtype} and {operands}"
    if channels not in CHANNELS or hidden not in CHANNELS:
        return f"{channels} channels and edges of {hidden}"
    return None


def _products(pairs: Tensor, weights: TriangleWeights, mask: Tensor | None, outgoing: bool) -> Tensor:
    """Return what edges give: ``(H, B * N, room)``, of which the first N of each row count."""
    batch, length, _, _ = pairs.shape
    room = -(-length // _ROOM) * _ROOM
    edges = torch.empty(
        2 * weights.hidden, batch * length, room, dtype=weights.update.dtype, device=pairs.device
    )
    edges_call(pairs, weights, mask, edges).run()
    first, second = edges.view(2, weights.hidden * batch, length, room)
    products = torch.empty_like(first)
    if outgoing:
        torch.bmm(first, second.mT, out=products[..., :length])
    else:
        torch.bmm(first.mT[:, :length], second, out=products)
    return products.view(weights.hidden, batch * length, room)


def edges_call(
    pairs: Tensor,
    weights: TriangleWeights,
    mask: Tensor | None,
    edges: Tensor,
    blocks: PairBlocks | None = None,
) -> Call:
    """Return the launch that writes the edges (2 * H, B * N, room) of pairs (B, N, N, C).

    `blocks` are those of the table by default.
    """
    from flashbias_kernels.triangle_product_kernel import edges_kernel

    channels, length = pairs.shape[-1], pairs.shape[-2]
    blocks = blocks or pair_blocks(EDGES, channels, len(edges), launch.architecture(pairs))
    weight, bias, eps = weights.norm
    arguments: list[Any] = [
        pairs, pairs if weight is None else weight, pairs if bias is None else bias,
        weights.gate, weights.value, pairs if mask is None else mask.contiguous(), edges,
        length, edges.stride(1), edges.stride(0), eps,
    ]  # fmt: skip
    options = {
        "HAS_SCALE": weight is not None,
        "HAS_SHIFT": bias is not None,
        "HAS_MASK": mask is not None,
        "C": channels,
        "EDGES": len(edges),
        **blocks.constants(interpreted()),
    }
    return Call(edges_kernel, (edges.shape[1] * -(-length // blocks.places),), arguments, options)


def update_call(
    pairs: Tensor,
    products: Tensor,
    weights: TriangleWeights,
    out: Tensor,
    add_input: bool,
    blocks: PairBlocks | None = None,
) -> Call:
    """Return the launch that writes `out` (B, N, N, C), which may be `pairs`, from products (H, B * N, room).

    `blocks` are those of the table by default.
    """
    from flashbias_kernels.triangle_product_kernel import update_kernel

    channels, length = pairs.shape[-1], pairs.shape[-2]
    blocks = blocks or pair_blocks(
        UPDATE, max(channels, weights.hidden), channels, launch.architecture(pairs)
    )
    norm, product_norm = weights.norm, weights.product_norm
    norms = [
        pairs if t is None else t for t in (norm.weight, norm.bias, product_norm.weight, product_norm.bias)
    ]
    arguments: list[Any] = [
        pairs, *norms[:2], products, *norms[2:], weights.update, weights.update_gate, out,
        length, products.stride(1), products.stride(0), norm.eps, product_norm.eps,
    ]  # fmt: skip
    options = {
        "HAS_IN_SCALE": norm.weight is not None,
        "HAS_IN_SHIFT": norm.bias is not None,
        "HAS_OUT_SCALE": product_norm.weight is not None,
        "HAS_OUT_SHIFT": product_norm.bias is not None,
        "ADD": add_input,
        "C": channels,
        "HIDDEN": weights.hidden,
        **blocks.constants(interpreted()),
    }
    return Call(update_kernel, (products.shape[1] * -(-length // blocks.places),), arguments, options)
