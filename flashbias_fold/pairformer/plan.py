"""A plan says which way each pair-biased attention of the model is computed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from flashbias_fold.choices import LARGEST_REACH, REACH
from flashbias_fold.errors import UsageError

# What is in a rule of a plan's file, and what it may be.
_WAYS = ("neural", "lowrank", "dense", "stock")
_CONDITIONS = ("gpu", "tokens")
_FIELDS = ("layers", "way", "rank", "tolerance", "reach", "factors", *_CONDITIONS)
_FIELDS_OF_FACTORS = {
    "neural": ("rank", "tolerance", "reach", "factors"),
    "lowrank": ("rank", "tolerance", "reach"),
}
_LARGEST_RANK = 128
# What stands for the letters of a pattern that may be any: no name has it.
_ANY = "\0"


@dataclass(frozen=True)
class Rule:
    """How layers are computed.

    Attributes:
        layers: A pattern of names, `*` standing for anything.
        way: `neural`, factors by networks that `flashbias-fold calibrate` trained; `lowrank`, factors
            computed from the bias in the very call; `dense`, the exact bias; `none`, without it; `stock`, the
            model's own code, untouched.
        rank: Channels of the factors.
        tolerance: The largest relative error of a layer's output that is let pass; beyond it the exact bias
            is used in the same call.
        reach: Beside factors, pairs at most so many places apart keep their exact bias; 0 for none.
        factors: The file of the networks.
        gpu: A pattern of names, `*` standing for anything and `?` for one letter: the rule holds on GPUs
            called so, and `cpu` is a CPU; everywhere without one.
        tokens: The rule holds from so many tokens to so many, both included; without the second, to no end.
    """

    layers: str
    way: str
    rank: int | None = None
    tolerance: float | None = None
    reach: int = 0
    factors: Path | None = None
    gpu: str | None = None
    tokens: tuple[int, int | None] | None = None

    def holds(self, gpu: str, tokens: int) -> bool:
        """Whether it does for an input of so many tokens, on a GPU of that name or on `cpu`."""
        first, last = self.tokens or (1, None)
        within = first <= tokens and (last is None or tokens <= last)
        return within and (self.gpu is None or _fits(gpu, self.gpu))


@dataclass(frozen=True)
class Plan:
    """Rules for the layers of a model.

    Attributes:
        name: Where it comes from: the value of `--bias`, or a file.
        rules: The first that holds and fits a layer's name decides; where none does, the exact bias is used.
        digest: What tells it from others, and its networks from others; nothing for one of `--bias` alone.
    """

    name: str
    rules: tuple[Rule, ...]
    digest: str | None = None

    @classmethod
    def for_bias(cls, bias: str) -> Plan:
        """The plan that `--bias` stands for.

        `flashbias` without one runs the exact bias: nobody has said which error is small enough.
        """
        rules = (Rule("*", "dense" if bias == "flashbias" else bias),)
        return cls(name=bias, rules=rules if bias != "none" else (*rules, Rule("*", "stock")))

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a file; see `docs/plans.md` for its form.

        Raises:
            UsageError: It is not a plan, and why.
        """
        try:
            text = path.read_bytes()
            content = yaml.safe_load(text.decode())
        except OSError as error:
            raise UsageError(f"--plan: {path}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(f"--plan: {path} is no YAML file: {error}") from error
        if not isinstance(content, list) or not content:
            raise UsageError(f"--plan: {path}: expected a list of rules")
        rules = tuple(
            _rule(item, f"{path}: rule {number}", path.parent) for number, item in enumerate(content, 1)
        )
        found = cls(str(path), rules)
        digests = [hashlib.sha256(text).hexdigest(), *map(_digest, found.factor_files())]
        return dataclasses.replace(found, digest=" ".join(digests))

    def factor_files(self) -> list[Path]:
        """The files of networks that rules name, each once."""
        return list(dict.fromkeys(rule.factors for rule in self.rules if rule.factors is not None))

    def at(self, gpu: str, tokens: int) -> Plan:
        """With the rules that hold for an input of so many tokens, on a GPU of that name or on `cpu`."""
        return dataclasses.replace(self, rules=tuple(rule for rule in self.rules if rule.holds(gpu, tokens)))

    def variants(self) -> list[Plan]:
        """What `at` gives: for the sizes at which that changes, and names that fit one pattern or several."""
        names = dict.fromkeys(name for rule in self.rules for name in _names(rule.gpu or "*"))
        sizes = {1}
        for first, last in (rule.tokens for rule in self.rules if rule.tokens is not None):
            sizes |= {first} if last is None else {first, last + 1}
        found = (self.at(name, size) for name in names for size in sorted(sizes))
        return list({plan.rules: plan for plan in found}.values())

    def rule(self, layer: str, ways: Collection[str] | None = None) -> Rule:
        """For the layer of a name; rules with a way that is not among the layer's `ways` pass it by.

        Conditions are not looked at: those of `at` hold.
        """
        fitting = (rule for rule in self.rules if ways is None or rule.way in ways)
        return next((rule for rule in fitting if fnmatchcase(layer, rule.layers)), Rule("*", "dense"))

    def as_list(self) -> list[dict[str, Any]]:
        """The rules, as a file has them."""
        return [
            {
                name: _plain(value)
                for name, value in vars(rule).items()
                if value is not None and (name != "reach" or rule.rank is not None)
            }
            for rule in self.rules
        ]


def _plain(value: Any) -> Any:
    """As YAML and JSON have it."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _fits(gpu: str, pattern: str) -> bool:
    """Brackets stand for themselves: names may have some."""
    return fnmatchcase(gpu, pattern.replace("[", "[[]"))


def _names(pattern: str) -> list[str]:
    """Names that fit a pattern, and as few others as may be."""
    return [pattern.replace("?", _ANY).replace("*", _ANY * count) for count in (0, 1, 256)]


def _rule(item: Any, where: str, folder: Path) -> Rule:
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
    own = _FIELDS_OF_FACTORS.get(way, ())
    for field in item:
        if field not in ("layers", "way", *_CONDITIONS, *own):
            raise UsageError(f"--plan: {where}: {field} is not for {way}")
    gpu = _gpu(item["gpu"], where) if "gpu" in item else None
    tokens = _tokens(item["tokens"], where) if "tokens" in item else None
    if not own:
        return Rule(layers, way, gpu=gpu, tokens=tokens)
    factors = _factors(item.get("factors"), where, folder) if "factors" in own else None
    return Rule(
        layers,
        way,
        _rank(item.get("rank"), where),
        _tolerance(item.get("tolerance"), where),
        _reach(item.get("reach", REACH), where),
        factors,
        gpu,
        tokens,
    )


def _gpu(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"--plan: {where}: gpu: expected a pattern of names, got {value!r}")
    return value


def _tokens(value: Any, where: str) -> tuple[int, int | None]:
    if isinstance(value, list) and len(value) == 2:
        first, last = value
        if _is_count(first) and (last is None or (_is_count(last) and first <= last)):
            return first, last
    raise UsageError(
        f"--plan: {where}: tokens: expected [from, to], whole numbers from 1, to not below from or null for "
        f"no end, got {value!r}"
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _factors(value: Any, where: str, folder: Path) -> Path:
    """A path is taken from the plan's own folder."""
    if not isinstance(value, str) or not value:
        raise UsageError(
            f"--plan: {where}: factors: expected the file that `flashbias-fold calibrate` made, got {value!r}"
        )
    path = folder / value
    if not path.is_file():
        raise UsageError(f"--plan: {where}: factors: there is no file {path}")
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rank(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST_RANK:
        raise UsageError(f"--plan: {where}: rank: expected a number from 1 to {_LARGEST_RANK}, got {value!r}")
    return value


def _reach(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_REACH:
        raise UsageError(
            f"--plan: {where}: reach: expected a number from 0 to {LARGEST_REACH}, got {value!r}"
        )
    return value


def _tolerance(value: Any, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
        raise UsageError(f"--plan: {where}: tolerance: expected a number above 0, up to 1, got {value!r}")
    return float(value)
