"""The weights of linear layers in the dtype that autocast computes in, cast once and not in every call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flashbias_fold.pairformer import Transition, TriangleAttention, TriangleMultiplication


class CastWeights:
    """Copies in bf16 of a module's weights, in their place while the module runs under autocast.

    A cast weight is the same number whoever casts it, so every output stays as it is, bit for bit. Weights
    that are given to kernels which look at their dtype stay in fp32: those of Protenix's triangle
    multiplication. So do those of our layers that keep a copy of their own. Outside of a call, and where
    gradients are wanted, all are the module's own.

    Args:
        module: Whose weights.
    """

    def __init__(self, module: nn.Module) -> None:
        self._layers = list(_linear_layers(module))
        self.forget()

    def forget(self) -> None:
        """Let go of the copies, and of their memory; the next call makes new ones."""
        self._copies: list[dict[str, Tensor]] | None = None

    @contextmanager
    def in_place(self, device: torch.device) -> Iterator[None]:
        """Have the module use the copies meanwhile, if autocast would cast its weights on this device."""
        if not _casts(device):
            yield
            return
        if self._copies is None:
            self._copies = [_cast(layer) for layer in self._layers]
        own = [dict(layer._parameters) for layer in self._layers]
        try:
            for layer, copies in zip(self._layers, self._copies, strict=True):
                layer._parameters.update(copies)
            yield
        finally:
            for layer, weights in zip(self._layers, own, strict=True):
                layer._parameters.update(weights)


def _casts(device: torch.device) -> bool:
    """Tell if autocast computes in bf16, and nobody asks for gradients of what it casts.

    In fp16 Protenix computes some products in fp32 with autocast off, from the weights as they are.
    """
    kind = device.type
    return (
        torch.is_autocast_enabled(kind)
        and torch.get_autocast_dtype(kind) == torch.bfloat16
        and not torch.is_grad_enabled()
    )


def _cast(layer: nn.Module) -> dict[str, Any]:
    """The layer's weights that are in fp32, as autocast casts them."""
    return {
        name: weight.detach().to(torch.bfloat16)
        for name, weight in layer._parameters.items()
        if weight is not None and weight.dtype == torch.float32
    }


def _linear_layers(module: nn.Module) -> Iterator[Any]:
    """Those that compute as autocast says."""
    from protenix.model.triangular.triangular import TriangleMultiplicativeUpdate

    if isinstance(module, TriangleMultiplicativeUpdate | TriangleMultiplication | Transition):
        return
    if isinstance(module, TriangleAttention) and module.packs_weights:
        return
    if isinstance(module, nn.Linear) and getattr(module, "precision", None) is None:
        yield module
    for child in module.children():
        yield from _linear_layers(child)
