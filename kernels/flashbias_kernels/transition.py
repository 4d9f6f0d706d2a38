"""The transition of AlphaFold 3: normalisation, a gated hidden layer, its output, added to what came in.

In one kernel the hidden layer, which is two to four times as wide as the rest, and there twice, is never in
memory.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, silu

from flashbias_kernels import launch
from flashbias_kernels.launch import Call, interpreted
from flashbias_kernels.tuning import TransitionBlocks, transition_blocks

CHANNELS = (16, 32, 64, 128, 256)
_HIDDEN_STEP = 64  # of the hidden layer's width, so that every size of a piece divides it
_GROUP = 8  # see transition_kernel.py
_OPERANDS = (torch.bfloat16, torch.float16)
_HAVE_TRITON = find_spec("triton") is not None


class TransitionWeights(NamedTuple):
    """Weights as the kernel reads them; made once by `pack`, used for many calls.

    Attributes:
        gate_and_value: (2 * H, C), of the two linear layers into the hidden layer; eight rows of the one
            take turns with eight rows of the other.
        output: (C, H), of the linear layer out of it.
        norm_weight: (C,), what the normalised channels are multiplied by; None for 1.
        norm_bias: (C,), what is added to them; None for 0.
        eps: Added to the variance.
    """

    gate_and_value: Tensor
    output: Tensor
    norm_weight: Tensor | None = None
    norm_bias: Tensor | None = None
    eps: float = 1e-5

    @classmethod
    def pack(
        cls,
        gate: Tensor,
        value: Tensor,
        output: Tensor,
        norm_weight: Tensor | None = None,
        norm_bias: Tensor | None = None,
        eps: float = 1e-5,
        dtype: torch.dtype | None = None,
    ) -> TransitionWeights:
        """Copy the weights of three linear layers, as torch has them.

        Args:
            gate: (H, C), of the layer whose output goes through SiLU; H is a multiple of 8.
            value: (H, C), of the layer that is multiplied by it.
            output: (C, H).
            norm_weight: (C,).
            norm_bias: (C,).
            eps: Added to the variance.
            dtype: Of the products' operands, that of the weights by default.
        """
        width, channels = gate.shape
        groups = [weight.detach().view(width // _GROUP, _GROUP, channels) for weight in (gate, value)]
        both = torch.stack(groups, 1).view(2 * width, channels).to(dtype or gate.dtype)
        scale, shift = (
            None if t is None else t.detach().float().contiguous() for t in (norm_weight, norm_bias)
        )
        return cls(both, output.detach().to(both.dtype).contiguous(), scale, shift, eps)

    @property
    def gate(self) -> Tensor:
        """(H, C)."""
        return self._unpacked(0)

    @property
    def value(self) -> Tensor:
        """(H, C)."""
        return self._unpacked(1)

    def _unpacked(self, which: int) -> Tensor:
        channels = self.gate_and_value.shape[1]
        return self.gate_and_value.view(-1, 2, _GROUP, channels)[:, which].reshape(-1, channels)


def transition(
    x: Tensor, weights: TransitionWeights, *, add_input: bool = False, in_place: bool = False
) -> Tensor:
    """Compute ``(silu(y @ gate.T) * (y @ value.T)) @ output.T`` of the normalised input ``y``.

    Sums and the normalisation are in float32, the products' operands in the weights' dtype. What the kernel
    does not take (see `why_not_fused`) torch computes, by the same formula. There are no gradients.

    Args:
        x: ``(..., C)``, in any dtype.
        weights: From `TransitionWeights.pack`.
        add_input: Add `x` to it, as the layer around a transition does.
        in_place: Write to `x` and return it.
    """
    reason = why_not_fused(x, weights.output.shape[1], weights.output.dtype)
    with torch.no_grad():
        if reason is not None:
            result = reference_transition(x, weights, weights.output.dtype, add_input=add_input).to(x.dtype)
            return x.copy_(result) if in_place else result
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        reads_x = rows.data_ptr() == x.data_ptr()
        out = rows if in_place and reads_x else torch.empty(rows.shape, dtype=x.dtype, device=x.device)
        if len(rows):
            transition_call(rows, weights, out, add_input).run()
        if not in_place:
            return out.view(x.shape)
        return x if reads_x else x.copy_(out.view(x.shape))


def reference_transition(
    x: Tensor, weights: TransitionWeights, dtype: torch.dtype = torch.float64, *, add_input: bool = False
) -> Tensor:
    """Compute `transition` in torch, one operation after the other.

    Args:
        x: ``(..., C)``.
        weights: From `TransitionWeights.pack`.
        dtype: Of the products' operands. What is not a product, and the output, is in float32, or wider.
        add_input: Add `x` to it.
    """
    wide = torch.promote_types(dtype, torch.float32)
    scale, shift = (None if t is None else t.to(wide) for t in (weights.norm_weight, weights.norm_bias))
    y = layer_norm(x.to(wide), x.shape[-1:], scale, shift, weights.eps).to(dtype)
    gate, value = (linear(y, weight.to(dtype)).to(wide) for weight in (weights.gate, weights.value))
    out = linear((silu(gate) * value).to(dtype), weights.output.to(dtype)).to(wide)
    return x.to(wide) + out if add_input else out


def why_not_fused(x: Tensor, hidden: int, operands: torch.dtype) -> str | None:
    """Say why the kernel does not take it; None if it does.

    Args:
        x: ``(..., C)``.
        hidden: The hidden layer's width.
        operands: The weights' dtype.
    """
    channels = x.shape[-1]
    if not (_HAVE_TRITON and (x.is_cuda or interpreted())):
        return f"x is on {x.device}" if _HAVE_TRITON else "Triton is not installed"
    if operands == torch.float32:
        return "float32 weights: Triton cuts off the digits that TF32 lacks, torch rounds them"
    if x.dtype not in (*_OPERANDS, torch.float32) or operands not in _OPERANDS:
        return f"dtypes are {x.dtype} and {operands}"
    if channels not in CHANNELS or hidden % _HIDDEN_STEP:
        return f"{channels} channels and {hidden} hidden units"
    if transition_blocks(channels, x.dtype, launch.architecture(x)) is None:
        return f"{channels} channels of {x.dtype} take more registers than this GPU has"
    return None


def transition_call(
    rows: Tensor,
    weights: TransitionWeights,
    out: Tensor,
    add_input: bool,
    blocks: TransitionBlocks | None = None,
) -> Call:
    """Return the launch that writes `out` (rows, C), which may be `rows`; both are contiguous.

    `blocks` are those of the table by default.
    """
    from flashbias_kernels.transition_kernel import transition_kernel

    channels, hidden = weights.output.shape
    blocks = blocks or transition_blocks(channels, rows.dtype, launch.architecture(rows))
    assert blocks is not None, "why_not_fused says so"
    tiles = -(-len(rows) // blocks.rows)
    norm_weight, norm_bias = weights.norm_weight, weights.norm_bias
    arguments: list[Any] = [
        rows, rows if norm_weight is None else norm_weight, rows if norm_bias is None else norm_bias,
        weights.gate_and_value, weights.output, out,
        len(rows), weights.eps,
    ]  # fmt: skip
    options = {
        "HAS_SCALE": norm_weight is not None,
        "HAS_SHIFT": norm_bias is not None,
        "ADD": add_input,
        "C": channels,
        "HIDDEN": hidden,
        "WIDEN": interpreted(),
        "ROWS": blocks.rows,
        "PIECE": blocks.hidden,
        "STAGES": blocks.stages,
        "num_warps": blocks.warps,
        "num_stages": blocks.stages,
    }
    programs = min(tiles, blocks.programs * _multiprocessors(rows.device))
    return Call(transition_kernel, (programs,), arguments, options)


@cache
def _multiprocessors(device: torch.device) -> int:
    """How many the GPU has; where there is none, so many that programs have several tiles each."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
