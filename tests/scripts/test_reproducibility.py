"""The script about reproducibility, on a CPU, where all runs give the same bytes."""

import json
import subprocess
import sys

from conftest import ROOT

SCRIPT = ROOT / "scripts" / "reproducibility.py"
SMALL = ("--model", "demo", "--device", "cpu", "--tokens", "12", "--steps", "2", "--cycles", "1")


def measure(*options):
    return subprocess.run(
        [sys.executable, SCRIPT, *SMALL, *map(str, options)], capture_output=True, text=True, check=False
    )


def test_runs_are_compared_and_recorded(tmp_path):
    record = tmp_path / "record.json"
    done = measure("--rounds", 1, "--json", record)
    assert done.returncode == 0, done.stderr
    written = json.loads(record.read_text())
    assert len(written["bytes"]) == 6
    assert all(row["same"] for row in written["bytes"])
    assert {row["bias"] for row in written["times"]} == {"stock", "dense"}

    # Another process gives the same bytes, and one whose record says otherwise is told apart.
    written["bytes"][0]["sha256"] = "0"
    record.write_text(json.dumps(written))
    other = measure("--rounds", 0, "--against", record)
    assert other.returncode == 1
    assert other.stdout.count("as in the other process") == 5
    assert other.stdout.count("unlike the other process") == 1


def test_a_record_of_something_else_is_refused(tmp_path):
    other = tmp_path / "other.json"
    other.write_text("[]")
    done = measure("--against", other)
    assert done.returncode == 2
    assert done.stderr == f"error: --against: {other} is no record of this script\n"
