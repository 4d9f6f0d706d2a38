"""A campaign that replaces results: each job's are the old or the new ones, whoever is killed meanwhile."""

import csv
import shutil

import pytest
from campaigns import campaign, is_running, needs_ray, peptides, running_campaign, until
from command_line import TINY, assert_whole, errors_in, predictions, report_of, run, run_json
from command_line import write_jobs as write
from conftest import protein

pytestmark = needs_ray

JOBS = 8
NAMES = [f"job{number:03d}" for number in range(JOBS)]
OLD = ("--samples", "2")


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    return write(tmp_path_factory.mktemp("jobs") / "jobs.json", *peptides(JOBS, lengths=range(5, 8)))


@pytest.fixture(scope="module")
def old(jobs):
    """The folder of a complete local run, with two samples of each job."""
    out = jobs.parent / "old"
    run("predict", jobs, "--out", out, *TINY, *OLD, env={"OMP_NUM_THREADS": "1"}, check=0)
    return out


@pytest.fixture(scope="module")
def new(jobs):
    """The bytes of a local run with one."""
    out = jobs.parent / "new"
    run("predict", jobs, "--out", out, *TINY, env={"OMP_NUM_THREADS": "1"}, check=0)
    return predictions(out)


def rows(out):
    with (out / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def of_job(files, name):
    return {path: content for path, content in files.items() if path.startswith(f"{name}/")}


def test_a_killed_campaign_goes_on_after_what_it_has_replaced(jobs, old, new, tmp_path):
    out = shutil.copytree(old, tmp_path / "out")
    (out / "campaign.html").write_text("of an earlier campaign\n")
    before = predictions(old)
    with running_campaign(jobs, out, "--overwrite", "--devices", "1") as driver:
        replaced = until(lambda: [name for name in NAMES if not is_of(out, name, samples=2)], driver)
        workers = [worker["pid"] for worker in run_json(out)["campaign"]["workers"]]
        driver.kill()
        driver.wait()
    until(lambda: not any(is_running(pid) for pid in workers))
    assert_whole(out)
    assert not (out / "campaign.html").exists(), "it would list what is gone"
    assert rows(out) == [], "what is being replaced is not listed"
    assert any(is_of(out, name, samples=2) for name in NAMES), "it was killed in the middle"
    there = predictions(out)
    for name in NAMES:
        assert of_job(there, name) in (of_job(before, name), of_job(new, name))
    state = (out / replaced[0] / "report.json").stat().st_ino

    done = campaign(jobs, out, "--overwrite", "--devices", "1", check=0)
    assert predictions(out) == new
    assert len(rows(out)) == JOBS
    assert (out / replaced[0] / "report.json").stat().st_ino == state
    assert "already complete, skipped" in done.stderr
    assert set(run_json(out)["jobs"].values()) == {"done", "skipped"}
    assert not (out / ".flashbias-fold.new").exists()
    assert not (out / ".flashbias-fold.overwriting").exists()


def is_of(out, name, *, samples):
    """Tell whether a job's report lists so many samples."""
    return len(report_of(out, name)["samples"]) == samples


def test_another_input_under_the_same_name_is_an_error_and_needs_no_cluster(jobs, old, tmp_path):
    out = shutil.copytree(old, tmp_path / "out")
    before = predictions(out)
    others = peptides(JOBS, lengths=range(5, 8))
    others[0] = protein("job000", "MKTAYCCCC")
    changed = write(tmp_path / "jobs.json", *others)
    done = campaign(changed, out, *OLD, "--address", "127.0.0.1:1", check=1)
    (error,) = errors_in(done.stderr)
    assert "job 'job000'" in error and "another input" in error and "--overwrite" in error
    assert predictions(out) == before
    assert run_json(out)["jobs"] == {"job000": "failed"} | dict.fromkeys(NAMES[1:], "skipped")
    assert not any(line.startswith("job000 ") for line in done.stdout.splitlines())
    assert {row["name"] for row in rows(out)} == set(NAMES[1:])


def test_a_job_that_fails_keeps_its_earlier_result(jobs, old, tmp_path):
    """No worker has the memory for what the job is made to be; nothing is mocked."""
    out = shutil.copytree(old, tmp_path / "out")
    before = predictions(out)
    huge = write(tmp_path / "jobs.json", protein("job000", "MTPAVTTYKL" * 3000))
    done = campaign(huge, out, "--overwrite", "--devices", "1", check=1)
    (error,) = errors_in(done.stderr)
    assert error.endswith("; the earlier result is untouched")
    assert predictions(out) == before
    assert report_of(out, "job000")["n_token"] < 10
    assert len(rows(out)) == 2 * JOBS
