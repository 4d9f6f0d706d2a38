"""What a finished command prints."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from flashbias_fold.doctor import Finding
    from flashbias_fold.predict import RunResult

_MARKS = {True: "[green]ok[/]", False: "[red]missing[/]", None: "[yellow]note[/]"}
_MOST_ROWS = 40  # a terminal's worth; the rest is in summary.csv


def render_result(result: RunResult) -> None:
    """The best structure of each job, and where everything is."""
    console = Console()
    if result.reports:
        table = Table(title="best structure of each job")
        for column in ("job", "tokens", "seed", "pTM", "ipTM", "pLDDT", "seconds", "structure"):
            numeric = column not in ("job", "structure")
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for report in result.reports[:_MOST_ROWS]:
            best = max(report["samples"], key=lambda sample: sample["ranking_score"])
            table.add_row(
                report["name"],
                str(report["n_token"]),
                str(best["seed"]),
                f"{best['ptm']:.3f}",
                f"{best['iptm']:.3f}",
                f"{best['plddt']:.1f}",
                f"{report['wall_s']:.1f}",
                f"{report['name']}/{best['cif']}",
            )
        console.print(table)
        if any(report["demo_model"] for report in result.reports):
            console.print("made by the demonstration model: not for science", style="yellow")
    counts = {state: list(result.jobs.values()).count(state) for state in ("done", "skipped", "failed")}
    counts["invalid"] = result.rejected
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    console.print(
        f"{said}; results in {result.out}/ (summary.csv, run.json)", highlight=False, soft_wrap=True
    )


def render_findings(findings: list[Finding], *, as_json: bool, quiet: bool) -> None:
    """What `doctor` found."""
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
        return
    console = Console()
    for finding in findings:
        if quiet and finding.ok is not False:
            continue
        console.print(f"{_MARKS[finding.ok]:>16} ", f"[bold]{finding.what}[/]: ", end="", sep="")
        console.print(finding.value, markup=False, highlight=False, soft_wrap=True)
        if finding.mend:
            console.print(f"          mend: {finding.mend}", markup=False, highlight=False, soft_wrap=True)
