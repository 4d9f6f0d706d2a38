"""What is compared: ways to predict, the stock one first and its noise last."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashbias_fold.compare.settings import BASELINE, Settings
from flashbias_fold.predict.prepare import plan_file, plan_of
from flashbias_fold.predict.settings import Settings as Predictions
from flashbias_fold.protenix_adapter.models import Model

_LABELS = {"stock": "stock", "flashbias": "FlashBias", "dense": "dense bias", "none": "without bias"}
_PLAN = "plan_"  # what the keys of plans begin with


@dataclass(frozen=True)
class Method:
    """A way to predict.

    Attributes:
        key: What results and folders name it by.
        label: What people see.
        settings: Of its predictions.
        plan: How it computes the attentions.
        plan_name: The name of the plan's file.
        is_noise: Whether it is the baseline under another seed, which others are judged by.
    """

    key: str
    label: str
    settings: Predictions
    plan: Any
    plan_name: str | None
    is_noise: bool = False

    @property
    def seed(self) -> int:
        """Of its predictions."""
        assert self.settings.seeds is not None
        return self.settings.seeds[0]

    def as_dict(self) -> dict[str, Any]:
        """As `report.json` has it."""
        return {
            "key": self.key,
            "label": self.label,
            "bias": self.settings.bias,
            "seed": self.seed,
            "plan": self.plan_name,
        }


def methods_of(settings: Settings, common: Predictions, model: Model) -> list[Method]:
    """The baseline, what was asked for in that order, and the baseline under a second seed.

    Args:
        settings: What was asked for.
        common: The same predictions with everything decided.
        model: What predicts.
    """
    seed, other = settings.seeds
    found: dict[str, Method] = {}
    for name in dict.fromkeys((BASELINE, *settings.methods)):
        one = _method(name, common.filled(seeds=(seed,)), model, taken=found)
        found[one.key] = one
    noise = common.filled(seeds=(other,), bias=BASELINE, plan=None)
    key = f"{BASELINE}_seed_{other}"
    last = Method(key, f"{BASELINE}, seed {other}", noise, plan_of(noise, model), None, is_noise=True)
    return [*found.values(), last]


def _method(name: str, common: Predictions, model: Model, taken: dict[str, Method]) -> Method:
    is_bias = name in _LABELS
    mine = common.filled(
        bias=name if is_bias else "flashbias",
        plan=(common.plan if name == "flashbias" else None) if is_bias else Path(name),
    )
    file = plan_file(mine, model)
    key = name if is_bias else _free(Path(name), taken)
    label = _LABELS[name] if is_bias else key.removeprefix(_PLAN)
    return Method(key, label, mine, plan_of(mine, model), None if file is None else file.name)


def _free(plan: Path, taken: dict[str, Method]) -> str:
    """A key for a plan that no other has, nor anything else in an entry's folder."""
    key = _PLAN + re.sub(r"[^A-Za-z0-9_-]", "_", plan.stem)
    return next(one for one in (key, *(f"{key}_{n}" for n in range(2, len(taken) + 3))) if one not in taken)
