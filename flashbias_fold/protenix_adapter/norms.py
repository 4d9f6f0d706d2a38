"""Protenix's layer norms, computed by our kernel where gradients are not wanted."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flashbias_kernels import layer_norm


class OwnNorms:
    """Our kernel in the place of the layer norms of some modules on a GPU, on the instances, until removed.

    It takes the weights as they are, in fp32. Protenix casts them in each call, which are two launches more,
    and its compiled kernel launches where a recording cannot see it. Where gradients are wanted, and on a
    CPU, Protenix's own code runs.

    Args:
        modules: Within which they are.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._norms = [part for module in modules for part in module.modules() if _is_norm(part)]
        for norm in self._norms:
            norm.forward = partial(_normalise, norm)

    def remove(self) -> None:
        """Put Protenix's own code back."""
        for norm in self._norms:
            del norm.forward
        self._norms.clear()


def _is_norm(part: Any) -> bool:
    from protenix.model.triangular import layers

    kinds = (layers.OpenFoldLayerNorm, getattr(layers, "FusedLayerNorm", layers.OpenFoldLayerNorm))
    return isinstance(part, kinds)


def _normalise(norm: Any, x: Tensor) -> Tensor:
    if not x.is_cuda or torch.is_grad_enabled():
        return type(norm).forward(norm, x)
    return layer_norm(x, norm.weight, norm.bias, norm.eps)
