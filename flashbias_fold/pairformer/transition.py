"""A transition that is computed piece by piece, so that its wide hidden layer is never there as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

# Of a hidden layer, of which there are two at a time. Protenix holds them for all pairs at once: 4 KiB a pair
# in fp32, at 2,048 tokens 16 of the 40 GiB that a prediction needs. Pieces of this size take an H200 no
# longer than the whole does, smaller ones do.
PIECE_BYTES = 256 * 2**20


class Transition(nn.Module):
    """Drop-in for a stock transition: the same submodules under the same names.

    A place of the input decides alone over its place of the output, so pieces give what the whole gives, but
    for what a matrix product rounds otherwise when it has fewer rows.

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
        self.train(stock.training)

    def forward(self, x: Tensor, add_in_place: bool = False) -> Tensor:
        """Of `x` (..., C), a tensor of its shape; or `x` with that added to it, in place but for training."""
        if self.training or torch.is_grad_enabled():
            update = self._stock.forward(self, x)
            return x + update if add_in_place else update
        out = x if add_in_place else torch.empty_like(x, memory_format=torch.contiguous_format)
        for own, piece in zip(self._pieces(out), self._pieces(x), strict=True):
            if add_in_place:
                own.add_(self._update(piece))
            else:
                own.copy_(self._update(piece))
        return out

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
