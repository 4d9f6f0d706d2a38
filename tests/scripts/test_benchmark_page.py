"""The page of benchmarks says what the records say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORDS = sorted((ROOT / "docs" / "benchmarks").glob("*.json"))


def test_its_tables_are_those_of_the_records():
    assert (
        subprocess.run(
            [sys.executable, ROOT / "scripts" / "benchmark_page.py", "--check"], check=False
        ).returncode
        == 0
    )


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_a_record_says_where_it_comes_from(record):
    data = json.loads(record.read_text())
    assert len(data["commit"]) == 40
    assert data["changed"] is False
    assert {"python", "torch"} <= data["versions"].keys()
    assert all((record.with_suffix(kind)).exists() for kind in (".csv", ".svg"))
    assert all(row["error"] <= data["largest_right_error"] for row in data["rows"])
