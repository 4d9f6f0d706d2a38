"""The start of a run: something is said before anything heavy is imported, and in any locale."""

import subprocess
import sys

import pytest
from command_line import COMMAND, TINY, environment, report_of, run, run_json

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None}
NAMES = ["蛋白質一", "蛋白質二"]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "入力.fasta"
    path.write_text("".join(f">{name}\nMKTAYIAK\n" for name in NAMES), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def in_ascii(records):
    """A run in a locale in which Python cannot write the name of a job."""
    out = records.parent / "出力"
    return run("predict", records, "--out", out, *TINY, env=ASCII, check=0), out


def test_the_first_line_comes_before_torch(records, tmp_path):
    command = [sys.executable, "-X", "importtime", *COMMAND[1:]]
    options = ("--out", tmp_path / "out", "--model", "demo", "--plan", tmp_path / "missing.yaml")
    done = subprocess.run(
        [*command, "predict", str(records), *map(str, options)],
        check=False, capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-1000:]
    lines = done.stderr.splitlines()
    imported = [line.rpartition("|")[2].strip().split(".")[0] for line in lines]
    assert lines.index(f"reading 2 records of {records}") < imported.index("torch")


def test_an_ascii_locale_ends_no_run_over_the_name_of_a_job(in_ascii):
    done, out = in_ascii
    for name in NAMES:
        shown = name.encode("ascii", "backslashreplace").decode()
        assert f"{shown}: done in" in done.stderr
        cif = f"seed_101/predictions/{name}_sample_0.cif"
        assert report_of(out, name)["samples"][0]["cif"] == cif
        assert (out / name / cif).is_file()
        assert f"{name}/{cif}" in (out / "summary.csv").read_text(encoding="utf-8")
    assert done.stdout.isascii() and done.stderr.isascii()
    assert run_json(out)["jobs"] == dict.fromkeys(NAMES, "done")


def test_another_locale_continues_the_run(records, in_ascii):
    done = run("predict", records, "--out", in_ascii[1], *TINY, env={"PYTHONUTF8": "1"}, check=0)
    for name in NAMES:
        assert f"{name}: already complete, skipped" in done.stderr.splitlines()


def test_status_speaks_in_an_ascii_locale(in_ascii):
    done = run("status", in_ascii[1], "--json", env=ASCII, check=0)
    assert '"state": "done"' in done.stdout and done.stdout.isascii()
