"""What can go wrong with a campaign: jobs that kill, interruptions, a second driver, no room, no Ray."""

import json
import os
import signal

import pytest
from campaigns import (
    RAY,
    attempts,
    campaign,
    complete,
    is_running,
    needs_ray,
    peptides,
    running_campaign,
    until,
)
from command_line import TINY, assert_whole, error_of, errors_in, predictions, run, run_json
from command_line import write_jobs as write
from conftest import protein
from lengths import at_length, only_in_full

pytestmark = needs_ray


def test_a_job_that_kills_its_workers_is_set_aside_and_the_others_are_done(tmp_path):
    # The longest is begun first. What kills its workers is this test.
    jobs = write(tmp_path / "jobs.json", *peptides(6), protein("poison", "MTPAVTTYKL" * 6))
    out = tmp_path / "out"
    with running_campaign(jobs, out) as driver:
        for number in range(1, 4):
            until(lambda: len(attempts(out, "poison")) == number, driver)  # noqa: B023 (called at once)
            os.kill(attempts(out, "poison")[-1], signal.SIGKILL)
        said, err = driver.communicate(timeout=120)
    assert driver.returncode == 1, said + err
    assert len(complete(out)) == 6
    told = error_of(out, "poison")
    assert told["kind"] == "poison"
    assert told["error"].startswith("its worker died 3 times, the last time because its process was killed")
    assert errors_in(err) == [f"error: job 'poison': {told['error']}"]
    assert run_json(out)["campaign"]["deaths"] == 3
    assert run_json(out)["campaign"]["failures"] == {
        "poison": {"kind": "poison", "error": told["error"]},
    }


@pytest.mark.parametrize("number", at_length([signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]))
def test_an_interrupted_campaign_ends_and_leaves_nothing_torn(tmp_path, number):
    jobs, out = write(tmp_path / "jobs.json", *peptides(60)), tmp_path / "out"
    with running_campaign(jobs, out) as driver:
        until(lambda: len(complete(out)) >= 5, driver)
        driver.send_signal(number)
        _, err = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert err.splitlines()[-1] == "interrupted; the same command continues where it stopped"
    workers = {worker["pid"] for worker in run_json(out)["campaign"]["workers"]}
    assert run_json(out)["status"] == "interrupted"
    assert "running" not in run_json(out)["jobs"].values()
    assert workers and not any(is_running(pid) for pid in workers)
    assert_whole(out)
    assert 5 <= len(complete(out)) < 60


@only_in_full
def test_a_second_driver_is_refused_and_workers_end_without_their_own(tmp_path):
    jobs, out = write(tmp_path / "jobs.json", *peptides(150)), tmp_path / "out"
    with running_campaign(jobs, out) as first:
        until(lambda: complete(out), first)
        for command in ([*RAY], []):
            second = run("predict", jobs, "--out", out, *TINY, *command, check=2)
            assert errors_in(second.stderr) == [
                f"error: --out: {out} is in use by process {first.pid} on {os.uname().nodename}; "
                "wait for it or choose another"
            ]
        assert first.poll() is None
        workers = {worker["pid"] for worker in run_json(out)["campaign"]["workers"]}
        first.kill()
    assert len(workers) == 2
    until(lambda: not any(is_running(pid) for pid in workers))
    assert_whole(out)


@only_in_full
def test_a_driver_whose_folder_another_has_taken_stops_and_its_workers_write_no_more(tmp_path):
    jobs, out = write(tmp_path / "jobs.json", *peptides(150)), tmp_path / "out"
    with running_campaign(jobs, out) as driver:
        until(lambda: complete(out), driver)
        other = {"host": "elsewhere", "pid": 7, "token": "other"}
        (out / ".driver").write_text(json.dumps(other))
        (out / ".driver").replace(out / ".flashbias-fold.driver")
        seen = complete(out)
        _, err = driver.communicate(timeout=60)
        assert driver.returncode == 2
        assert "taken over by process 7 on elsewhere; this run writes no more" in errors_in(err)[-1]
    assert len(complete(out) - seen) <= 2  # which had looked just before
    assert json.loads((out / ".flashbias-fold.driver").read_text()) == other


@only_in_full
def test_what_needs_more_memory_than_any_worker_has_fails_with_that_reason(tmp_path):
    jobs = write(tmp_path / "jobs.json", *peptides(2), protein("huge", "MTPAVTTYKL" * 3000))
    out = tmp_path / "out"
    done = campaign(jobs, out, check=1)
    assert complete(out) == {"job000", "job001"}
    told = error_of(out, "huge")
    assert told["kind"] == "input"
    assert "30000 tokens need about" in told["error"] and "the largest worker has" in told["error"]
    assert errors_in(done.stderr) == [f"error: job 'huge': {told['error']}"]
    assert run_json(out)["jobs"]["huge"] == "failed"


def test_a_complete_folder_needs_no_cluster(tmp_path):
    jobs, out = write(tmp_path / "jobs.json", *peptides(2)), tmp_path / "out"
    run("predict", jobs, "--out", out, *TINY, check=0)
    before = predictions(out)
    done = campaign(jobs, out, "--address", "127.0.0.1:1", check=0)  # nothing would answer there
    assert "2 of 2 jobs already complete, skipped" in done.stderr
    assert predictions(out) == before
    assert run_json(out)["campaign"]["workers"] == []


def test_an_address_where_nobody_answers_is_a_wrong_argument(tmp_path):
    jobs = write(tmp_path / "jobs.json", *peptides(1))
    for address, said in (
        ("127.0.0.1:1", "--address: nothing answers at 127.0.0.1:1: Connection refused"),
        ("nonsense", "--address: no Ray cluster can be joined at nonsense: Invalid address format: nonsense"),
    ):
        done = campaign(jobs, tmp_path / "out", "--address", address, check=2)
        assert errors_in(done.stderr) == [f"error: {said}"]
        assert done.stdout == ""


@only_in_full
def test_a_model_that_cannot_be_loaded_stops_the_campaign(tmp_path):
    """The worker meets a damaged checkpoint; the driver, which does not load it, cannot."""
    checkpoints = tmp_path / "checkpoint"
    checkpoints.mkdir()
    (checkpoints / "protenix_tiny_default_v0.5.0.pt").write_bytes(b"not a checkpoint")
    jobs, out = write(tmp_path / "jobs.json", *peptides(2)), tmp_path / "out"
    options = ("--model", "protenix_tiny_default_v0.5.0", *TINY[2:], *RAY)
    env = {"PROTENIX_ROOT_DIR": str(tmp_path)}
    done = run("predict", jobs, "--out", out, *options, env=env, check=2)
    assert "no worker is left" in errors_in(done.stderr)[-1]
    assert run_json(out)["status"] == "failed"


# Ray hidden, as where the extra is not installed.
HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
sys.meta_path.insert(0, Hidden())
"""
# Says at the end which modules of Ray were imported.
TELL = """
import atexit, sys
atexit.register(lambda: print("ray imported:", any(name == "ray" for name in sys.modules), file=sys.stderr))
"""


def with_site(tmp_path, code):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])}


def test_without_ray_the_engine_says_what_installs_it(tmp_path):
    jobs, env = write(tmp_path / "jobs.json", *peptides(1)), with_site(tmp_path, HIDE)
    done = run("predict", jobs, "--out", tmp_path / "out", *TINY, *RAY, env=env, check=2)
    assert done.stderr.splitlines() == [
        "error: --engine ray needs Ray, which is not installed; install it with: pip install 'ray>=2.40'"
    ]
    assert not (tmp_path / "out").exists()
    run("predict", jobs, "--out", tmp_path / "out", *TINY, env=env, check=0)


@pytest.mark.parametrize("arguments", [["predict", "--help"], None])
def test_the_plain_run_imports_nothing_of_ray(tmp_path, arguments):
    jobs, env = write(tmp_path / "jobs.json", *peptides(1)), with_site(tmp_path, TELL)
    done = run(*(arguments or ["predict", jobs, "--out", tmp_path / "out", *TINY]), env=env, check=0)
    assert done.stderr.splitlines()[-1] == "ray imported: False"


@pytest.mark.parametrize("option", ["--address=auto", "--devices=2"])
def test_options_of_a_campaign_are_refused_without_it(tmp_path, option):
    jobs = write(tmp_path / "jobs.json", *peptides(1))
    done = run("predict", jobs, "--out", tmp_path / "out", option, check=2)
    name = option.partition("=")[0]
    assert errors_in(done.stderr) == [f"error: {name}: is for --engine ray, not for local"]
