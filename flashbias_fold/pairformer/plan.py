"""A plan says which way each pair-biased attention of the model is computed."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from flashbias_fold.errors import UsageError

# What is in a rule of a plan's file, and what it may be.
_WAYS = ("lowrank", "dense", "stock")
_FIELDS = ("layers", "way", "rank", "tolerance")
_LARGEST_RANK = 128


@dataclass(frozen=True)
class Rule:
    """How layers are computed.

    Attributes:
        layers: A pattern of names, `*` standing for anything.
        way: `lowrank`, factors computed from the bias in the very call; `dense`, the exact bias; `none`,
            without it; `stock`, the model's own code, untouched.
        rank: Channels of the factors.
        tolerance: The largest relative error of a layer's output that is let pass; beyond it the exact bias
            is used in the same call.
    """

    layers: str
    way: str
    rank: int | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class Plan:
    """Rules for the layers of a model.

    Attributes:
        name: Where it comes from: the value of `--bias`, or a file.
        rules: The first that fits a layer's name decides; where none does, the exact bias is used.
    """

    name: str
    rules: tuple[Rule, ...]

    @classmethod
    def for_bias(cls, bias: str) -> Plan:
        """The plan that `--bias` stands for.

        `flashbias` without a plan runs the exact bias: nobody has said which error is small enough.
        """
        return cls(name=bias, rules=(Rule("*", "dense" if bias == "flashbias" else bias),))

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a file; see `docs/plans.md` for its form.

        Raises:
            UsageError: It is not a plan, and why.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"--plan: {path}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(f"--plan: {path} is no YAML file: {error}") from error
        if not isinstance(content, list) or not content:
            raise UsageError(f"--plan: {path}: expected a list of rules")
        rules = (_rule(item, f"{path}: rule {number}") for number, item in enumerate(content, 1))
        return cls(name=str(path), rules=tuple(rules))

    def rule(self, layer: str) -> Rule:
        """For the layer of a name."""
        return next((rule for rule in self.rules if fnmatchcase(layer, rule.layers)), Rule("*", "dense"))

    def as_list(self) -> list[dict[str, Any]]:
        """The rules, as a file has them."""
        return [
            {name: value for name, value in vars(rule).items() if value is not None} for rule in self.rules
        ]


def _rule(item: Any, where: str) -> Rule:
    if not isinstance(item, dict):
        raise UsageError(f"--plan: {where}: expected fields ({', '.join(_FIELDS)}), got {item!r}")
    for field in item:
        if field not in _FIELDS:
            raise UsageError(f"--plan: {where}: '{field}' is none of {', '.join(_FIELDS)}")
    layers, way = item.get("layers"), item.get("way")
    if not isinstance(layers, str) or not layers:
        raise UsageError(f"--plan: {where}: layers: expected a pattern of names, got {layers!r}")
    if way not in _WAYS:
        raise UsageError(f"--plan: {where}: way: expected one of {', '.join(_WAYS)}, got {way!r}")
    if way != "lowrank":
        for field in ("rank", "tolerance"):
            if field in item:
                raise UsageError(f"--plan: {where}: {field} is for lowrank, not for {way}")
        return Rule(layers, way)
    return Rule(layers, way, _rank(item.get("rank"), where), _tolerance(item.get("tolerance"), where))


def _rank(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST_RANK:
        raise UsageError(f"--plan: {where}: rank: expected a number from 1 to {_LARGEST_RANK}, got {value!r}")
    return value


def _tolerance(value: Any, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
        raise UsageError(f"--plan: {where}: tolerance: expected a number above 0, up to 1, got {value!r}")
    return float(value)
