"""What layers make of a pair representation once, and use as long as it stays the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

# Biases of all layers together may be as large as so many pair representations in float32. Where Protenix
# prepares what diffusion is conditioned on, it holds seven of these at once, five from 3200 tokens on, where
# its transitions go in chunks; a step holds at most three besides the biases. Base models have 24 layers of
# 16 heads beside 128 channels, whose biases are as large as three: at 2000 tokens 6.1 GB, of 14.3 that were
# needed before. From 3200 tokens on 16 of the 24 layers keep theirs, the others make it in each call.
_FREE, _FREE_OF_LONG, _LONG = 3, 2, 3200
_FLOAT32 = 4


@dataclass(frozen=True)
class _State:
    """Tensors as they are now: equal is where the same numbers lie at the same places.

    They are held, so that no other tensor comes to lie there; each change in place counts their version up.
    """

    held: tuple[Tensor, ...] = field(compare=False)
    seen: tuple[Any, ...]

    @classmethod
    def of(cls, tensors: Iterable[Tensor], *others: Any) -> _State:
        held = tuple(tensors)
        seen = ((t.data_ptr(), t._version, t.shape, t.stride(), t.dtype, t.device) for t in held)
        return cls(held, (*others, *seen))


@dataclass(frozen=True)
class Kept:
    """What a layer keeps.

    Attributes:
        bias: What its attention is given; None where there was no room: it is made anew in each call.
        weights: Those that made it.
    """

    bias: dict[str, Any] | None
    weights: _State


class Keep:
    """Shared by layers that attend with the same pair representation again and again, as in diffusion.

    Attributes:
        source: All that the pair representation is computed from, while somebody says so: as long as that is
            the same, so is what is computed from it, in whichever tensor it comes. None where nobody does:
            each tensor stands for itself then.
    """

    def __init__(self) -> None:
        self.source: tuple[Tensor, ...] | None = None
        self.forget()

    def forget(self) -> None:
        """Let go of everything, and of its memory."""
        self._pair: _State | None = None
        self._of: dict[nn.Module, Kept] = {}

    def find(self, layer: nn.Module, z: Tensor, form: object, weights: Iterable[Tensor]) -> Kept | None:
        """What the layer put here, if it is still right.

        Args:
            layer: Who asks.
            z: The pair representation of this call.
            form: How `z` is to be read.
            weights: Those that make its bias.
        """
        pair = self._state(z, form)
        if pair is None or pair != self._pair:
            self.forget()
            self._pair = pair
        kept = self._of.get(layer)
        return kept if kept is not None and kept.weights == _State.of(weights) else None

    def put(self, layer: nn.Module, z: Tensor, weights: Iterable[Tensor], bias: dict[str, Any]) -> None:
        """Keep what the layer has made of the `z` that it has just asked for, as far as there is room."""
        if self._pair is None:
            return
        self._of.pop(layer, None)
        has_room = self._size() + _size(bias) <= _room(z)
        self._of[layer] = Kept(bias if has_room else None, _State.of(weights))

    def serves(self, layers: Iterable[nn.Module]) -> bool:
        """Whether none of these layers will look at what is computed from the source."""
        if self.source is None or self._pair is None or self._pair != self._state(self.source[0], None):
            return False
        found = [self._of.get(layer) for layer in layers]
        return all(kept is not None and kept.bias is not None for kept in found)

    def _state(self, z: Tensor, form: object) -> _State | None:
        """None where it cannot be told whether it stays the same, or where gradients are wanted of it."""
        tensors = (z,) if self.source is None else self.source
        if torch.is_grad_enabled() or any(tensor.is_inference() for tensor in tensors):
            return None
        kind = z.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        return _State.of(tensors, precision, form if self.source is None else None)

    def _size(self) -> int:
        return sum(_size(kept.bias) for kept in self._of.values() if kept.bias is not None)


def _size(bias: dict[str, Any]) -> int:
    """Bytes of a bias; factors, which are thin, do not count."""
    return sum(t.numel() * t.element_size() for name, t in bias.items() if name == "bias")


def _room(z: Tensor) -> int:
    length = z.shape[-2]  # in either form
    return (_FREE if length < _LONG else _FREE_OF_LONG) * z.numel() * _FLOAT32
