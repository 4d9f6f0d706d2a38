"""A run that is repeated, interrupted, killed or out of room: what is complete stays, nothing is torn."""

import csv
import io
import random
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command_line import (
    FULL,
    TINY,
    assert_whole,
    call,
    error_of,
    errors_in,
    predictions,
    report_of,
    run,
    run_json,
    start,
)
from command_line import write_jobs as write
from conftest import SEQUENCE, protein
from lengths import at_length

from flashbias_fold.protenix_adapter import engine

ONE, TWO, THREE = (
    protein(name, SEQUENCE[:length]) for name, length in (("one", 8), ("two", 10), ("three", 12))
)


def summary(out):
    """The rows of `summary.csv`."""
    with (out / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def states(out):
    """Which file, by number, is under each name: a file that was replaced has another."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in Path(out).glob("*/seed_*/*/*")}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    return write(tmp_path_factory.mktemp("jobs") / "jobs.json", ONE, TWO)


@pytest.fixture(scope="module")
def complete(jobs):
    """The folder of a complete run of two jobs."""
    call("predict", jobs, "--out", jobs.parent / "complete", *TINY, check=0)
    return jobs.parent / "complete"


@pytest.fixture
def out(complete, tmp_path):
    """A copy of it to go on with."""
    return shutil.copytree(complete, tmp_path / "out")


@pytest.fixture
def no_model(monkeypatch):
    """A run that loads a model fails."""

    def forbidden(*arguments, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(engine, "Engine", forbidden)


# Complete jobs


def test_complete_jobs_are_skipped_without_loading_a_model(jobs, out, no_model):
    before = states(out)
    done = call("predict", jobs, "--out", out, *TINY, check=0)
    assert states(out) == before
    assert run_json(out)["jobs"] == {"one": "skipped", "two": "skipped"}
    assert run_json(out)["status"] == "done"
    for name in ("one", "two"):
        assert f"{name}: already complete, skipped" in done.stderr.splitlines()


def test_skipped_jobs_are_in_the_table_and_in_the_summary(jobs, out, no_model):
    done = call("predict", jobs, "--out", out, *TINY, check=0)
    for name in ("one", "two"):
        assert any(line.startswith(f"{name} ") for line in done.stdout.splitlines())
    with (out / "summary.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["one", "two"]


def test_overwrite_predicts_again(jobs, out, complete):
    before = states(out)
    call("predict", jobs, "--out", out, *TINY, "--overwrite", check=0)
    after = states(out)
    assert after.keys() == before.keys()
    assert not any(after[path] == before[path] for path in after)
    assert predictions(out) == predictions(complete)
    assert run_json(out)["jobs"] == {"one": "done", "two": "done"}


def test_overwrite_with_other_settings_leaves_nothing_of_the_old_ones(jobs, out):
    options = ("--model", "demo", "--steps", "1", "--cycles", "1", "--samples", "1")
    before = predictions(out)
    call("predict", jobs, "--out", out, *options, "--overwrite", check=0)
    after = predictions(out)
    assert after.keys() == before.keys()
    assert not any(after[name] == before[name] for name in after)
    assert report_of(out, "one")["settings"]["steps"] == 1
    assert not any(seed["differs"] for seed in report_of(out, "one")["seeds"])


def test_more_seeds_run_only_the_new_ones_and_the_report_has_all(jobs, out):
    before = states(out)
    call("predict", jobs, "--out", out, *TINY, "--seeds", "101,7", check=0)
    assert {path: state for path, state in states(out).items() if path in before} == before
    for name in ("one", "two"):
        report = report_of(out, name)
        assert [sample["seed"] for sample in report["samples"]] == [7, 101]
        assert all((out / name / sample["cif"]).is_file() for sample in report["samples"])
    with (out / "summary.csv").open(newline="") as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["7", "101", "7", "101"]


@pytest.mark.parametrize("suffix", ["cif", "pdb", "npz", "json"])
def test_a_job_that_lacks_a_file_is_done_again(full, tmp_path, suffix):
    jobs, reference = full
    out = shutil.copytree(reference, tmp_path / "out")
    lost = next((out / "two").glob(f"seed_*/predictions/*.{suffix}"))
    lost.unlink()
    call("predict", jobs, "--out", out, *FULL, check=0)
    assert predictions(out) == predictions(reference)
    assert run_json(out)["jobs"] == {"one": "skipped", "two": "done"}


# Other settings


def test_a_complete_job_made_with_other_settings_fails_and_is_kept_and_the_difference_named(
    jobs, out, no_model
):
    before = predictions(out)
    done = call("predict", jobs, "--out", out, *TINY, "--bias", "dense", "--steps", "3", check=1)
    assert predictions(out) == before
    line, _ = errors_in(done.stderr)
    assert "job 'one'" in line
    assert "bias flashbias instead of dense" in line
    assert "steps 2 instead of 3" in line
    assert "another name" in line and "--out" in line and "--overwrite" in line


def test_a_complete_job_of_another_input_fails_and_is_kept_and_not_shown(jobs, out, tmp_path, no_model):
    before = predictions(out)
    other = write(tmp_path / "other.json", protein("one", "MKTAYC"), TWO)
    done = call("predict", other, "--out", out, *TINY, check=1)
    (line,) = errors_in(done.stderr)
    assert "job 'one'" in line and "another input (8 tokens, 6 in this input)" in line
    assert "another name" in line and "--out" in line and "--overwrite" in line
    assert predictions(out) == before
    assert not any(row.startswith("one ") for row in done.stdout.splitlines())
    assert [row["name"] for row in summary(out)] == ["two"]
    assert run_json(out)["jobs"] == {"one": "failed", "two": "skipped"}
    assert "another input" in run_json(out)["failures"]["one"]["error"]
    assert "another input" in error_of(out, "one")["error"]
    assert_whole(out)

    call("predict", jobs, "--out", out, *TINY, check=0)
    assert not (out / "one" / "error.json").exists()
    assert [row["name"] for row in summary(out)] == ["one", "two"]


def test_an_incomplete_job_made_with_other_settings_fails_rather_than_mix(jobs, out):
    shutil.rmtree(out / "two")
    before = predictions(out)
    done = call("predict", jobs, "--out", out, *TINY, "--seeds", "101,7", "--steps", "3", check=1)
    assert {name: predictions(out)[name] for name in before} == before
    (error,) = errors_in(done.stderr)
    assert "job 'one'" in error
    assert "steps 2 instead of 3" in error
    assert "--overwrite" in error
    assert run_json(out)["jobs"] == {"one": "failed", "two": "done"}
    assert "steps 2 instead of 3" in error_of(out, "one")["error"]


def test_what_an_interrupted_run_with_other_settings_left_does_not_stay_among_the_new(out, tmp_path):
    """Structures of a seed that was never finished, found beside those of this run, would pass for them."""
    leftover = out / "one" / "seed_101" / "predictions" / "one_sample_1.cif"
    leftover.write_text("data_of_an_earlier_run\n")
    (out / "one" / "report.json").unlink()
    (out / "one" / "seed_101" / "report.json").unlink()
    call("predict", write(tmp_path / "one.json", ONE), "--out", out, *TINY, check=0)
    assert not leftover.exists()


def test_an_error_of_the_past_goes_when_the_job_is_found_complete(jobs, out, no_model):
    (out / "one" / "error.json").write_text('{"error": "of an earlier run"}')
    call("predict", jobs, "--out", out, *TINY, check=0)
    assert not (out / "one" / "error.json").exists()


# Failing jobs


@pytest.fixture
def protenix_fails_for(monkeypatch):
    """The mock: Protenix's own featuriser, `InferenceDataset.process_one`, raises for jobs of a name."""
    from protenix.data.inference.infer_dataloader import InferenceDataset

    genuine = InferenceDataset.process_one

    def choose(name):
        def process_one(self, single_sample_dict, *arguments, **options):
            if single_sample_dict["name"] == name:
                raise ValueError("no such\nresidue")
            return genuine(self, single_sample_dict, *arguments, **options)

        monkeypatch.setattr(InferenceDataset, "process_one", process_one)

    return choose


def test_a_job_that_fails_stops_no_other_and_says_why(protenix_fails_for, monkeypatch, tmp_path):
    jobs, out = write(tmp_path / "jobs.json", ONE, TWO, THREE), tmp_path / "out"
    protenix_fails_for("two")
    done = call("predict", jobs, "--out", out, *TINY, check=1)
    assert run_json(out)["jobs"] == {"one": "done", "two": "failed", "three": "done"}
    (error,) = errors_in(done.stderr)
    assert "job 'two'" in error
    assert "no such" in error or "residue" in error
    noted = error_of(out, "two")
    assert noted["kind"] == "job"
    assert noted["error"] in error
    assert not (out / "two" / "report.json").exists()
    assert not (out / "one" / "error.json").exists()
    assert "2 done, 1 failed" in done.stdout
    assert_whole(out)

    monkeypatch.undo()
    call("predict", jobs, "--out", out, *TINY, check=0)
    assert not (out / "two" / "error.json").exists()
    assert run_json(out)["jobs"] == {"one": "skipped", "two": "done", "three": "skipped"}


def test_a_job_that_fails_when_it_is_overwritten_keeps_its_result(jobs, out, protenix_fails_for):
    before, report, rows = predictions(out), report_of(out, "one"), summary(out)
    protenix_fails_for("one")
    done = call("predict", jobs, "--out", out, *TINY, "--overwrite", check=1)
    (error,) = errors_in(done.stderr)
    assert error.endswith("; the earlier result is untouched")
    assert predictions(out) == before
    assert report_of(out, "one") == report
    assert not (out / "one" / "error.json").exists()
    assert [row for row in summary(out) if row["name"] == "one"] == [rows[0]]
    assert run_json(out)["jobs"] == {"one": "failed", "two": "done"}
    assert run_json(out)["failures"]["one"]["error"] in error


def test_a_wrong_job_of_a_list_stops_no_other(tmp_path):
    jobs, out = write(tmp_path / "jobs.json", ONE, protein("wrong", "MK1"), TWO), tmp_path / "out"
    done = call("predict", jobs, "--out", out, *TINY, check=1)
    (error,) = errors_in(done.stderr)
    assert "job 'wrong': sequences[0].proteinChain.sequence" in error
    noted = error_of(out, "wrong")
    assert (noted["kind"], noted["job"]) == ("input", "wrong")
    assert noted["field"] == "sequences[0].proteinChain.sequence"
    assert noted["trace"] is None
    content = run_json(out)
    assert content["jobs"] == {"one": "done", "two": "done"}
    assert [rejected["name"] for rejected in content["rejected"]] == ["wrong"]
    assert "2 done, 1 invalid" in done.stdout


def test_a_file_where_a_jobs_folder_should_be_stops_no_other(jobs, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "one").write_text("somebody's notes\n")
    done = call("predict", jobs, "--out", out, *TINY, check=1)
    (error,) = errors_in(done.stderr)
    assert "job 'one'" in error
    assert str(out / "one") in error
    assert "unexpected" not in error
    assert run_json(out)["jobs"] == {"one": "failed", "two": "done"}
    assert (out / "one").read_text() == "somebody's notes\n"


def test_an_alignment_that_goes_away_during_the_run_fails_its_job_alone(tmp_path, monkeypatch):
    """The mock: `predict.run.load_inputs` removes the alignment after it has read the real inputs."""
    from flashbias_fold.predict import run as module

    alignment = tmp_path / "one.a3m"
    alignment.write_text(f">query\n{SEQUENCE[:8]}\n")
    jobs = write(tmp_path / "jobs.json", protein("one", SEQUENCE[:8], unpairedMsaPath=str(alignment)), TWO)
    genuine = module.load_inputs

    def load_inputs(*arguments):
        inputs = genuine(*arguments)
        alignment.unlink()
        return inputs

    monkeypatch.setattr(module, "load_inputs", load_inputs)
    done = call("predict", jobs, "--out", tmp_path / "out", *TINY, check=1)
    (error,) = errors_in(done.stderr)
    assert "job 'one'" in error
    assert str(alignment) in error
    assert run_json(tmp_path / "out")["jobs"] == {"one": "failed", "two": "done"}


# The user's own files


def test_files_of_the_user_in_the_output_folder_are_left_alone(jobs, out):
    files = [out / "download.partial", out / "notes" / "deep" / "draft.partial", out / "one" / "mine.txt"]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine\n")
    (out / "folder.partial").mkdir()
    call("predict", jobs, "--out", out, *TINY, check=0)
    assert [path.read_text() for path in files] == ["mine\n"] * 3
    assert (out / "folder.partial").is_dir()


def test_somebody_elses_reports_in_the_output_folder_are_no_jobs(jobs, out):
    for number, text in enumerate(('{"samples": [{}]}', '{"samples": []}', "[]", "{", '{"samples": 3}')):
        (out / f"other{number}").mkdir()
        (out / f"other{number}" / "report.json").write_text(text)
    call("predict", jobs, "--out", out, *TINY, check=0)
    with (out / "summary.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["one", "two"]


@pytest.mark.parametrize("text", ['{"samples": [{}]}', '{"samples": []}', "[]", "{", "null"])
@pytest.mark.parametrize("place", ["one", "one/seed_101"])
def test_a_damaged_report_is_made_again(jobs, out, place, text):
    (out / "one" / "report.json").write_text(text)
    (out / place / "report.json").write_text(text)
    call("predict", jobs, "--out", out, *TINY, check=0)
    assert run_json(out)["jobs"] == {"one": "done", "two": "skipped"}
    assert [sample["seed"] for sample in report_of(out, "one")["samples"]] == [101]


# Interrupted


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Jobs that write files of every kind, and the folder of an undisturbed run of them."""
    folder = tmp_path_factory.mktemp("full")
    jobs = write(folder / "jobs.json", ONE | {"modelSeeds": [1, 2]}, TWO)
    call("predict", jobs, "--out", folder / "reference", *FULL, check=0)
    return jobs, folder / "reference"


def wait_for(process, happened):
    """Wait until something has happened, or the process is over."""
    while process.poll() is None and not happened():
        time.sleep(0.002)


def imports_torch(process):
    """Whether the process is past its start and loads torch."""

    def happened():
        maps = Path(f"/proc/{process.pid}/maps")
        return maps.exists() and "libtorch" in maps.read_text()

    return happened


def says(process, text):
    """Read what the process says until it says this."""
    for line in process.stderr:
        if text in line:
            return


@pytest.mark.parametrize("number", at_length([signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]))
def test_an_interrupted_run_ends_with_130_and_one_line_and_is_continued(full, tmp_path, number):
    jobs, reference = full
    out = tmp_path / "out"
    process = start("predict", jobs, "--out", out, *FULL)
    says(process, "[1/2] one: done")
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == "interrupted; the same command continues where it stopped"
    assert_whole(out)
    content = run_json(out)
    assert (content["status"], content["jobs"]["one"], content["jobs"]["two"]) == (
        "interrupted", "done", "pending"
    )  # fmt: skip
    assert not (out / "two" / "report.json").exists()

    kept = states(out / "one")
    call("predict", jobs, "--out", out, *FULL, check=0)
    assert states(out / "one") == kept
    assert predictions(out) == predictions(reference)
    assert run_json(out)["status"] == "done"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_interrupted_while_it_starts_ends_with_130_and_one_line(jobs, tmp_path, number):
    process = start("predict", jobs, "--out", tmp_path / "out", *TINY)
    wait_for(process, imports_torch(process))
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (stdout, stderr.splitlines()[-1:]) == (
        "", ["interrupted; the same command continues where it stopped"]
    )  # fmt: skip
    assert "Traceback" not in stderr


def appears(out, pattern):
    """Whether there is a file in the output folder that is not there now."""
    before = {str(path) for path in Path(out).glob(pattern)}

    def happened():
        return any(str(path) not in before for path in Path(out).glob(pattern))

    return happened


def passes(seconds):
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


# When to kill: after so many seconds (from a seeded generator, over the whole of a run), or when a file
# appears. The kills of a row hit one folder, one after the other; then the run is completed.
_GENERATOR = random.Random(5)
_DELAYS = iter([round(_GENERATOR.uniform(0.5, 4.5), 2) for _ in range(9)])
KILLS = [
    [".flashbias-fold.lock", "one/seed_1/predictions/*", next(_DELAYS), "run.json*", next(_DELAYS)],
    [next(_DELAYS), "one/seed_1/predictions/*_sample_1.cif*", "one/seed_1/report.json*", "one/report.json*",
     next(_DELAYS)],
    [next(_DELAYS), "one/seed_2/predictions/*.npz*", next(_DELAYS), "two/seed_101/predictions",
     "two/seed_101/predictions/*.pdb"],
    [next(_DELAYS), "one/seed_2/report.json", "summary.csv*", next(_DELAYS), "two/report.json*"],
]  # fmt: skip


@pytest.mark.parametrize("kills", at_length(KILLS[:1], KILLS), ids=lambda kills: ", ".join(map(str, kills)))
def test_a_killed_run_leaves_nothing_torn_and_is_continued_to_the_same_result(full, tmp_path, kills):
    jobs, reference = full
    out = tmp_path / "out"
    unread = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": {"TMPDIR": str(tmp_path)}}
    for moment in kills:
        process = start("predict", jobs, "--out", out, *FULL, **unread)
        wait_for(process, appears(out, moment) if isinstance(moment, str) else passes(moment))
        process.kill()
        assert process.wait() in (-signal.SIGKILL, 0)
        assert_whole(out)
    call("predict", jobs, "--out", out, *FULL, check=0)
    assert predictions(out) == predictions(reference)
    assert not list(out.rglob("*.partial"))
    assert {path.name for path in out.iterdir()} == {path.name for path in reference.iterdir()}


class PowerCut(BaseException):
    """Nothing that is meant to be caught."""


@pytest.fixture
def power_goes_at_write(monkeypatch):
    """The mock: `open` for writing below a folder. The N-th write and all after it end half-way."""
    genuine = io.open

    class Cut(io.BytesIO):
        """What is written here never gets further than its first half."""

        def __init__(self, path):
            super().__init__()
            self.path = path

        def write(self, content):
            with genuine(self.path, "wb") as file:
                file.write(content[: len(content) // 2])
            raise PowerCut

    def prepare(folder, number):
        left = [number]

        def opened(path, mode="r", *arguments, **options):
            if "w" not in mode or not str(path).startswith(str(folder)):
                return genuine(path, mode, *arguments, **options)
            left[0] -= 1
            return Cut(path) if left[0] <= 0 else genuine(path, mode, *arguments, **options)

        monkeypatch.setattr("io.open", opened)
        monkeypatch.setattr("builtins.open", opened)

    return prepare


def test_a_run_cut_in_the_middle_of_any_write_leaves_nothing_torn(
    jobs, complete, tmp_path, power_goes_at_write
):
    out = tmp_path / "out"
    for number in range(1, 40):
        power_goes_at_write(out, 1 + number % 7)
        try:
            call("predict", jobs, "--out", out, *TINY, check=0)
        except PowerCut:
            assert_whole(out)
        else:
            break
    else:
        raise AssertionError("the run never came to its end")
    assert number > 4, "it was cut several times"
    assert predictions(out) == predictions(complete)


def test_the_lock_of_a_killed_run_does_not_block(jobs, tmp_path):
    out = tmp_path / "out"
    process = start("predict", jobs, "--out", out, *TINY)
    says(process, "model demo on")
    process.kill()
    process.communicate()
    assert f"process {process.pid} " in (out / ".flashbias-fold.lock").read_text()
    call("predict", jobs, "--out", out, *TINY, check=0)


def test_a_second_run_into_the_same_folder_stops_at_once_and_names_the_first(full, tmp_path):
    jobs, reference = full
    out = tmp_path / "out"
    process = start("predict", jobs, "--out", out, *FULL)
    says(process, "model demo on")
    second = call("predict", jobs, "--out", out, *FULL, check=2)
    (error,) = errors_in(second.stderr)
    assert f"in use by process {process.pid} on " in error
    assert str(out) in error
    assert second.stdout == ""
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert predictions(out) == predictions(reference)


# No room


def test_a_full_disk_is_one_line_and_the_run_is_continued(jobs, complete, tmp_path):
    """The mock: a limit on the size of a file stands for a disk without room."""
    out = tmp_path / "out"

    def without_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    done = run("predict", jobs, "--out", out, *TINY, check=1, preexec_fn=without_room)
    (error,) = errors_in(done.stderr)
    assert error.startswith("error: /") and error.endswith(": File too large"), "which file it was"
    assert_whole(out)
    call("predict", jobs, "--out", out, *TINY, check=0)
    assert predictions(out) == predictions(complete)
