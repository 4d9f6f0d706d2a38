"""A transition whose wide hidden layer is never there as a whole: in one kernel, or piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

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
        self._packed = _PackedWeights()
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
        kind = x.device.type
        if kind not in FUSED_ON:
            return None
        linears = (self.linear_no_bias_a, self.linear_no_bias_b, self.linear_no_bias)
        if any(linear.bias is not None or getattr(linear, "precision", None) for linear in linears):
            return None
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        elif all(linear.weight.dtype == x.dtype for linear in linears):
            dtype = x.dtype
        else:
            return None
        if why_not_fused(x, self.n * self.c_in, dtype) is not None:
            return None
        return self._packed.get(self.layernorm1, *linears, dtype)

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


class _PackedWeights:
    """The kernel's copy of a layer's weights, made anew only when these have changed.

    A recorded graph reads it where it lies. So it is made of the layer's own weights, and a call in between
    makes no other one.
    """

    def __init__(self) -> None:
        self._made_of: tuple[Any, ...] = ()
        self._state: tuple[Any, ...] | None = None
        self._weights: TransitionWeights | None = None

    def get(self, norm: Any, gate: Any, value: Any, output: Any, dtype: torch.dtype) -> TransitionWeights:
        """Return the weights of a normalisation and three linear layers, the latter's in `dtype`."""
        tensors = (gate.weight, value.weight, output.weight, norm.weight, norm.bias)
        state = (dtype, norm.eps, *map(_identify, tensors))
        if self._weights is None or state != self._state:
            self._weights = TransitionWeights.pack(*tensors, eps=norm.eps, dtype=dtype)
            # Held, so that no other tensor comes to lie where one of these did.
            self._made_of, self._state = tensors, state
        return self._weights


def _identify(tensor: Tensor | None) -> tuple[Any, ...] | None:
    """Return what changes when a tensor's numbers do; tensors of inference mode do not count changes."""
    if tensor is None:
        return None
    version = None if tensor.is_inference() else tensor._version
    return (id(tensor), tensor.data_ptr(), version, tensor.dtype, tensor.device)
