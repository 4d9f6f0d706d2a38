"""A plan from what a calibration measured: for each layer the smallest rank that is near enough."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from flashbias_fold.calibrate.speed import Speed
from flashbias_fold.errors import UsageError
from flashbias_fold.factorize.store import FactorFile
from flashbias_fold.files import write_atomic

# At one rank the network's factors come first: the first call of a prediction costs them less.
_WAYS = ("neural", "lowrank")


@dataclass(frozen=True)
class Chosen:
    """What a plan says of a layer, and why.

    Attributes:
        layer: Its name.
        way: `neural`, `lowrank` or `dense`.
        rank: Of the factors; nothing for `dense`.
        error: The largest that was measured, relative, of the layer's output; of the best way for `dense`.
        why: In words.
    """

    layer: str
    way: str
    rank: int | None
    error: float
    why: str


def plan_from(factors: Path, tolerance: float, out: Path, speed: Speed | None = None) -> list[Chosen]:
    """Write the plan for a file of networks.

    Args:
        factors: The file.
        tolerance: The largest error that is near enough.
        out: Where the plan goes.
        speed: What was measured of it: where factors gain nothing the plan has the exact bias.

    Raises:
        UsageError: The file is none, the tolerance makes no sense, there would be nothing in the plan, or
            the speed is that of another model.
    """
    if not 0 < tolerance <= 1:
        raise UsageError(f"--tolerance: expected a number above 0, up to 1, got {tolerance:g}")
    file = FactorFile.load(factors)
    found = [_choice(layer, by_way, tolerance) for layer, by_way in file.errors.items()]
    if not found:
        raise UsageError(f"{factors} has no errors to choose by")
    if speed is not None:
        speed.check(file.model)
    networks = os.path.relpath(factors.resolve(), out.resolve().parent)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, _text(found, file, tolerance, networks, speed))
    return found


def _choice(layer: str, by_way: dict[str, dict[str, dict[str, float]]], tolerance: float) -> Chosen:
    measured = sorted(
        (int(rank), _WAYS.index(way), error["largest"])
        for way, by_rank in by_way.items()
        for rank, error in by_rank.items()
    )
    for rank, index, error in measured:
        if error <= tolerance:
            before = [earlier for smaller, _, earlier in measured if smaller < rank]
            why = (
                f"{min(before):.3f} at the rank below" if before else "at the smallest rank that was measured"
            )
            return Chosen(layer, _WAYS[index], rank, error, why)
    rank, _, error = min(measured, key=lambda entry: entry[2])
    return Chosen(layer, "dense", None, error, f"{error:.3f} at best, with rank {rank}")


def _text(found: list[Chosen], file: FactorFile, tolerance: float, networks: str, speed: Speed | None) -> str:
    kept = len(file.about.get("kept_aside", ()))
    lines = [
        f"# For {file.model}: the smallest rank whose largest error was at most {tolerance:g}, on {kept}",
        "# inputs kept aside, of the layer's output and relative to the exact bias. A call beyond that",
        "# uses the exact bias.",
    ]
    if speed is not None:
        lines += _rules_of_speed(speed)
    for one in found:
        lines.append(f'- layers: "{one.layer}"')
        if one.rank is None:
            lines.append(f"  way: dense  # {one.why}")
            continue
        lines += [f"  way: {one.way}", f"  rank: {one.rank}  # {one.error:.3f}; {one.why}"]
        lines += [f"  tolerance: {tolerance:g}", f"  reach: {file.reach}"]
        if one.way == "neural":
            lines.append(f'  factors: "{networks}"')
    return "\n".join(lines) + "\n"


def _rules_of_speed(speed: Speed) -> list[str]:
    lines = [f"# {line}" for line in speed.in_words()]
    for stretch in speed.stretches():
        lines += ['- layers: "*"', "  way: dense", f"  gpu: {json.dumps(speed.gpu)}"]
        lines.append(f"  tokens: [{stretch.first}, {stretch.last}]")
    return lines
