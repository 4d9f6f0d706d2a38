"""Swapping the attention layers of a Protenix model, on the instance and reversibly."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from flashbias_fold.errors import UsageError
from flashbias_fold.pairformer import (
    Keep,
    PairBiasAttention,
    PairformerBlock,
    Plan,
    Rule,
    Transition,
    TriangleAttention,
    TriangleMultiplication,
)
from flashbias_fold.protenix_adapter.denoising import Denoising
from flashbias_fold.protenix_adapter.networks import Find, no_networks
from flashbias_fold.protenix_adapter.step_graph import StepGraph
from flashbias_fold.protenix_adapter.trunk_graph import TrunkGraph
from flashbias_fold.protenix_adapter.watch import on_tokens

# `none` is not among them: the ablation is one of triangle attention.
_WAYS_OF_PAIR_BIAS = ("lowrank", "dense", "stock")
_DIFFUSION = "diffusion_module.diffusion_transformer."
_RECORDED_STAGES = ("trunk", "diffusion")
STOCK = Plan.for_bias("stock")


class Replacement(Protocol):
    """What a layer offers that takes the place of one of the model's attentions."""

    def begin(self) -> None:
        """A prediction begins: what is known of the last one is forgotten."""

    def report(self) -> dict[str, Any]:
        """What ran since then: `way`, `rank`, `certified_error` and `fallbacks`."""


class Hook(Protocol):
    """What watches the model for the layers."""

    def remove(self) -> None:
        """Stop."""


class Graph(Hook, Protocol):
    """A recorder of a part of the model that is run again and again, which replays it."""

    @property
    def why_not(self) -> str | None:
        """Why nothing was replayed; None if it was, or will be."""

    @property
    def replayed(self) -> int:
        """How many runs of the last prediction were."""


class Swap:
    """The layers that a plan replaced; `restore()` puts the stock layers back.

    Attributes:
        plan: By which the attentions of the model are computed.
    """

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self.plan = plan
        self._model = model
        self._stock: dict[str, nn.Module] = {}
        self._layers: dict[str, Replacement] = {}
        self._hooks: list[Hook] = []
        self._graphs: dict[str, Graph] = {}

    def put(self, name: str, layer: nn.Module) -> None:
        """Put `layer` where the module called `name` is."""
        self._stock[name] = self._model.get_submodule(name)
        _set_submodule(self._model, name, layer)

    def put_attention(self, name: str, layer: TriangleAttention | PairBiasAttention) -> None:
        """Put an attention where the one called `name` is, and report of it."""
        self.put(name, layer)
        self._layers[name] = layer

    def put_triangle(self, name: str, layer: TriangleAttention) -> None:
        """The same, and tell its network what the model knows of each place."""
        self.put_attention(name, layer)
        if layer.network is not None:
            self.watch(on_tokens(self._model, layer.take_tokens))

    def watch(self, hook: Hook) -> None:
        """Take a hook off, too, when the stock layers are put back."""
        self._hooks.append(hook)

    def replay(self, stage: str, graph: Graph) -> None:
        """Report of what replays a stage of the model, and take it off when the stock layers are put back."""
        self._graphs[stage] = graph
        self.watch(graph)

    def report_graphs(self) -> dict[str, dict[str, Any]]:
        """How much of each stage was replayed in the last prediction, as `report.json` has it."""
        return {
            stage: {"replayed": graph.replayed, "why_not": graph.why_not}
            if (graph := self._graphs.get(stage))
            else {"replayed": 0, "why_not": "Protenix's own layers run as they are"}
            for stage in _RECORDED_STAGES
        }

    def report(self) -> list[dict[str, Any]]:
        """One entry for each replaced attention, as `report.json` has them."""
        return [{"name": name, **layer.report()} for name, layer in self._layers.items()]

    def begin(self) -> None:
        """A prediction begins: what layers know of the last one is forgotten."""
        for layer in self._layers.values():
            layer.begin()

    def restore(self) -> None:
        """Put the stock layers back."""
        # What is inside of a block goes back into ours before the block itself is the stock one again.
        for name, module in reversed(self._stock.items()):
            _set_submodule(self._model, name, module)
        self._stock.clear()
        self._layers.clear()
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._graphs.clear()
        self.plan = STOCK


def apply(model: nn.Module, plan: Plan, network_of: Find = no_networks) -> Swap:
    """Replace the attentions of `model` as `plan` says: those of triangles, and those with pair bias.

    The local attention among atoms is left alone: its bias is not shared by anything.

    Args:
        model: Protenix's.
        plan: What to put where, of rules that hold.
        network_of: What finds the factor network of a layer, where the plan asks for one.
    """
    ways = _attentions(model)
    triangles = [name for name, own in ways.items() if own is None]
    swap = Swap(model, plan)
    try:
        _put_all(swap, model, _decided(plan, ways), triangles, network_of)
    except Exception:
        swap.restore()  # a model is never left half replaced
        raise
    return swap


def check(model: nn.Module, plan: Plan, network_of: Find = no_networks) -> None:
    """Whether a plan is for a model whose layers are the stock ones, wherever its rules hold.

    Raises:
        UsageError: A rule decides for no layer, on any GPU and at any size: its author had one in mind.
            Or a network is not there.
    """
    ways = _attentions(model)
    decided = [_decided(variant, ways) for variant in plan.variants()]
    used = {id(rule) for rules in decided for rule in rules.values()}
    idle = [rule.layers for rule in plan.rules if id(rule) not in used]
    if idle:
        names = list(ways)
        raise UsageError(
            f"--plan: {plan.name}: '{idle[0]}' decides for no layer of the model, which has "
            f"{', '.join(names[:2])} and {len(names) - 2} more"
        )
    for rules in decided:
        for name, rule in rules.items():
            network_of(name, rule)


def _attentions(model: nn.Module) -> dict[str, tuple[str, ...] | None]:
    """Those that a plan decides for, by name, with the ways that they have; None if that is all."""
    from protenix.model.modules.transformer import AttentionPairBias
    from protenix.model.triangular.triangular import TriangleAttention as StockTriangleAttention

    found: dict[str, tuple[str, ...] | None] = dict.fromkeys(
        name for name, _ in _of_kind(model, StockTriangleAttention)
    )
    for name, module in _of_kind(model, AttentionPairBias):
        if not module.cross_attention_mode:  # of atoms
            found[name] = _WAYS_OF_PAIR_BIAS
    return found


def _decided(plan: Plan, ways: dict[str, tuple[str, ...] | None]) -> dict[str, Rule]:
    """The rule of each layer."""
    return {name: plan.rule(name, own) for name, own in ways.items()}


def _put_all(swap: Swap, model: Any, rules: dict[str, Rule], triangles: list[str], network_of: Find) -> None:
    from protenix.model.modules.pairformer import PairformerBlock as StockBlock
    from protenix.model.modules.primitives import Transition as StockTransition
    from protenix.model.triangular.triangular import TriangleMultiplicativeUpdate as StockMultiplication

    keep = Keep()
    replaced = {name: rule for name, rule in rules.items() if rule.way != "stock"}
    for name, block in _of_kind(model, StockBlock):
        if f"{name}.tri_att_end" in replaced:
            swap.put(name, PairformerBlock(block))
    for name, rule in replaced.items():
        stock = model.get_submodule(name)
        if name in triangles:
            swap.put_triangle(name, TriangleAttention(stock, rule, network_of(name, rule)))
        else:
            own = keep if name.startswith(_DIFFUSION) else None
            swap.put_attention(name, PairBiasAttention(stock, rule, own))
    in_diffusion = [name for name in rules if name.startswith(_DIFFUSION)]
    if any(name in replaced for name in in_diffusion):
        complete = all(name in replaced for name in in_diffusion)
        layers = [model.get_submodule(name) for name in in_diffusion] if complete else []
        swap.watch(Denoising(model, keep, layers))
    if replaced:
        for name, transition in _of_kind(model, StockTransition):
            swap.put(name, Transition(transition))
        for name, multiplication in _of_kind(model, StockMultiplication):
            swap.put(name, TriangleMultiplication(multiplication))
        swap.replay("trunk", TrunkGraph(model))
        swap.replay("diffusion", StepGraph(model))


def _of_kind(model: nn.Module, kind: type) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kind)]


def _set_submodule(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    layer.train(model.training)
    setattr(model.get_submodule(parent), child, layer)
