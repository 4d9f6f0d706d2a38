"""The files of a run: a table, everything with its provenance, and a chart."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from pathlib import Path
from typing import Any

from flashbias_fold.bench import machine
from flashbias_fold.bench.chart import Line, Panel, Point, chart
from flashbias_fold.bench.kernels.options import METHODS
from flashbias_fold.bench.kernels.run import NotRun, Result, Row
from flashbias_fold.files import write_atomic, write_json

NAMES = ("kernels.csv", "kernels.svg", "kernels.json")
_COLUMNS = (
    "pass", "tokens", "heads", "dim", "dtype", "method", "rank", "status", "median_ms", "p10_ms", "p90_ms",
    "ratio", "error", "rows_compared", "floor_ms", "share_of_floor", "peak_memory_bytes", "reason",
)  # fmt: skip


def write(result: Result, folder: Path) -> None:
    """Write the three files, each complete whenever it is there; the JSON comes last."""
    write_atomic(folder / NAMES[0], as_csv(result))
    write_atomic(folder / NAMES[1], as_svg(result))
    write_json(folder / NAMES[2], as_json(result))


def as_csv(result: Result) -> str:
    """A line for each method, pass and size, also for those that did not run."""
    text = io.StringIO()
    table = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    constant = {key: getattr(result.options, key) for key in ("heads", "dim", "dtype")}
    entries: list[Row | NotRun] = [*result.rows, *result.not_run]
    table.writerows(constant | _entry(entry) for entry in entries)
    return text.getvalue()


def as_json(result: Result) -> dict[str, Any]:
    """Everything: also every single time, the error of each tensor and the parts of the floor."""
    return {
        "benchmark": "kernels",
        "date": result.date,
        **machine.commit(),
        "options": result.options.as_dict(),
        "baseline": result.baseline,
        "largest_right_error": result.bar,
        "machine": result.machine,
        "versions": result.versions,
        "rows": [_entry(row) | _details(row) for row in result.rows],
        "not_run": [_entry(entry) for entry in result.not_run],
    }


def as_svg(result: Result) -> str:
    """Time against size, a panel for each pass."""
    options = result.options
    what = f"{options.dtype}, {options.heads} heads of {options.dim}"
    return chart(
        f"Triangle attention, {what}",
        f"{result.place}: median and the range of eight in ten of {options.repeats} interleaved calls",
        "tokens",
        "milliseconds",
        [Panel(name, _lines(result, name)) for name in options.pass_names],
    )


def label(entry: Row | NotRun) -> str:
    """A method's name, with its rank."""
    return entry.method if entry.rank is None else f"{entry.method} R={entry.rank}"


def _lines(result: Result, pass_name: str) -> list[Line]:
    """Of every method that was timed, in an order that is the same for every run, and of the lowest floor."""
    points: dict[str, list[Point]] = {}
    floors: dict[int, float] = {}
    order = list(METHODS)
    for row in sorted(result.rows, key=lambda row: (order.index(row.method), row.rank or 0)):
        if row.pass_name != pass_name or row.ms is None:
            continue
        points.setdefault(label(row), []).append(Point(row.tokens, row.ms.median, row.ms.p10, row.ms.p90))
        if row.floor is not None:
            floors[row.tokens] = min(row.floor.ms, floors.get(row.tokens, math.inf))
    lines = [Line(name, tuple(found)) for name, found in points.items()]
    if floors:
        lines.append(Line("floor", tuple(Point(n, ms, ms, ms) for n, ms in floors.items()), dashed=True))
    return lines


def _entry(entry: Row | NotRun) -> dict[str, Any]:
    """What table and JSON have in common."""
    found: dict[str, Any] = {
        "pass": entry.pass_name,
        "tokens": entry.tokens,
        "method": entry.method,
        "rank": entry.rank,
    }
    if isinstance(entry, NotRun):
        return found | {"status": "failed" if entry.broken else "not run", "reason": entry.reason}
    times = dataclasses.asdict(entry.ms) if entry.ms else {}
    return found | {
        "status": "timed" if entry.right else "wrong",
        "median_ms": _digits(times.get("median")),
        "p10_ms": _digits(times.get("p10")),
        "p90_ms": _digits(times.get("p90")),
        "ratio": _digits(entry.ratio),
        "error": _digits(entry.error),
        "rows_compared": entry.rows_compared,
        "floor_ms": _digits(entry.floor.ms if entry.floor else None),
        "share_of_floor": _digits(entry.share_of_floor),
        "peak_memory_bytes": entry.peak_memory_bytes,
    }


def _details(row: Row) -> dict[str, Any]:
    return {
        "backend": row.backend,
        "errors": {name: _digits(error) for name, error in row.errors.items()},
        "rounds_ms": [_digits(ms) for ms in row.rounds_ms],
        "floor": row.floor and dataclasses.asdict(row.floor),
    }


def _digits(value: float | None) -> float | None:
    """As many as mean something; None for what is not finite, which JSON cannot say."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")
