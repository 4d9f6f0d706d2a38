"""The files of a run: a table, everything with its provenance, and a chart; and what is shown of it."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flashbias_fold.bench import machine
from flashbias_fold.bench.chart import Line, Panel, Point, chart
from flashbias_fold.bench.model.layers import Layer
from flashbias_fold.bench.model.options import METHODS
from flashbias_fold.bench.model.run import TOTAL, NotRun, Part, Result, Row
from flashbias_fold.bench.model.session import STAGES
from flashbias_fold.files import write_atomic, write_json
from flashbias_fold.protenix_adapter.recording import SWITCH

NAMES = ("model.csv", "model.svg", "model.json")
_COLUMNS = (
    "job", "tokens", "method", "status", "part", "kind", "median_s", "p10_s", "p90_s", "ratio", "calls",
    "floor_s", "share_of_floor", "first_s", "peak_memory_bytes", "reason",
)  # fmt: skip
COLUMNS = ("job", "tokens", "method", "seconds", "10-90 %", "ratio", *STAGES, "first", "MiB")
LAYER_COLUMNS = ("method", "stage", "layers", "calls", "seconds", "share", "of floor")
_FLOOR = LAYER_COLUMNS.index("of floor")
_SHOWN_LAYERS = 0.01  # of the whole, at least, to be shown


def write(result: Result, folder: Path) -> None:
    """Write the three files, each complete whenever it is there; the JSON comes last."""
    write_atomic(folder / NAMES[0], as_csv(result))
    write_atomic(folder / NAMES[1], as_svg(result))
    write_json(folder / NAMES[2], as_json(result))


def as_csv(result: Result) -> str:
    """A line for each whole prediction, stage and kind of layer, and for each method that did not run."""
    text = io.StringIO()
    table = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for row in result.rows:
        table.writerows(_lines(row))
    table.writerows(_not_run(entry) for entry in result.not_run)
    return text.getvalue()


def as_json(result: Result) -> dict[str, Any]:
    """Everything: also every single time, the rules of the plan and the longest kernels."""
    return {
        "benchmark": "model",
        "date": result.date,
        **machine.commit(),
        "options": result.options.as_dict(),
        "weights": result.weights,
        "parameters": result.parameters,
        "baseline": result.baseline,
        "kernels": result.kernels,
        "layernorm": result.layernorm,
        "plan": result.plan,
        "trunk_recorded": os.environ.get(SWITCH) != "0",  # of ours on a GPU, up to the size where it pays
        "load_s": _digits(result.load_s),
        "machine": result.machine,
        "versions": result.versions,
        "jobs": [dataclasses.asdict(job) | {"featurize_s": _digits(job.featurize_s)} for job in result.jobs],
        "rows": [_row(row) for row in result.rows],
        "not_run": [_not_run(entry) for entry in result.not_run],
    }


def as_svg(result: Result) -> str:
    """Time against size, a panel for the whole and for each stage."""
    options = result.options
    return chart(
        f"Whole predictions by {options.model}, {result.weights} weights, {options.dtype}",
        f"{result.place}: median and the range of eight in ten of {_rounds(result)} interleaved calls",
        "tokens",
        "seconds",
        [Panel(name, _curves(result, name)) for name in (TOTAL, *STAGES)],
    )


def head(result: Result) -> str:
    """The line above the table."""
    options = result.options
    counts = (
        f"{options.cycles} cycles, {options.steps} steps, {options.samples} samples, "
        f"{_rounds(result)} interleaved rounds"
    )
    return (
        f"{options.model} with {result.weights} weights on {result.place}, torch "
        f"{result.versions['torch']}: {options.dtype}, {counts}"
    )


def rows(result: Result) -> list[tuple[str, ...]]:
    """The table's lines, of COLUMNS: the fastest method of each size first."""
    return [
        (
            row.job,
            str(row.tokens),
            row.method,
            _shown(row.part(TOTAL).seconds.median),
            f"{_shown(row.part(TOTAL).seconds.p10)} to {_shown(row.part(TOTAL).seconds.p90)}",
            _ratio(row.part(TOTAL)),
            *(_shown(row.part(stage).seconds.median) for stage in STAGES),
            "" if row.first_s is None else _shown(row.first_s),
            f"{row.peak_memory_bytes / 2**20:,.0f}",
        )
        for row in result.rows
    ]


def layer_columns(result: Result) -> tuple[str, ...]:
    """LAYER_COLUMNS, without the floor where no rates of the machine are known."""
    floors = any(layer.floor_s is not None for row in result.rows for layer in row.layers)
    return LAYER_COLUMNS if floors else LAYER_COLUMNS[:_FLOOR]


def layer_rows(result: Result) -> list[tuple[str, ...]]:
    """Lines of `layer_columns` for the largest job: where each method's time goes, but for what is tiny."""
    width = len(layer_columns(result))
    largest = max((row.tokens for row in result.rows), default=0)
    lines: list[tuple[str, ...]] = []
    for row in result.rows:
        whole = sum(layer.seconds for layer in row.layers)
        lines += [
            (
                row.method,
                layer.stage,
                layer.kind,
                str(layer.calls),
                _shown(layer.seconds),
                f"{100 * layer.seconds / whole:.0f} %",
                "" if layer.share_of_floor is None else f"{100 * layer.share_of_floor:.0f} %",
            )[:width]
            for layer in row.layers
            if row.tokens == largest and layer.seconds >= _SHOWN_LAYERS * whole
        ]
    return lines


def notes(result: Result) -> list[str]:
    """What is to be said below the tables."""
    lines = []
    if result.baseline:
        lines.append(f"ratio: the median of {result.baseline} over the method's; above 1 is faster")
    if result.weights == "random":
        lines.append("random weights: times do not depend on them, structures mean nothing")
    if result.plan:
        lines.append(f"flashbias: plan {result.plan['name']}")
    for row in result.rows:
        if row.fallbacks:
            lines.append(f"{row.method}, {row.job}: {row.fallbacks} calls fell back to the exact bias")
    for entry in result.not_run:
        where = "" if entry.tokens is None else f" ({entry.job})"
        lines.append(f"{'failed' if entry.broken else 'not run'}: {entry.method}{where}: {entry.reason}")
    return lines


def _rounds(result: Result) -> str:
    """How many there were: fewer of a size where the time for them was limited."""
    counts = {len(row.part(TOTAL).rounds_s) for row in result.rows} or {result.options.repeats or 0}
    return str(max(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _curves(result: Result, name: str) -> list[Line]:
    """Of every method that was timed, in an order that is the same for every run."""
    points: dict[str, list[Point]] = {}
    for row in sorted(result.rows, key=lambda row: list(METHODS).index(row.method)):
        times = row.part(name).seconds
        points.setdefault(row.method, []).append(Point(row.tokens, times.median, times.p10, times.p90))
    return [Line(method, tuple(found)) for method, found in points.items()]


def _lines(row: Row) -> Iterator[dict[str, Any]]:
    same = {"job": row.job, "tokens": row.tokens, "method": row.method, "status": "timed"}
    for part in row.parts:
        line = same | _part(part) | {"part": part.name}
        if part.name == TOTAL:
            line |= {"first_s": _digits(row.first_s)}
        yield line
    for layer in row.layers:
        found = _layer(layer)
        yield same | found | {"part": layer.stage, "median_s": found["seconds"]}


def _row(row: Row) -> dict[str, Any]:
    return {
        "job": row.job,
        "tokens": row.tokens,
        "method": row.method,
        "first_s": _digits(row.first_s),
        "peak_memory_bytes": row.peak_memory_bytes,
        "parts": {
            part.name: _part(part) | {"rounds_s": [_digits(seconds) for seconds in part.rounds_s]}
            for part in row.parts
        },
        "layers": [_layer(layer) for layer in row.layers],
        "launches": {name: dataclasses.asdict(window) for name, window in row.launches.items()},
        "ways": row.ways,
        "fallbacks": row.fallbacks,
    }


def _part(part: Part) -> dict[str, Any]:
    times = part.seconds
    return {
        "median_s": _digits(times.median),
        "p10_s": _digits(times.p10),
        "p90_s": _digits(times.p90),
        "peak_memory_bytes": part.peak_bytes,
        "ratio": _digits(part.ratio),
    }


def _layer(layer: Layer) -> dict[str, Any]:
    return {
        "stage": layer.stage,
        "kind": layer.kind,
        "seconds": _digits(layer.seconds),
        "calls": layer.calls,
        "floor_s": _digits(layer.floor_s),
        "share_of_floor": _digits(layer.share_of_floor),
    }


def _not_run(entry: NotRun) -> dict[str, Any]:
    return {
        "job": entry.job,
        "tokens": entry.tokens,
        "method": entry.method,
        "status": "failed" if entry.broken else "not run",
        "reason": entry.reason,
    }


def _ratio(part: Part) -> str:
    return "" if part.ratio is None else f"{part.ratio:.2f}"


def _shown(seconds: float) -> str:
    """Three digits, or all before the point."""
    return (
        f"{seconds:.{max(0, 2 - math.floor(math.log10(seconds)))}f}"
        if 0 < seconds < 100
        else f"{seconds:.0f}"
    )


def _digits(value: float | None) -> float | None:
    """As many as mean something; None for what is not finite, which JSON cannot say."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")
