"""A transition whose wide hidden layer is never there as a whole: in one kernel, or piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from flashbias_fold.pairformer.packed import Packed, product_dtype
from flashbias_kernels import TransitionWeights, transition
from flashbias_kernels.transition import why_not_fused

# Of a hidden layer, of which there are two at a time. Protenix holds them for all pairs at once: 4 KiB a pair
# in fp32, at 2,048 tokens 16 of the 40 GiB that a prediction needs. Pieces of this size take an H200 no
# longer than the whole does, smaller ones do.
PIECE_BYTES = 256 * 2**20
# Where the kernel is worth it. A test adds the CPU, on which Triton only pretends.
FUSED_ON = {"cuda"}


class Transition(nn.Module):
    """Drop-in for a stock transition: the same submodules under the same names.

    On a GPU one kernel does it all, for the shapes and dtypes that it knows. Elsewhere a place of the input
    decides alone over its place of the output, so pieces give what the whole gives, but for what a matrix
    product rounds otherwise when it has fewer rows.

    Args:
        stock: A transition of AlphaFold's, with its own normalisation.
    """

    # What a module of PyTorch is, its types cannot tell.
    layernorm1: Any
    linear_no_bias_a: Any
    linear_no_bias_b: Any
    linear_no_bias: Any

    def __init__(self, stock: Any) -> None:
        super().__init__()
        for name, part in stock.named_children():
            self.add_module(name, part)
        self.n = stock.n
        self.c_in = stock.c_in
        self._stock = type(stock)
        self._packed: Packed[TransitionWeights] = Packed()
        self.train(stock.training)

    def forward(self, x: Tensor, add_in_place: bool = False) -> Tensor:
        """Of `x` (..., C), a tensor of its shape; or `x` with that added to it, in place but for training."""
        if self.training or torch.is_grad_enabled():
            update = self._stock.forward(self, x)
            return x + update if add_in_place else update
        weights = self._weights_of_kernel(x)
        if weights is not None:
            return transition(x, weights, add_input=add_in_place, in_place=add_in_place)
        out = x if add_in_place else torch.empty_like(x, memory_format=torch.contiguous_format)
        for own, piece in zip(self._pieces(out), self._pieces(x), strict=True):
            if add_in_place:
                own.add_(self._update(piece))
            else:
                own.copy_(self._update(piece))
        return out

    def _weights_of_kernel(self, x: Tensor) -> TransitionWeights | None:
        """Return what the kernel needs to compute it as stock would; None where it does not know how."""
        linears = (self.linear_no_bias_a, self.linear_no_bias_b, self.linear_no_bias)
        dtype = product_dtype(x, linears) if x.device.type in FUSED_ON else None
        if dtype is None or why_not_fused(x, self.n * self.c_in, dtype) is not None:
            return None
        norm = self.layernorm1
        gate, value, output = (linear.weight for linear in linears)
        tensors = (gate, value, output, norm.weight, norm.bias)
        return self._packed.get(
            tensors, (dtype, norm.eps), lambda: TransitionWeights.pack(*tensors, norm.eps, dtype)
        )

    def _update(self, x: Tensor) -> Tensor:
        y = self.layernorm1(x)
        a = silu(self.linear_no_bias_a(y), inplace=True)
        b = self.linear_no_bias_b(y)
        del y
        b *= a
        del a
        return self.linear_no_bias(b)

    def _pieces(self, x: Tensor) -> Iterator[Tensor]:
        """Views that together are `x`, cut along its first dimension that is longer than one."""
        cut = next((place for place, length in enumerate(x.shape[:-2]) if length > 1), max(0, x.ndim - 2))
        hidden = x.numel() * self.n * x.element_size()
        slices = max(1, x.shape[cut] * PIECE_BYTES // max(1, hidden))
        yield from x.split(slices, dim=cut)
