"""`report.csv`: a line for each entry and method."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from flashbias_fold.compare.measure import CLOSENESS, CONFIDENCES, STAGES

COLUMNS = (
    "name", "method", "seed", "n_token", "n_atom", *CONFIDENCES, "plausible", "problems",
    *(f"{name}_change" for name in (*CONFIDENCES, "pae")),
    *(f"{name}_to_{target}" for target in ("stock", "truth") for name in CLOSENESS),
    *(f"{stage}_s" for stage in STAGES), "wall_s", "peak_memory_bytes", "structure",
)  # fmt: skip


def table(report: Mapping[str, Any]) -> str:
    """A report as CSV; what does not apply is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rows(report))
    return text.getvalue()


def _rows(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    seeds = {method["key"]: method["seed"] for method in report["methods"]}
    for entry in report["entries"]:
        for result in entry["results"]:
            row = {name: entry[name] for name in ("name", "n_token", "n_atom")}
            row |= {name: result[name] for name in ("method", *CONFIDENCES)}
            row |= {"plausible": result["plausible"], "problems": "; ".join(result["problems"])}
            row |= {name: result[name] for name in ("wall_s", "peak_memory_bytes", "structure")}
            row |= {f"{name}_change": value for name, value in (result["change"] or {}).items()}
            row |= {f"{stage}_s": result["stages_s"][stage] for stage in STAGES}
            for target in ("stock", "truth"):
                row |= _close(result[f"to_{target}"] or {}, target)
            yield row | {"seed": seeds[result["method"]]}


def _close(found: Mapping[str, Any], target: str) -> dict[str, Any]:
    interface = found.get("interface")
    return {f"{name}_to_{target}": value for name, value in found.items()} | {
        f"interface_to_{target}": interface["value"] if interface else None
    }
