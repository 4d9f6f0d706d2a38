"""Where a prediction's time goes by kind of layer, seen by hooks on the model."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from flashbias_fold.bench.model.floor import Rates, Work, floor_s, work_of

REST = "everything else"
# The first that fits a module's name tells its kind; what fits none is counted with what it is a part of.
# Ours have the names of the layers that they replace.
_KINDS = [
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r".*\.tri_att_(start|end)", "triangle attention"),
        (r".*\.tri_mul_(out|in)", "triangle multiplication"),
        (r".*\.pair_transition", "pair transition"),
        (r".*\.single_transition", "single transition"),
        (r".*\.outer_product_mean_msa", "outer product mean"),
        (r"diffusion_module\.diffusion_transformer\.blocks\.\d+\.attention_pair_bias", "diffusion attention"),
        (r".*pairformer_stack\.blocks\.\d+\.attention_pair_bias", "attention with pair bias"),
        (
            r"diffusion_module\.diffusion_transformer\.blocks\.\d+\.conditioned_transition_block",
            "diffusion transition",
        ),
        (r".*(pairformer_stack\.blocks\.\d+|\.pair_stack)", "Pairformer block, the rest"),
        (r"template_embedder", "template embedder, the rest"),
        (r"msa_module", "MSA module, the rest"),
        (r".*\.atom_attention_encoder", "atom encoder"),
        (r".*\.atom_attention_decoder", "atom decoder"),
        (r"input_embedder", "input embedder, the rest"),
        (r"diffusion_module\.diffusion_conditioning", "diffusion conditioning"),
        (r"diffusion_module\.normalize", "pair normalisation in a step"),
        (r"diffusion_module", "denoising step, the rest"),
        (r"confidence_head|distogram_head", "confidence heads, the rest"),
    )
]
KINDS = tuple(kind for _, kind in _KINDS)
# Called once before sampling, past the hooks on `forward`.
_PREPARING = "prepare_cache"


def kind_of(name: str) -> str | None:
    """The kind of the module of a name, if it is counted by itself."""
    return next((kind for pattern, kind in _KINDS if pattern.fullmatch(name)), None)


@dataclass(frozen=True)
class Layer:
    """Time of all layers of a kind, in one stage.

    Attributes:
        stage: Trunk, diffusion or confidence.
        kind: One of KINDS, or REST.
        seconds: Of their own, without the kinds inside of them.
        calls: How often.
        floor_s: What the hardware needs at least; None where no formula or no rate is known.
    """

    stage: str
    kind: str
    seconds: float
    calls: int
    floor_s: float | None

    @property
    def share_of_floor(self) -> float | None:
        """The floor over the time: 1 is as fast as the hardware can be."""
        return None if self.floor_s is None or self.seconds == 0 else self.floor_s / self.seconds


@dataclass
class _Span:
    stage: str
    kind: str
    begin: Any
    parent: _Span | None
    floor_s: float | None
    end: Any = None


class LayerClock:
    """Times the layers of one prediction; it is the observer, too, from which it knows the stage.

    On a GPU, between events in its own queue: where the host is slower than the device, that has the time in
    which the device waits.

    Args:
        device: Where the prediction runs.
        rates: Of the device, for floors.
    """

    def __init__(self, device: torch.device, rates: Rates | None) -> None:
        self._device = device
        self._rates = rates
        self._stage = ""
        self._open: list[_Span] = []
        self._spans: list[_Span] = []

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._stage = name

    def step(self, done: int, total: int) -> None:
        """Nothing of interest."""

    @contextmanager
    def watch(self, network: nn.Module) -> Iterator[None]:
        """Have the layers timed meanwhile."""
        handles: list[Any] = []
        for name, module in network.named_modules():
            kind = kind_of(name)
            if kind is None:
                continue
            handles.append(module.register_forward_pre_hook(self._before(kind), with_kwargs=True))
            handles.append(module.register_forward_hook(self._after))
            if hasattr(module, _PREPARING):
                handles.append(_Wrapped(module, _PREPARING, self._around(kind)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def layers(self, stages_s: dict[str, float]) -> list[Layer]:
        """What was seen, with what is left of each stage, the longest first.

        Args:
            stages_s: Seconds by stage of the same prediction.
        """
        groups: dict[tuple[str, str], list[_Span]] = {}
        own = {id(span): self._seconds(span) for span in self._spans}
        for span in self._spans:
            if span.parent is not None:
                own[id(span.parent)] -= self._seconds(span)
            groups.setdefault((span.stage, span.kind), []).append(span)
        found = []
        for stage, seconds in stages_s.items():
            seen = [
                _layer(stage, kind, spans, [max(own[id(span)], 0.0) for span in spans])
                for (where, kind), spans in groups.items()
                if where == stage
            ]
            rest = seconds - sum(layer.seconds for layer in seen)
            found += [*seen, Layer(stage, REST, max(rest, 0.0), 1, None)]
        return sorted(found, key=lambda layer: -layer.seconds)

    def _before(self, kind: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            self._begin(kind, work_of(kind, module, args, options))

        return hook

    def _after(self, *_: object) -> None:
        self._finish()

    def _around(self, kind: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
            def timed(*args: Any, **options: Any) -> Any:
                self._begin(kind, None)
                found = call(*args, **options)
                self._finish()
                return found

            return timed

        return wrap

    def _begin(self, kind: str, work: Work | None) -> None:
        parent = self._open[-1] if self._open else None
        span = _Span(self._stage, kind, self._now(), parent, floor_s(work, self._rates))
        self._open.append(span)
        self._spans.append(span)

    def _finish(self) -> None:
        self._open.pop().end = self._now()

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds(self, span: _Span) -> float:
        if self._device.type != "cuda":
            return float(span.end - span.begin)
        return float(span.begin.elapsed_time(span.end)) / 1e3


class _Wrapped:
    """A method of one module, wrapped until this is removed."""

    def __init__(self, module: nn.Module, name: str, wrap: Callable[..., Any]) -> None:
        self._module = module
        self._name = name
        setattr(module, name, wrap(getattr(module, name)))

    def remove(self) -> None:
        """Let the class's own be seen again."""
        delattr(self._module, self._name)


def _layer(stage: str, kind: str, spans: list[_Span], seconds: list[float]) -> Layer:
    floors = [span.floor_s for span in spans if span.floor_s is not None]
    complete = len(floors) == len(spans)
    # One within another of its kind, as preparing is within an encoder's call, is no call of its own.
    calls = sum(span.parent is None or span.parent.kind != kind for span in spans)
    return Layer(stage, kind, sum(seconds), calls, sum(floors) if complete else None)
