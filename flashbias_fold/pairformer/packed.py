"""Copies of a layer's weights as a fused kernel reads them, and in which dtype it is to multiply."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Weights = TypeVar("Weights")


class Packed(Generic[Weights]):
    """A kernel's copy of a layer's weights, made anew only when these have changed.

    A recorded graph reads it where it lies. So it is made of the layer's own weights, and a call in between
    makes no other one.
    """

    def __init__(self) -> None:
        self._made_of: tuple[Tensor | None, ...] = ()
        self._state: tuple[Any, ...] | None = None
        self._weights: Weights | None = None

    def get(self, tensors: Iterable[Tensor | None], options: object, pack: Callable[[], Weights]) -> Weights:
        """Return what `pack` makes of the tensors and of the options, which are all that it depends on."""
        tensors = tuple(tensors)
        state = (options, *map(_identify, tensors))
        if self._weights is None or state != self._state:
            self._weights = pack()
            # Held, so that no other tensor comes to lie where one of these did.
            self._made_of, self._state = tensors, state
        return self._weights


def product_dtype(x: Tensor, linears: Iterable[Any]) -> torch.dtype | None:
    """Return the dtype in which linear layers would multiply `x`; None if a fused kernel cannot do the same.

    Layers with a bias, or with a precision of their own, are not for it.
    """
    linears = list(linears)
    if any(linear.bias is not None or getattr(linear, "precision", None) for linear in linears):
        return None
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype if all(linear.weight.dtype == x.dtype for linear in linears) else None


def _identify(tensor: Tensor | None) -> tuple[Any, ...] | None:
    """Return what changes when a tensor's numbers do; tensors of inference mode do not count changes."""
    if tensor is None:
        return None
    version = None if tensor.is_inference() else tensor._version
    return (id(tensor), tensor.data_ptr(), version, tensor.dtype, tensor.device)
