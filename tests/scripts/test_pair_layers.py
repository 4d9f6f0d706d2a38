"""The script that times the layers of pairs, each way: that every way is right, and a wrong one is told."""

import json
import sys

import pytest
from conftest import ROOT

from flashbias_fold.pairformer import Transition

sys.path.insert(0, str(ROOT / "scripts"))
from pair_layers import main

SMALL = ("--device", "cpu", "--tokens", "9", "--channels", "32", "--repeats", "2")


@pytest.fixture
def measure(monkeypatch):
    """The script with options, in this process; its exit status."""

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["pair_layers.py", *SMALL, *map(str, options)])
        return main()

    return run


def test_every_way_is_right_and_timed(measure, tmp_path, capsys):
    record = tmp_path / "record.json"
    assert measure("--json", record) == 0
    rows = json.loads(record.read_text())["rows"]
    assert {row["layer"] for row in rows} == {
        "tri_mul_out", "tri_mul_in", "tri_att_start", "tri_att_end", "pair_transition"
    }  # fmt: skip
    assert {row["way"] for row in rows} >= {"stock", "ours"}
    for row in rows:
        assert row["right"] and len(row["rounds_ms"]) == 2 and row["ms"] > 0
    assert capsys.readouterr().out.count("\n") == len(rows)


def test_a_way_that_is_wrong_is_told(measure, monkeypatch):
    monkeypatch.setattr(Transition, "forward", lambda self, x, add_in_place=False: x.add_(1))
    assert measure() == 1
