"""What lies around triangle attention: pairs normalised and projected to heads and biases, heads to pairs.

One kernel before the attention, which reads the pairs once, transposed or not, and one behind it, which adds
to them where they lie.
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
from flashbias_kernels.tuning import HEADS, OUTPUT, PairBlocks, pair_blocks

CHANNELS = (16, 32, 64, 128, 256)
_MOST_HEADS = 16
_UNIT_STEP = 64  # so that every size of a piece divides the units
_NEIGHBOURS = 16  # a GPU loads so many of a bias at once, where its rows begin a multiple of it apart
_OPERANDS = (torch.bfloat16, torch.float16)
_HAVE_TRITON = find_spec("triton") is not None


class HeadWeights(NamedTuple):
    """Weights as the kernel reads them; made once by `pack`, used for many calls.

    Attributes:
        units: (U, C), of all linear layers that make heads, one after the other.
        bias: (H, C), of the layer that makes a bias for each head.
        norm: Of the pairs.
    """

    units: Tensor
    bias: Tensor
    norm: Norm

    @classmethod
    def pack(
        cls,
        layers: list[Tensor],
        bias: Tensor,
        norm: Norm = Norm(),  # noqa: B008
        dtype: torch.dtype | None = None,
    ) -> HeadWeights:
        """Copy the weights of linear layers, as torch has them, and of a normalisation.

        Args:
            layers: (units, C) each.
            bias: (H, C).
            norm: Of the pairs.
            dtype: Of the products' operands, that of the weights by default.
        """
        dtype = dtype or bias.dtype
        units = torch.cat([layer.detach() for layer in layers]).to(dtype)
        return cls(units, bias.detach().to(dtype, copy=True).contiguous(), norm.packed())


class Heads(NamedTuple):
    """What pairs are projected to.

    Attributes:
        units: (..., I, J, U); None where they were not asked for.
        bias: (..., H, I, J), its rows as far apart as the attention reads them fastest; None likewise.
    """

    units: Tensor | None
    bias: Tensor | None


def project_heads(
    x: Tensor, weights: HeadWeights, *, with_units: bool = True, with_bias: bool = True
) -> Heads:
    """Normalise pairs and project them, in the weights' dtype.

    Sums and the normalisation are in float32. What the kernel does not take (see `why_not_fused`) torch
    computes. There are no gradients.

    Args:
        x: ``(..., I, J, C)``, in any dtype; transposed where it is that of an ending node.
        weights: From `HeadWeights.pack`.
        with_units: Whether the heads are wanted.
        with_bias: Whether the bias is.
    """
    dtype = weights.units.dtype
    with torch.no_grad():
        if why_not_fused(x, len(weights.units), len(weights.bias), dtype) is not None:
            found = Heads(*reference_heads(x, weights, dtype))
            return Heads(found.units if with_units else None, found.bias if with_bias else None)
        pairs = x.flatten(0, -4) if x.dim() > 3 else x[None]
        units = _room_for_units(pairs, weights) if with_units else None
        bias = _room_for_bias(pairs, weights) if with_bias else None
        if pairs.numel():
            heads_call(pairs, weights, units, bias).run()
        leading = x.shape[:-3]
        return Heads(
            *(None if t is None else t.unflatten(0, leading) if leading else t[0] for t in (units, bias))
        )


def _room_for_units(pairs: Tensor, weights: HeadWeights) -> Tensor:
    return pairs.new_empty(*pairs.shape[:-1], len(weights.units), dtype=weights.units.dtype)


def _room_for_bias(pairs: Tensor, weights: HeadWeights) -> Tensor:
    batch, rows, places, _ = pairs.shape
    room = -(-places // _NEIGHBOURS) * _NEIGHBOURS
    whole = pairs.new_empty(batch, len(weights.bias), rows, room, dtype=weights.units.dtype)
    return whole[..., :places]


def reference_heads(
    x: Tensor, weights: HeadWeights, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Compute `project_heads` in torch, one operation after the other.

    Args:
        x: ``(..., I, J, C)``.
        weights: From `HeadWeights.pack`.
        dtype: Of the products' operands and of the output. The normalisation is in float32, or wider.
    """
    y = weights.norm.of(x.to(torch.promote_types(dtype, torch.float32))).to(dtype)
    units, bias = (linear(y, weight.to(dtype)) for weight in (weights.units, weights.bias))
    return units, bias.movedim(-1, -3)


def add_output(x: Tensor, units: Tensor, weight: Tensor) -> Tensor:
    """Add what heads are projected to, ``x += units @ weight.T``, and return `x`.

    Sums are in float32, the products' operands in the weight's dtype. There are no gradients.

    Args:
        x: ``(..., I, J, C)``, in any dtype; transposed where it is that of an ending node.
        units: ``(..., I, J, U)``, of the weight's dtype.
        weight: ``(C, U)``.
    """
    with torch.no_grad():
        if why_not_added(x, units, weight) is not None:
            return x.copy_(reference_output(x, units, weight, weight.dtype))
        pairs = x.flatten(0, -4) if x.dim() > 3 else x[None]
        if pairs.data_ptr() != x.data_ptr():
            return x.copy_(reference_output(x, units, weight, weight.dtype))
        if pairs.numel():
            output_call(pairs, units.contiguous(), weight.contiguous()).run()
        return x


def reference_output(x: Tensor, units: Tensor, weight: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Compute what `add_output` makes of `x`, in torch.

    Args:
        x: ``(..., I, J, C)``.
        units: ``(..., I, J, U)``.
        weight: ``(C, U)``.
        dtype: Of the product's operands. The sum is in float32, or wider.
    """
    wide = torch.promote_types(dtype, torch.float32)
    return x.to(wide) + linear(units.to(dtype), weight.to(dtype)).to(wide)


def why_not_fused(x: Tensor, units: int, heads: int, operands: torch.dtype) -> str | None:
    """Say why the kernel does not take pairs; None if it does.

    Args:
        x: ``(..., I, J, C)``.
        units: Of all heads.
        heads: That have a bias.
        operands: The weights' dtype.
    """
    if (reason := _why_not(x, operands)) is not None:
        return reason
    if units % _UNIT_STEP or not 1 <= heads <= _MOST_HEADS:
        return f"{units} units, {heads} heads"
    return None


def why_not_added(x: Tensor, units: Tensor, weight: Tensor) -> str | None:
    """Say why the kernel does not add to pairs; None if it does."""
    if (reason := _why_not(x, weight.dtype)) is not None:
        return reason
    if units.dtype != weight.dtype or units.shape[-1] not in CHANNELS:
        return f"{units.shape[-1]} units of {units.dtype} for a weight of {weight.dtype}"
    return None


def _why_not(x: Tensor, operands: torch.dtype) -> str | None:
    if not (_HAVE_TRITON and (x.is_cuda or interpreted())):
        return f"x is on {x.device}" if _HAVE_TRITON else "Triton is not installed"
    if x.dtype not in (*_OPERANDS, torch.float32) or operands not in _OPERANDS:
        return f"dtypes are {x.dtype} and {operands}"
    if x.shape[-1] not in CHANNELS or x.stride(-1) != 1:
        return f"{x.shape[-1]} channels, {x.stride(-1)} apart"
    return None


def heads_call(
    pairs: Tensor,
    weights: HeadWeights,
    units: Tensor | None,
    bias: Tensor | None,
    blocks: PairBlocks | None = None,
) -> Call:
    """Return the launch that writes `units` (B, I, J, U) and `bias` (B, H, I, J) of pairs (B, I, J, C).

    `blocks` are those of the table by default.
    """
    from flashbias_kernels.projections_kernel import heads_kernel

    batch, rows, places, channels = pairs.shape
    blocks = blocks or pair_blocks(HEADS, channels, len(weights.units), launch.architecture(pairs))
    scale, shift, eps = weights.norm
    given = [weights.units if t is None else t for t in (scale, shift, units, bias)]
    arguments: list[Any] = [
        pairs, *given[:2], weights.units, weights.bias, *given[2:], rows, places,
        *pairs.stride()[:3], *((0, 0, 0) if bias is None else bias.stride()[:3]), eps,
    ]  # fmt: skip
    options = {
        "HAS_SCALE": scale is not None,
        "HAS_SHIFT": shift is not None,
        "HAS_HEADS": units is not None,
        "HAS_BIAS": bias is not None,
        "C": channels,
        "UNITS": len(weights.units),
        "HEADS": len(weights.bias),
        **blocks.constants(interpreted()),
    }
    return Call(heads_kernel, (batch * rows * -(-places // blocks.places),), arguments, options)


def output_call(pairs: Tensor, units: Tensor, weight: Tensor, blocks: PairBlocks | None = None) -> Call:
    """Return the launch that adds `units` (B, I, J, U), projected by `weight`, to pairs (B, I, J, C).

    `blocks` are those of the table by default.
    """
    from flashbias_kernels.projections_kernel import output_kernel

    batch, rows, places, channels = pairs.shape
    blocks = blocks or pair_blocks(OUTPUT, max(weight.shape), channels, launch.architecture(pairs))
    arguments: list[Any] = [units, weight, pairs, rows, places, *pairs.stride()[:3]]
    options = {"C": channels, "UNITS": weight.shape[1], **blocks.constants(interpreted())}
    return Call(output_kernel, (batch * rows * -(-places // blocks.places),), arguments, options)
