"""Results that are replaced: whatever ends the run, a reader sees the old ones or the new ones, whole."""

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import (
    assert_whole,
    call,
    error_of,
    errors_in,
    predictions,
    report_of,
    run_json,
    start,
)
from command_line import write_jobs as write
from conftest import SEQUENCE, protein
from lengths import at_length

from flashbias_fold import files
from flashbias_fold.campaign import lease
from flashbias_fold.campaign.status import status_of
from flashbias_fold.campaign.worker import Assignment, Worker
from flashbias_fold.errors import JobError
from flashbias_fold.inputs import Job, load_inputs
from flashbias_fold.predict import replacement
from flashbias_fold.predict.folder import OutputFolder
from flashbias_fold.predict.job import job_report
from flashbias_fold.predict.prepare import decided
from flashbias_fold.predict.settings import Settings
from flashbias_fold.predict.state import Request
from flashbias_fold.protenix_adapter.engine import Engine
from flashbias_fold.protenix_adapter.models import find_model

ONE, TWO = (protein(name, SEQUENCE[:length]) for name, length in (("one", 5), ("two", 6)))
QUICK = ("--model", "demo", "--steps", "1", "--cycles", "1")
OLD = (*QUICK, "--samples", "2")
NEW = (*QUICK, "--samples", "1", "--overwrite")
WORK = ".flashbias-fold.new"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs")
    return write(folder / "jobs.json", ONE | {"modelSeeds": [1, 2]}, TWO | {"modelSeeds": [1]})


@pytest.fixture(scope="module")
def old(jobs):
    """A complete run, with two samples of each seed."""
    call("predict", jobs, "--out", jobs.parent / "old", *OLD, check=0)
    return jobs.parent / "old"


@pytest.fixture(scope="module")
def new(jobs):
    """The bytes of a complete run with one."""
    call("predict", jobs, "--out", jobs.parent / "new", *NEW, check=0)
    return predictions(jobs.parent / "new")


@pytest.fixture
def out(old, tmp_path):
    return shutil.copytree(old, tmp_path / "out")


def rows(out):
    with (out / "summary.csv").open(newline="") as file:
        return [(row["name"], row["seed"], row["sample"]) for row in csv.DictReader(file)]


def of_seed(files, name, seed):
    return {path: content for path, content in files.items() if path.startswith(f"{name}/seed_{seed}/")}


def assert_old_or_new(out, old, new):
    """Each seed is wholly the one or the other, and the reports list what is there."""
    assert_whole(out)
    there, before = predictions(out), predictions(old)
    for name, seed in (("one", 1), ("one", 2), ("two", 1)):
        assert of_seed(there, name, seed) in (of_seed(before, name, seed), of_seed(new, name, seed))
    for name in ("one", "two"):
        report = report_of(out, name)
        assert all((out / name / file).is_file() for file in report["files"])
        assert not (out / name / "error.json").exists()
    with (out / "summary.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            samples = report_of(out, row["name"])["samples"]
            said = next(one for one in samples if f"{row['name']}/{one['cif']}" == row["cif"])
            assert float(row["ptm"]) == said["ptm"] and (out / row["cif"]).is_file()
    states = run_json(out)["jobs"].values()
    counts = status_of(out)["counts"]
    assert counts["done"] + counts["skipped"] == sum(state in ("done", "skipped") for state in states)


# What is replaced


def test_fewer_samples_take_the_old_ones_along_everywhere(jobs, out, new):
    notes = [out / "one" / "notes.txt", out / "one" / "seed_1" / "predictions" / "my_sample_0.txt.bak"]
    for path in notes:
        path.write_text("mine\n")
    (out / "one" / "empty").mkdir()
    (out / "one" / "link").symlink_to("notes.txt")
    call("predict", jobs, "--out", out, *NEW, check=0)
    assert {name: content for name, content in predictions(out).items() if "my_" not in name} == new
    assert rows(out) == [("one", "1", "0"), ("one", "2", "0"), ("two", "1", "0")]
    assert [path.read_text() for path in notes] == ["mine\n"] * 2
    assert (out / "one" / "empty").is_dir() and (out / "one" / "link").is_symlink()
    assert not (out / WORK).exists() and not list(out.rglob(".flashbias-fold.built"))
    # After a run that came to its end, the same command replaces everything again.
    done = call("predict", jobs, "--out", out, *NEW, check=0)
    assert "already" not in done.stderr and run_json(out)["jobs"] == {"one": "done", "two": "done"}


def test_only_the_seeds_that_were_asked_for_are_replaced_and_the_report_says_which(jobs, old, out, new):
    done = call("predict", jobs, "--out", out, *NEW, "--seeds", "1", check=0)
    assert "warning: job 'one': 1 of 1 structures are not plausible" in done.stderr
    there = predictions(out)
    assert of_seed(there, "one", 1) == of_seed(new, "one", 1)
    assert of_seed(there, "one", 2) == of_seed(predictions(old), "one", 2)
    report = report_of(out, "one")
    assert report["settings"]["samples"] == 1
    assert [(entry["seed"], entry["differs"]) for entry in report["seeds"]] == [(1, {}), (2, {"samples": 2})]
    assert "seed 2 was made with samples 2 instead of 1" in report["warnings"]
    assert rows(out) == [("one", "1", "0"), ("one", "2", "0"), ("one", "2", "1"), ("two", "1", "0")]
    assert "one/seed_1/predictions/one_sample_0.cif" in done.stdout
    # Each seed is complete under its own settings, and no other.
    both = ("predict", jobs, "--out", out, *QUICK)
    assert "2 skipped" in call(*both, "--samples", "1", "--seeds", "1", check=0).stdout
    shown = call(*both, "--samples", "2", "--seeds", "2", check=1)  # job two has no seed 2 yet
    assert "one/seed_2/predictions/one_sample_0.cif" in shown.stdout
    refused = call(*both, "--samples", "1", "--seeds", "1,2", check=1)
    assert "samples 2 instead of 1" in errors_in(refused.stderr)[0]


def test_another_sequence_with_overwrite_replaces_the_old_one(out, tmp_path):
    other = write(tmp_path / "other.json", protein("two", "MKTAYCC") | {"modelSeeds": [1]})
    call("predict", other, "--out", out, *NEW, check=0)
    assert report_of(out, "two")["n_token"] == 7
    assert ("two", "1", "0") in rows(out) and ("two", "1", "1") not in rows(out)


def test_a_machine_that_nobody_asked_for_makes_no_other_result(jobs, out):
    """The mock: the results say that they were made on a GPU."""
    for path in out.rglob("report.json"):
        report = json.loads(path.read_text())
        report["settings"] |= {"device": "cuda", "dtype": "bf16"}
        path.write_text(json.dumps(report))
    assert "2 skipped" in call("predict", jobs, "--out", out, *OLD, check=0).stdout
    refused = call("predict", jobs, "--out", out, *OLD, "--device", "cpu", check=1)
    assert "device cuda instead of cpu" in errors_in(refused.stderr)[0]


# What ends the run


class Cut(BaseException):
    """Nothing that is meant to be caught: from here on nothing is done any more."""


@contextmanager
def cut_at(monkeypatch, number):
    """The mock: the system calls that change a folder; the N-th and all after it do nothing but raise."""
    left = [number]

    def cutting(genuine):
        def call_it(*arguments, **options):
            left[0] -= 1
            if left[0] <= 0:
                raise Cut
            return genuine(*arguments, **options)

        return call_it

    with monkeypatch.context() as patch:
        for name in ("rename", "replace", "link", "mkdir", "rmdir", "unlink", "symlink"):
            patch.setattr(os, name, cutting(getattr(os, name)))
        patch.setattr(files, "_renameat2", cutting(files._renameat2))
        patch.setattr(shutil, "rmtree", cutting(shutil.rmtree))
        yield left


def no_exchange(one, other):
    return errno.EINVAL


def no_link(*arguments, **options):
    raise PermissionError("no hard links here")


@pytest.mark.parametrize("system", ["exchange", "no exchange", "no exchange, no links"])
def test_a_replacement_cut_at_any_system_call_leaves_the_old_or_the_new(
    old, new, jobs, tmp_path, monkeypatch, system
):
    """The folders are those of real runs; what is cut is the exchange alone, at each of its calls."""
    if system != "exchange":
        monkeypatch.setattr(files, "_renameat2", no_exchange)
    if "no links" in system:
        monkeypatch.setattr(os, "link", no_link)
    finished = jobs.parent / "new" / "one"
    record = json.loads((finished / "seed_1" / "report.json").read_text())
    ended = False
    for number in range(1, 200):
        out = shutil.copytree(old, tmp_path / f"out{number}")
        (out / "one" / "mine.txt").write_text("mine\n")
        held = OutputFolder(out)
        with cut_at(monkeypatch, number) as left:
            try:
                with held as folder, replacement.Replacement(out / "one") as built:
                    shutil.copytree(
                        finished / "seed_1" / "predictions", built.folder / "seed_1" / "predictions"
                    )
                    folder.job("one").write_seed_record(1, built, record, job_report)
                    folder.put_in_place(built, "one")
            except Cut:
                pass
            ended = left[0] > 0
        if held._lock is not None:
            held._lock.close()  # as the kernel does for who is killed
        if system == "exchange":
            assert_old_or_new(out, old, new)
        assert status_of(out)["counts"]["done"] == 2
        (out / "run.json").rename(out / "kept")
        assert status_of(out)["counts"]["done"] == 2, "counted by the outputs"
        (out / "kept").rename(out / "run.json")
        with OutputFolder(out) as folder:
            folder.write_summary()
        assert_old_or_new(out, old, new)
        assert (out / "one" / "mine.txt").read_text() == "mine\n"
        assert not (out / WORK).exists() and not list(out.rglob(".flashbias-fold.built"))
        assert {row[0] for row in rows(out)} == {"one", "two"}
        if ended:
            break
        shutil.rmtree(out)
    assert ended and number > 15, "it was cut many times, and came to its end"
    assert of_seed(predictions(out), "one", 1) == of_seed(new, "one", 1)


def test_what_a_user_writes_during_the_exchange_is_kept(old, jobs, tmp_path):
    out = shutil.copytree(old, tmp_path / "out")
    record = json.loads((jobs.parent / "old" / "one" / "seed_1" / "report.json").read_text())
    with OutputFolder(out) as folder, replacement.Replacement(out / "one") as built:
        shutil.copytree(old / "one" / "seed_1" / "predictions", built.folder / "seed_1" / "predictions")
        folder.job("one").write_seed_record(1, built, record, job_report)
        (out / "one" / "late.txt").write_text("mine\n")
        folder.put_in_place(built, "one")
    assert (out / "one" / "late.txt").read_text() == "mine\n"


@pytest.mark.parametrize("number", at_length([signal.SIGKILL], [signal.SIGTERM, signal.SIGKILL]))
def test_an_interrupted_overwriting_run_goes_on_after_what_it_has_replaced(jobs, old, out, new, number):
    silent = {"stderr": subprocess.DEVNULL} if number == signal.SIGKILL else {}
    process = start("predict", jobs, "--out", out, *NEW, **silent)
    wanted = of_seed(new, "one", 1)
    deadline = time.monotonic() + 200
    while of_seed(predictions_or_none(out), "one", 1) != wanted and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode in ((-signal.SIGKILL,) if number == signal.SIGKILL else (130,))
    if error is not None:
        assert error.splitlines()[-1] == "interrupted; the same command continues where it stopped"
    assert_old_or_new(out, old, new)
    state = (out / "one" / "seed_1" / "predictions" / "one_sample_0.cif").stat().st_ino
    call("predict", jobs, "--out", out, *NEW, check=0)
    assert predictions(out) == new
    assert (out / "one" / "seed_1" / "predictions" / "one_sample_0.cif").stat().st_ino == state
    assert rows(out) == [("one", "1", "0"), ("one", "2", "0"), ("two", "1", "0")]
    assert not (out / ".flashbias-fold.overwriting").exists()


def predictions_or_none(out):
    """Their bytes; a folder may be exchanged while it is read."""
    try:
        return predictions(out)
    except FileNotFoundError:
        return {}


@contextmanager
def small_disk(folder, size):
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False)
    if done.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(path):
    """Write until there is no room."""
    number = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            os.write(number, b"x" * 4096)
    except OSError as error:
        assert error.errno == errno.ENOSPC
    finally:
        os.close(number)
    return path


def test_a_full_disk_leaves_the_old_results_and_the_run_goes_on_when_there_is_room(jobs, old, new, tmp_path):
    with small_disk(tmp_path / "disk", "1M") as disk:
        out = shutil.copytree(old, disk / "out")
        filler = fill(disk / "filler")
        os.truncate(filler, filler.stat().st_size - 4096)  # the lock takes its room first
        before = predictions(out)
        done = call("predict", jobs, "--out", out, *NEW, check=1)
        (error,) = errors_in(done.stderr)
        assert "No space left" in error
        assert predictions(out) == before and len(rows(out)) == 6
        with filler.open("r+b") as file:
            file.truncate(filler.stat().st_size - 30_000)  # for one seed, hardly more
        call("predict", jobs, "--out", out, *NEW)
        assert_old_or_new(out, old, new)
        filler.unlink()
        call("predict", jobs, "--out", out, *NEW, check=0)
        assert predictions(out) == new


def test_a_folder_that_vanishes_ends_the_run_with_one_line_and_does_not_come_back(jobs, out, tmp_path):
    process = start("predict", jobs, "--out", out, *NEW)
    for line in process.stderr:
        if "[1/2] one: 5 tokens" in line:
            break
    out.rename(tmp_path / "moved")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    (line,) = errors_in(error)
    assert str(out) in line and "removed or moved" in line
    assert not out.exists()
    assert_whole(tmp_path / "moved")
    assert len(predictions(tmp_path / "moved")) == 12


def test_a_failure_of_a_new_seed_is_noted_beside_the_report_of_the_others(jobs, out, monkeypatch):
    """The mock: Protenix's featuriser raises."""
    from protenix.data.inference.infer_dataloader import InferenceDataset

    def process_one(self, *arguments, **options):
        raise ValueError("no such residue")

    monkeypatch.setattr(InferenceDataset, "process_one", process_one)
    call("predict", jobs, "--out", out, *OLD, "--seeds", "1,7", check=1)
    assert "no such residue" in error_of(out, "one")["error"]
    assert [sample["seed"] for sample in report_of(out, "one")["samples"]] == [1, 1, 2, 2]
    call("predict", jobs, "--out", out, *OLD, check=0)
    assert not (out / "one" / "error.json").exists()


def test_a_failure_after_a_seed_was_replaced_says_which(jobs, out, new, monkeypatch):
    """The mock: the engine fails for the second seed."""
    genuine = Engine.predict

    def predict(self, document, seed, *arguments):
        if seed == 2:
            raise JobError("no such residue")
        return genuine(self, document, seed, *arguments)

    monkeypatch.setattr(Engine, "predict", predict)
    done = call("predict", jobs, "--out", out, *NEW, check=1)
    (error,) = errors_in(done.stderr)
    assert error.endswith("no such residue; of the earlier result only seed 1 has been replaced")
    assert of_seed(predictions(out), "one", 1) == of_seed(new, "one", 1)


def cut_between_two_steps(out):
    """Leave the folder of a job as a worker does that dies where folders cannot be exchanged."""
    held = out / WORK / "token" / "old"
    held.mkdir(parents=True)
    (out / "one").rename(held / "one")


def test_who_notes_the_error_of_a_dead_worker_loses_no_result(jobs, old, out):
    cut_between_two_steps(out)
    job = Job("one", jobs, {}, n_token=5, n_atom=5, n_chain=1, seeds=(1, 2), warnings=())
    request = Request(Settings(input=jobs, out=out), "plan", "weights")
    said = request.note_error(OutputFolder(out), job, JobError("its worker died"))
    assert said == "; the earlier result is untouched"
    assert "its worker died" in error_of(out, "one")["error"]
    with OutputFolder(out):
        assert predictions(out) == predictions(old)


def test_a_worker_that_does_a_job_again_loses_no_result(jobs, old, out, monkeypatch, components):
    """The mocks: the job ends where it would first write; what the worker has loaded."""
    cut_between_two_steps(out)

    def check(*arguments):
        raise JobError("it ends here")

    monkeypatch.setattr(lease, "check", check)
    model = find_model("demo")
    settings, device = decided(Settings(input=jobs, out=out, overwrite=True), model)
    worker = object.__new__(Worker)
    worker._assignment = Assignment(settings, SimpleNamespace(digest="plan"), "weights", "token", "pass")
    worker._model, worker._components, worker._free_since = model, components, 0.0
    worker._engine = SimpleNamespace(device=device)
    worker._need = SimpleNamespace(bytes_of=lambda n_token: 0)
    assert worker.do(load_inputs(jobs, components).jobs[0], 2).error == "it ends here"
    assert predictions(out) == predictions(old)
    assert (out / "one" / "log.txt").is_file() and not (out / WORK / "token").exists()


def test_a_seed_of_an_earlier_input_is_shown_with_its_own_size(jobs, out, tmp_path):
    longer = write(tmp_path / "longer.json", protein("one", SEQUENCE[:9]))
    call("predict", longer, "--out", out, *NEW, "--seeds", "1", check=0)
    shown = call("predict", write(tmp_path / "one.json", ONE), "--out", out, *OLD, "--seeds", "2", check=0)
    (row,) = (line.split() for line in shown.stdout.splitlines() if line.startswith("one "))
    assert row[:3] == ["one", "5", "2"]


def test_overwriting_where_folders_cannot_be_exchanged(jobs, out, new, monkeypatch):
    """The mock: the kernel's calls say that they are not supported."""
    monkeypatch.setattr(files, "_renameat2", no_exchange)
    monkeypatch.setattr(os, "link", no_link)
    (out / "one" / "notes.txt").write_text("mine\n")
    call("predict", jobs, "--out", out, *NEW, check=0)
    assert predictions(out) == new
    assert (out / "one" / "notes.txt").read_text() == "mine\n"
    assert not (out / WORK).exists() and not list(Path(out).rglob(".flashbias-fold.built"))


def test_files_of_a_run_that_were_cut_off_are_swept_and_no_others(tmp_path):
    names = ("run.json", "summary.csv", "campaign.html", "report.html", "mine.html")
    for name in names:
        (tmp_path / f"{name}.partial").touch()
    with OutputFolder(tmp_path):
        pass
    assert [path.name for path in tmp_path.glob("*.partial")] == ["mine.html.partial"]
