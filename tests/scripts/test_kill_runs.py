"""The script that kills runs: it finds nothing wrong with real ones, and what is wrong with tampered ones."""

import json
import random
import shutil
import subprocess
import sys

import pytest
from command_line import call
from conftest import ROOT
from lengths import at_length

sys.path.insert(0, str(ROOT / "scripts"))
import kill_runs
from kill_runs import OLD, Trial

SCRIPT = ROOT / "scripts" / "kill_runs.py"
KILLS = at_length(6, 12)


def test_kills_leave_nothing_torn_lost_or_listed_wrongly(tmp_path):
    record = tmp_path / "kills.json"
    done = subprocess.run(
        [
            sys.executable,
            SCRIPT,
            "--kills",
            str(KILLS),
            "--seed",
            "3",
            "--record",
            record,
            "--scratch",
            tmp_path,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(record.read_text())
    assert said["findings"] == []
    assert said["kills"] == sum(said["by_kind"].values()) == sum(said["moments"].values()) == KILLS
    assert said["seed"] == 3 and said["files_read"] > 50 and said["stories_completed"] >= 1
    assert not list(tmp_path.glob("kills-*"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The jobs of the script, and the folder of an undisturbed run of them."""
    scratch = tmp_path_factory.mktemp("kills")
    trial = Trial(scratch, random.Random(1))
    trial.write_jobs()
    call(*trial.arguments(scratch / "whole", OLD), check=0)
    return scratch


def torn(out):
    path = out / "one" / "seed_1" / "predictions" / "one_sample_0.cif"
    path.write_bytes(path.read_bytes()[:-100])


def lost(out):
    shutil.rmtree(out / "two")


def lost_seed(out):
    (out / "one" / "seed_2" / "report.json").unlink()


def mixed(out):
    folder = out / "one" / "seed_1" / "predictions"
    shutil.copy(folder / "one_sample_0.cif", folder / "one_sample_1.cif")


def listed_wrongly(out):
    path = out / "summary.csv"
    path.write_text(path.read_text().replace("two_sample_1.cif", "two_sample_2.cif"))


def told_wrongly(out):
    (out / "two" / "report.json").unlink()


def beside(out):
    (out / "two" / "error.json").write_text("{}")


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (None, ""),
        (torn, "torn: one/seed_1/predictions/one_sample_0.cif"),
        (lost, "lost: two was complete"),
        (lost_seed, "lost: one/seed_2 was complete"),
        (mixed, "mixed: one/seed_1/"),
        (listed_wrongly, "summary.csv lists two/seed_1/predictions/two_sample_2.cif"),
        (told_wrongly, "run.json says that two is done"),
        (told_wrongly, "status counts"),
        (beside, "two/error.json is beside a complete report"),
    ],
)
def test_what_is_wrong_is_found(folder, tmp_path, tamper, said):
    trial = Trial(folder, random.Random(1))
    trial.bytes = {"old": kill_runs.hashes_of(folder / "whole")}
    trial.scores = {"old": kill_runs.scores_of(folder / "whole")}
    out = shutil.copytree(folder / "whole", tmp_path / "out")
    before = kill_runs.results_in(out)
    if tamper is not None:
        tamper(out)
    trial.check(out, before, "fresh", "local")
    assert any(said in finding["what"] for finding in trial.findings) if said else trial.findings == []
