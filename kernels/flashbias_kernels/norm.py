"""Layer normalisation of a pair representation, read once however it lies in memory.

Torch's own takes as long as the attention behind it where channels are few and places many, and copies what
is transposed first.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flashbias_kernels.launch import interpreted

LARGEST = 1024
_OF_A_PROGRAM = 2048  # numbers
_HAVE_TRITON = find_spec("triton") is not None


class Norm(NamedTuple):
    """A layer normalisation that is part of another kernel.

    Attributes:
        weight: (C,), what is multiplied by; None for 1.
        bias: (C,), what is added; None for 0.
        eps: Added to the variance.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5

    def packed(self) -> Norm:
        """Copy it as kernels read it, in float32."""
        weight, bias = (
            None if t is None else t.detach().float().contiguous() for t in (self.weight, self.bias)
        )
        return Norm(weight, bias, self.eps)

    def of(self, x: Tensor) -> Tensor:
        """Normalise by torch, in the dtype of `x`."""
        weight, bias = (None if t is None else t.to(x.dtype) for t in (self.weight, self.bias))
        return nn.functional.layer_norm(x, x.shape[-1:], weight, bias, self.eps)


def layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, dtype: torch.dtype | None = None
) -> Tensor:
    """Of the last dimension, computed in float32; contiguous.

    Without a GPU, for channels that are too many or too far apart, and where gradients are wanted, torch
    does it.

    Args:
        x: ``(..., C)``.
        weight: ``(C,)``, what is multiplied by.
        bias: ``(C,)``, what is added.
        eps: Added to the variance.
        dtype: Of the output, that of `x` by default.
    """
    dtype = dtype or x.dtype
    if not _is_for_the_kernel(x, weight, bias):
        weight, bias = (None if t is None else t.float() for t in (weight, bias))
        return nn.functional.layer_norm(x.float(), x.shape[-1:], weight, bias, eps).to(dtype)
    from flashbias_kernels.norm_kernel import norm_kernel

    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    if not out.numel():
        return out
    channels = x.shape[-1]
    width = max(16, 1 << (channels - 1).bit_length())
    places = _OF_A_PROGRAM // width
    view = _three_dimensions(x)
    outer, inner = view.shape[:2]
    arguments: list[Any] = [
        view, x if weight is None else weight, x if bias is None else bias, out,
        inner, view.stride(0), view.stride(1), channels, eps,
    ]  # fmt: skip
    norm_kernel[(outer * -(-inner // places),)](
        *arguments,
        HAS_WEIGHT=weight is not None,
        HAS_BIAS=bias is not None,
        PLACES=places,
        WIDTH=width,
        num_warps=4,
    )
    return out


def _is_for_the_kernel(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> bool:
    runs = _HAVE_TRITON and (x.is_cuda or interpreted())
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))
    return runs and not learns and x.shape[-1] <= LARGEST and (x.stride(-1) == 1 or x.shape[-1] == 1)


def _three_dimensions(x: Tensor) -> Tensor:
    """(rows, places, channels); leading dimensions that do not merge are copied."""
    if x.dim() < 3:
        return x.view(1, -1, x.shape[-1]) if x.dim() == 2 else x.view(1, 1, -1)
    return x if x.dim() == 3 else x.reshape(-1, *x.shape[-2:])
