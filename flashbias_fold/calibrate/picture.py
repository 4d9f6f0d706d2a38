"""Error against rank, a line for each layer: what a calibration is worth, at a glance."""

from __future__ import annotations

from flashbias_fold.bench.chart import Line, Panel, Point, chart
from flashbias_fold.factorize.store import FactorFile

_LEAST = 1e-5  # axes are logarithmic
_TITLES = {"neural": "by the networks", "lowrank": "computed in the call"}


def picture(file: FactorFile) -> str:
    """An SVG; each error is the mean over the inputs kept aside, with the largest above it."""
    ways = dict.fromkeys(way for by_way in file.errors.values() for way in by_way)
    panels = [
        Panel(
            f"factors {_TITLES[way]}",
            [Line(_short(layer), _points(by_way[way])) for layer, by_way in file.errors.items()],
        )
        for way in ways
    ]
    kept = len(file.about["kept_aside"])
    note = f"{file.model}, relative to the exact bias, mean and largest over {kept} inputs kept aside"
    return chart("Error of each layer's output", note, "rank", "relative error", panels)


def _points(by_rank: dict[str, dict[str, float]]) -> tuple[Point, ...]:
    found = []
    for rank, error in by_rank.items():
        mean, largest = max(error["mean"], _LEAST), max(error["largest"], _LEAST)
        found.append(Point(int(rank), mean, mean, largest))
    return tuple(found)


def _short(layer: str) -> str:
    """A layer's name without what all names have."""
    short = layer.replace("pairformer_stack.", "").replace("blocks.", "").replace("pair_stack.", "")
    return short.replace("tri_att_", "").replace("_module", "").replace("_head", "")
