"""Write the tables of docs/benchmarks/README.md from the records beside it: nobody copies a figure."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"
PAGE = FOLDER / "README.md"
_PLACE = re.compile(r"(<!-- table (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    """Write them, or say whether they are as they should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if the page is not up to date"
    )
    check = parser.parse_args().check
    page = PAGE.read_text()
    right = _PLACE.sub(lambda place: place[1] + table(place[2], place[3]) + place[4], page)
    if check:
        return int(page != right)
    PAGE.write_text(right)
    return 0


def table(record: str, pass_name: str) -> str:
    """Medians in milliseconds, a line for each method, a column for each size; the largest error last."""
    data = json.loads((FOLDER / f"{record}.json").read_text())
    rows = [row for row in data["rows"] if row["pass"] == pass_name]
    sizes = sorted({row["tokens"] for row in rows})
    names = list(dict.fromkeys(_label(row) for row in sorted(rows, key=lambda row: -row["tokens"])))
    found = {(_label(row), row["tokens"]): row for row in rows}
    lines = [
        "| method | " + " | ".join(f"N = {size}" for size in sizes) + " | error |",
        "|---" * (len(sizes) + 2) + "|",
    ]
    for name in names:
        cells = [_cell(found.get((name, size))) for size in sizes]
        errors = [row["error"] for row in rows if _label(row) == name]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {max(errors):.1e} |")
    return "\n".join(lines) + "\n"


def _label(row: dict[str, Any]) -> str:
    return row["method"] if row["rank"] is None else f"{row['method']} R = {row['rank']}"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or row["median_ms"] is None:
        return "-"
    share = row["share_of_floor"]
    return f"{row['median_ms']:.3g}" + (f" ({100 * share:.0f} %)" if share else "")


if __name__ == "__main__":
    sys.exit(main())
