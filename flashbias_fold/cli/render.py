"""What a finished command prints."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from flashbias_fold.cli.streams import say

if TYPE_CHECKING:
    from flashbias_fold.doctor import Finding
    from flashbias_fold.predict import RunResult

_MARKS = {True: "[green]     ok[/]", False: "[red]missing[/]", None: "[yellow]   note[/]"}
_MOST_ROWS = 40  # a terminal's worth; the rest is in summary.csv
_COLUMNS = ("job", "tokens", "seed", "pTM", "ipTM", "pLDDT", "seconds", "structure")
_TEXTS = ("job", "structure")


def render_result(result: RunResult) -> None:
    """The best structure of each job, and where everything is: a box on a terminal, plain lines elsewhere."""
    rows = [_row(report) for report in result.reports]
    if rows and sys.stdout.isatty():
        _show(_box(rows[:_MOST_ROWS]))
    elif rows:
        say(_lines([_COLUMNS, *rows]))
    if any(report["demo_model"] for report in result.reports):
        _show(Text("made by the demonstration model: not for science", style="yellow"))
    counts = {state: list(result.jobs.values()).count(state) for state in ("done", "skipped", "failed")}
    counts["invalid"] = result.rejected
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    say(f"{said}; results in {result.out}/ (summary.csv, run.json)")


def _row(report: dict[str, Any]) -> tuple[str, ...]:
    best = max(report["samples"], key=lambda sample: sample["ranking_score"])
    return (
        report["name"],
        str(report["n_token"]),
        str(best["seed"]),
        f"{best['ptm']:.3f}",
        f"{best['iptm']:.3f}",
        f"{best['plddt']:.1f}",
        f"{report['wall_s']:.1f}",
        f"{report['name']}/{best['cif']}",
    )


def _box(rows: list[tuple[str, ...]]) -> Table:
    table = Table(title="best structure of each job")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in _TEXTS else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # a name is no markup, whatever brackets it has
    return table


def _lines(rows: list[tuple[str, ...]]) -> str:
    """Aligned columns, a line for each row; the path comes last and in one piece."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in _TEXTS else cell.rjust(width)
            for column, cell, width in zip(_COLUMNS, row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _show(content: RenderableType) -> None:
    console = Console()
    with console.capture() as captured:
        console.print(content)
    say(captured.get(), end="")


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
