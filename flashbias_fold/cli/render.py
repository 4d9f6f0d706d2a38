"""What a finished command prints."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from flashbias_fold.cli.streams import say

if TYPE_CHECKING:
    from flashbias_fold.bench.kernels.run import NotRun, Result, Row
    from flashbias_fold.bench.model.run import Result as Predictions
    from flashbias_fold.calibrate import Result as Calibrated
    from flashbias_fold.calibrate.planning import Chosen
    from flashbias_fold.calibrate.speed import Speed
    from flashbias_fold.compare.run import Result as Compared
    from flashbias_fold.doctor import Finding
    from flashbias_fold.predict import RunResult

_MARKS = {True: "[green]     ok[/]", False: "[red]missing[/]", None: "[yellow]   note[/]"}
_MOST_ROWS = 40  # a terminal's worth; the rest is in summary.csv
_COLUMNS = ("job", "tokens", "seed", "pTM", "ipTM", "pLDDT", "plausible", "seconds", "structure")
_KERNEL_COLUMNS = ("pass", "tokens", "method", "median ms", "10-90 %", "ratio", "error")
_GPU_COLUMNS = ("of floor", "MiB")
_COMPARISON_COLUMNS = (
    "method", "pTM", "pLDDT", "pTM change", "LDDT to stock", "to truth", "seconds", "ratio", "verdict",
)  # fmt: skip
_TEXTS = ("job", "structure", "pass", "method", "stage", "layer", "layers", "way", "why", "verdict")


def render_result(result: RunResult) -> None:
    """Print the best structure of each job, and where everything is.

    On a terminal a box, and under it the paths, each in one piece so that it can be copied; elsewhere plain
    lines that end with the path.
    """
    rows = [_row(report, result.out) for report in result.reports]
    if rows and sys.stdout.isatty():
        _show(_box("best structure of each job", _COLUMNS[:-1], [row[:-1] for row in rows[:_MOST_ROWS]]))
        say("\n".join(row[-1] for row in rows[:_MOST_ROWS]))
        if len(rows) > _MOST_ROWS:
            say(f"and {len(rows) - _MOST_ROWS:,} more in {result.out}/summary.csv")
    elif rows:
        say(_lines(_COLUMNS, rows))
    if any(report["demo_model"] for report in result.reports):
        _show(Text("made by the demonstration model: not for science", style="yellow"))
    counts = {state: list(result.jobs.values()).count(state) for state in ("done", "skipped", "failed")}
    counts["invalid"] = result.rejected
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    say(f"{said}; results in {result.out}/ (summary.csv, run.json)")


def _row(report: dict[str, Any], out: Path) -> tuple[str, ...]:
    from flashbias_fold.predict.ranking import best_sample

    best = best_sample(report["samples"])
    return (
        report["name"],
        str(report["n_token"]),
        str(best["seed"]),
        f"{best['ptm']:.3f}",
        "-" if best["iptm"] is None else f"{best['iptm']:.3f}",
        f"{best['plddt']:.1f}",
        {True: "yes", False: "NO", None: "-"}[best.get("plausible")],
        f"{report['wall_s']:.1f}",
        str(out / report["name"] / best["cif"]),
    )


def _box(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column in _TEXTS else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # a name is no markup, whatever brackets it has
    return table


def _lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, a line for each row; a path comes last and in one piece."""
    table = [columns, *rows]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [
            cell.ljust(width) if column in _TEXTS else cell.rjust(width)
            for column, cell, width in zip(columns, row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _show(content: RenderableType) -> None:
    console = Console()
    with console.capture() as captured:
        console.print(content)
    say(captured.get(), end="")


def render_comparison(result: Compared) -> None:
    """The verdict, a line for each method, and where everything is."""
    report = result.report
    if report is not None:
        verdict, ratio = report["verdict"], report["speed"]["wall_ratio"]
        labels = {method["key"]: method["label"] for method in report["methods"]}
        rows = [_comparison_row(row, report["summary"][0], labels) for row in report["summary"]]
        if sys.stdout.isatty():
            _show(_box("means over the entries", _COMPARISON_COLUMNS, rows))
        else:
            say(_lines(_COMPARISON_COLUMNS, rows))
        say(f"{verdict['headline']}. {verdict['text']}")
        say(
            f"Stock takes {ratio['mean']:.2f} times as long as {labels[report['speed']['method']]} "
            f"({ratio['low']:.2f} to {ratio['high']:.2f})."
        )
        if report["demo_model"]:
            _show(Text("made by the demonstration model: not for science", style="yellow"))
    done = 0 if report is None else len(report["entries"])
    amiss = f", {len(result.failed)} amiss" if result.failed else ""
    where = f"; open {result.out}/report.html (report.json and report.csv have the numbers)" if done else ""
    say(f"{done} compared{amiss}{where}")


def _comparison_row(row: dict[str, Any], baseline: dict[str, Any], labels: dict[str, str]) -> tuple[str, ...]:
    def mean(name: str, digits: int) -> str:
        found = row["measures"].get(name)
        return "" if found is None else f"{found['mean']:.{digits}f}"

    wall, first = (one["measures"].get("wall_s") for one in (row, baseline))
    return (
        labels[row["method"]],
        mean("ptm", 3),
        mean("plddt", 1),
        mean("ptm_change", 4),
        mean("lddt_ca_to_stock", 3),
        mean("lddt_ca_to_truth", 3),
        mean("wall_s", 2),
        f"{first['mean'] / wall['mean']:.2f}" if wall and first else "",
        row["verdict"] or "",
    )


def render_calibration(result: Calibrated) -> None:
    """The error of each layer at each rank, and where the files are."""
    columns = ("layer", "way", *(f"R={rank}" for rank in result.ranks))
    rows = [
        (layer, way, *(f"{by_rank[rank]['mean']:.3f}" for rank in result.ranks))
        for layer, by_way in result.file.errors.items()
        for way, by_rank in by_way.items()
    ]
    if sys.stdout.isatty():
        _show(_box("mean error of each layer's output, on inputs kept aside", columns, rows))
    else:
        say(_lines(columns, rows))
    say(f"networks in {result.out}, their errors in {result.out.with_suffix('.svg')}")


def render_plan(found: list[Chosen], out: Path, speed: Speed | None) -> None:
    """What was chosen for each layer, where the exact bias is as fast, and where the plan is."""
    columns = ("layer", "way", "rank", "error", "why")
    rows = [(one.layer, one.way, str(one.rank or "-"), f"{one.error:.3f}", one.why) for one in found]
    if sys.stdout.isatty():
        _show(_box("error: the largest, on inputs kept aside", columns, rows))
    else:
        say(_lines(columns, rows))
    if speed is not None:
        say("\n".join(speed.in_words()))
    factored = sum(one.rank is not None for one in found)
    say(f"{factored} of {len(found)} layers by factors; plan in {out}")


def render_findings(findings: list[Finding], *, as_json: bool, quiet: bool) -> None:
    """What `doctor` found."""
    if as_json:
        say(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
        return
    console = Console()
    with console.capture() as captured:
        for finding in findings:
            if quiet and finding.ok is not False:
                continue
            console.print(f"{_MARKS[finding.ok]} [bold]{finding.what}[/]: ", end="")
            console.print(finding.value, markup=False, highlight=False, soft_wrap=True)
            if finding.mend:
                console.print(f"        mend: {finding.mend}", markup=False, highlight=False, soft_wrap=True)
    say(captured.get(), end="")


def render_kernels(result: Result, out: Path | None) -> None:
    """What `bench kernels` found: where, a table, what did not run, and where the files are."""
    from flashbias_fold.bench.kernels.record import NAMES

    options, machine = result.options, result.machine
    say(
        f"triangle attention on {result.place}, torch {result.versions['torch']}: {options.dtype}, "
        f"{options.heads} heads of {options.dim}, {options.repeats} interleaved rounds"
    )
    columns = _KERNEL_COLUMNS + (_GPU_COLUMNS if "gpu" in machine else ())
    rows = [_kernel_row(row, on_gpu="gpu" in machine) for row in result.rows]
    if rows and sys.stdout.isatty():
        _show(_box("a method that is wrong is not timed", columns, rows))
    elif rows:
        say(_lines(columns, rows))
    if backends := sorted({row.backend for row in result.rows if row.backend}):
        say(f"ours: backend {', '.join(backends)}")
    if result.baseline:
        say(f"ratio: the median of {result.baseline} over the method's; above 1 is faster")
    say(f"error: relative, to float64, of the output or of the worst gradient; wrong above {result.bar:.1e}")
    for line in _not_run_lines(result):
        say(line)
    if out is not None:
        say(f"results in {out}/ ({', '.join(NAMES)})")


def render_model(result: Predictions, out: Path | None) -> None:
    """What `bench model` found: where, how fast, where the time goes, and where the files are."""
    from flashbias_fold.bench.model import record

    say(record.head(result))
    tables = (
        ("seconds of whole predictions and of their stages", record.COLUMNS, record.rows(result)),
        ("where the time of the largest goes", record.layer_columns(result), record.layer_rows(result)),
    )
    for title, columns, rows in tables:
        if rows and sys.stdout.isatty():
            _show(_box(title, columns, rows))
        elif rows:
            say(f"\n{title}:\n{_lines(columns, rows)}")
    say("")
    for line in record.notes(result):
        say(line)
    if out is not None:
        say(f"results in {out}/ ({', '.join(record.NAMES)})")


def _kernel_row(row: Row, *, on_gpu: bool) -> tuple[str, ...]:
    from flashbias_fold.bench.kernels.record import label

    ms = row.ms
    cells = (
        row.pass_name,
        str(row.tokens),
        label(row),
        "wrong" if ms is None else _significant(ms.median),
        "" if ms is None else f"{_significant(ms.p10)} to {_significant(ms.p90)}",
        "" if row.ratio is None else f"{row.ratio:.2f}",
        f"{row.error:.1e}",
    )
    if not on_gpu:
        return cells
    share, peak = row.share_of_floor, row.peak_memory_bytes
    return (
        *cells,
        "" if share is None else f"{100 * share:.0f} %",
        "" if peak is None else f"{peak / 2**20:,.0f}",
    )


def _significant(ms: float) -> str:
    """Three digits, or all before the point."""
    digits = next((digits for digits, least in enumerate((100.0, 10.0, 1.0)) if ms >= least), 3)
    return f"{ms:.{digits}f}"


def _not_run_lines(result: Result) -> list[str]:
    """A line for each method and reason, naming passes and sizes where others of the method did run."""
    from flashbias_fold.bench.kernels.record import label

    groups: dict[tuple[str, str], list[NotRun]] = {}
    for entry in result.not_run:
        groups.setdefault((label(entry), entry.reason), []).append(entry)
    everywhere = len(result.options.tokens or ()) * len(result.options.pass_names)
    lines = []
    for (name, reason), entries in groups.items():
        failed = "failed" if any(entry.broken for entry in entries) else "not run"
        places = ", ".join(f"{entry.pass_name} {entry.tokens}" for entry in entries)
        lines.append(f"{failed}: {name}{'' if len(entries) == everywhere else f' ({places})'}: {reason}")
    return lines
