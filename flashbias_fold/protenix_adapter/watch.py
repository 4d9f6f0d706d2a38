"""Looking on while a model predicts: what comes to each triangle attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from flashbias_fold.pairformer import TriangleAttention


class See(Protocol):
    """Told what comes to a triangle attention, before it runs."""

    def __call__(self, name: str, x: Tensor, mask: Tensor | None, tokens: Tensor) -> None:
        """`x` and `mask` are the layer's arguments, `tokens` what the model knows of each place."""


def triangle_attentions(network: nn.Module) -> dict[str, TriangleAttention]:
    """Our triangle attentions of a model, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, TriangleAttention)}


def on_tokens(network: Any, take: Callable[[Tensor], None]) -> Any:
    """Call `take` with what the model knows of each place, (J, S), once it does; a handle to end that."""
    return network.input_embedder.register_forward_hook(lambda _module, _arguments, out: take(out))


@contextmanager
def watched(network: Any, see: See) -> Iterator[None]:
    """Have `see` told of every call of a triangle attention."""
    tokens: list[Tensor] = []

    def hook(name: str) -> Callable[..., None]:
        def before(_module: Any, arguments: Any, options: dict[str, Any]) -> None:
            x, mask = (*arguments, *(options[key] for key in ("x", "mask")[len(arguments) :]))[:2]
            see(name, x, mask, tokens[-1])

        return before

    handles = [on_tokens(network, tokens.append)]
    for name, layer in triangle_attentions(network).items():
        handles.append(layer.register_forward_pre_hook(hook(name), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
