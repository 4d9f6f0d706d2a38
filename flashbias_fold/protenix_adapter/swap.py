"""Swapping the attention layers of a Protenix model, on the instance and reversibly."""

from __future__ import annotations

from typing import Any

from torch import nn

from flashbias_fold.errors import UsageError
from flashbias_fold.pairformer import Plan, TriangleAttention


class Swap:
    """The layers that a plan replaced; `restore()` puts the stock layers back."""

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self.plan = plan
        self._model = model
        self._stock: dict[str, nn.Module] = {}

    def put(self, name: str, layer: nn.Module) -> None:
        """Put `layer` where the layer called `name` is."""
        self._stock[name] = self._model.get_submodule(name)
        _set_submodule(self._model, name, layer)

    def report(self) -> list[dict[str, Any]]:
        """One entry for each replaced layer, as `report.json` has them."""
        layers = []
        for name in self._stock:
            layer = self._model.get_submodule(name)
            assert isinstance(layer, TriangleAttention)
            layers.append({"name": name, **layer.report()})
        return layers

    def begin(self) -> None:
        """A prediction begins: what layers know of the last one is forgotten."""
        for name in self._stock:
            layer = self._model.get_submodule(name)
            assert isinstance(layer, TriangleAttention)
            layer.begin()

    def restore(self) -> None:
        """Put the stock layers back."""
        for name, layer in self._stock.items():
            _set_submodule(self._model, name, layer)
        self._stock.clear()


def apply(model: nn.Module, plan: Plan) -> Swap:
    """Replace every triangle attention of `model` as `plan` says.

    The other pair-biased attentions (single representation, diffusion transformer) already run the exact
    bias through torch's fused attention in Protenix itself.
    """
    from protenix.model.triangular.triangular import TriangleAttention as StockTriangleAttention

    swap = Swap(model, plan)
    names = [name for name, module in model.named_modules() if isinstance(module, StockTriangleAttention)]
    idle = [rule.layers for rule in plan.rules if not any(plan.rule(name) is rule for name in names)]
    if idle:
        raise UsageError(
            f"--plan: {plan.name}: '{idle[0]}' decides for no layer of the model, which has "
            f"{', '.join(names[:2])} and {len(names) - 2} more"
        )
    for name in names:
        if (rule := plan.rule(name)).way != "stock":
            swap.put(name, TriangleAttention(model.get_submodule(name), rule))
    return swap


def _set_submodule(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    layer.train(model.training)
    setattr(model.get_submodule(parent), child, layer)
