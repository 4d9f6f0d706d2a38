"""Standard output and standard error that are closed, full, or read by nobody: no words of Python's own."""

import os
import subprocess

import pytest
from command_line import COMMAND, TINY, call, environment, run, run_json, write_jobs
from conftest import SEQUENCE, protein

FULL_DEVICE = "/dev/full"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    return write_jobs(tmp_path_factory.mktemp("streams") / "jobs.json", protein("one", SEQUENCE[:8]))


@pytest.fixture(scope="module")
def out(jobs):
    """A folder with everything done, for runs that only say so."""
    call("predict", jobs, "--out", jobs.parent / "out", *TINY, check=0)
    return jobs.parent / "out"


@pytest.fixture
def read_by_nobody():
    """The end of a pipe whose other end is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]], ids=" ".join)
def test_help_that_nobody_reads_is_no_error(read_by_nobody, arguments):
    done = run(*arguments, stdout=read_by_nobody)
    assert (done.returncode, done.stderr) == (0, "")


def test_results_that_nobody_reads_are_done_nevertheless(jobs, out, read_by_nobody):
    done = run("predict", jobs, "--out", out, *TINY, stdout=read_by_nobody)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == "one: already complete, skipped"


def test_progress_that_nobody_reads_stops_no_run(jobs, tmp_path, read_by_nobody):
    done = run("predict", jobs, "--out", tmp_path / "out", *TINY, stderr=read_by_nobody)
    assert done.returncode == 0
    assert "1 done" in done.stdout
    assert run_json(tmp_path / "out")["jobs"] == {"one": "done"}


def test_the_first_line_of_a_pipeline(jobs, out):
    command = " ".join([*COMMAND, "predict", str(jobs), "--out", str(out), *TINY])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -1"],
        capture_output=True, text=True, check=True, env=environment(),
    )  # fmt: skip
    assert done.stdout.split() == [
        "job",
        "tokens",
        "seed",
        "pTM",
        "ipTM",
        "pLDDT",
        "plausible",
        "seconds",
        "structure",
    ]
    assert "Broken" not in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["predict"]], ids=["help", "results"])
def test_a_full_standard_output_is_one_line_and_status_1(jobs, out, arguments):
    if arguments == ["predict"]:
        arguments = ["predict", jobs, "--out", out, *TINY, "--model", "demo"]
    with open(FULL_DEVICE, "w") as full:  # noqa: PTH123
        done = run(*arguments, stdout=full)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: standard output: No space left on device"


def test_closed_streams_are_no_error_and_their_numbers_go_to_no_file(jobs, tmp_path):
    command = " ".join([*COMMAND, "predict", str(jobs), "--out", str(tmp_path / "out"), *TINY])
    done = subprocess.run(["bash", "-c", f"{command} <&- >&- 2>&-"], check=False, env=environment())
    assert done.returncode == 0
    assert run_json(tmp_path / "out")["jobs"] == {"one": "done"}
    assert (tmp_path / "out" / ".flashbias-fold.lock").read_text() == ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_the_encoding_lacks_are_printed_nevertheless(tmp_path, encoding):
    name = "αβ-\udcff"
    jobs = write_jobs(tmp_path / f"{name}.json", protein("β", "MK1"))
    done = run("predict", jobs, "--out", tmp_path / name, env={"PYTHONIOENCODING": encoding})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "expected protein letters" in line
