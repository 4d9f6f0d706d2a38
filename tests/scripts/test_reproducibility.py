"""The script about reproducibility, on a CPU, where all runs give the same bytes."""

import json
import sys

import pytest
from conftest import ROOT
from lengths import only_in_full

sys.path.insert(0, str(ROOT / "scripts"))
from reproducibility import main

SMALL = ("--model", "demo", "--device", "cpu", "--tokens", "12", "--steps", "2", "--cycles", "1")


@pytest.fixture
def measure(monkeypatch):
    """The script with options, in this process; its exit status."""

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["reproducibility.py", *SMALL, *map(str, options)])
        return main()

    return run


@only_in_full
def test_runs_are_compared_and_recorded(measure, tmp_path, capsys):
    record = tmp_path / "record.json"
    assert measure("--rounds", 1, "--json", record) == 0
    capsys.readouterr()
    written = json.loads(record.read_text())
    assert len(written["bytes"]) == 6
    assert all(row["same"] for row in written["bytes"])
    assert {row["bias"] for row in written["times"]} == {"stock", "dense"}

    # Another process gives the same bytes, and one whose record says otherwise is told apart.
    written["bytes"][0]["sha256"] = "0"
    record.write_text(json.dumps(written))
    assert measure("--rounds", 0, "--against", record) == 1
    printed = capsys.readouterr().out
    assert printed.count(", as in the other process") == 5
    assert printed.count(", unlike the other process") == 1


def test_a_record_of_something_else_is_refused(measure, tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text("[]")
    assert measure("--against", other) == 2
    assert capsys.readouterr().err == f"error: --against: {other} is no record of this script\n"
