"""A campaign with two workers, of which some die, whose driver dies, and that the same command continues."""

import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest
from campaigns import (
    campaign,
    complete,
    in_the_middle,
    needs_ray,
    peptides,
    raising,
    running_campaign,
    until,
)
from command_line import TINY, assert_whole, error_of, predictions, report_of, run, run_json
from command_line import write_jobs as write
from conftest import protein
from lengths import at_length

pytestmark = needs_ray

GOOD = at_length(30, 194)
INVALID = [
    (protein("letters", "MTPA1VTTYK"), "sequence"),
    (protein("empty", ""), "sequence"),
    ({"name": "nothing", "sequences": []}, "sequences"),
    ({"name": "no-field"}, "sequences"),
    (protein("count", "MTPAVTTYK") | {"modelSeeds": ["x"]}, "modelSeeds"),
]
DEATHS = 3


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Many jobs that can be done, 5 that are invalid, and one that fails in the middle."""
    invalid = [job for job, _ in INVALID]
    return write(tmp_path_factory.mktemp("jobs") / "jobs.json", *peptides(GOOD), raising(), *invalid)


@pytest.fixture(scope="module")
def local(jobs):
    """The folder of the plain run of the same jobs, with the threads of a worker."""
    out = jobs.parent / "local"
    run("predict", jobs, "--out", out, *TINY, env={"OMP_NUM_THREADS": "1"}, check=1)
    return out


@pytest.fixture(scope="module")
def story(jobs):
    """What was done to a campaign, and what was seen of it."""
    out = jobs.parent / "campaign"
    killed, said = [], {}
    with running_campaign(jobs, out) as driver:
        for number in range(DEATHS):
            until(lambda: len(complete(out)) >= GOOD // 10 * (number + 1), driver)  # noqa: B023 (called at once)
            name, pid = until(lambda: in_the_middle(out, but=killed), driver)
            os.kill(pid, signal.SIGKILL)
            killed.append(name)
        until(lambda: len(complete(out)) >= GOOD // 2, driver)
        deaths = until(lambda: run_json(out)["campaign"]["deaths"] == DEATHS, driver)
        said["during"] = status(out)
        driver.kill()
        driver.wait()
    said["left alone"] = status(out)
    time.sleep(3)  # its workers end without it; what they write until then counts
    before = states(out)
    assert deaths and GOOD // 2 <= len(complete(out)) < GOOD
    again = campaign(jobs, out, check=1)
    said["after"] = status(out)
    return out, killed, before, again, said


def status(out):
    """What another terminal is told."""
    return json.loads(run("status", out, "--json", check=0).stdout)


def states(out):
    """Which file, by number and time, is under each name: a file that was replaced has another."""
    return {
        path: (path.stat().st_ino, path.stat().st_mtime_ns)
        for name in complete(out)
        for path in Path(out, name).glob("seed_*/*/*")
    }


def test_every_job_that_can_be_done_is_complete(story):
    out, killed, *_ = story
    names = {f"job{number:03d}" for number in range(GOOD)}
    assert complete(out) == names
    assert len(set(killed)) == DEATHS
    assert all(report_of(out, name)["samples"] for name in names)
    assert_whole(out)
    assert not list(out.rglob("*.partial"))


def test_no_job_was_done_twice(story):
    out, killed, before, *_ = story
    after = states(out)
    assert before and {path: state for path, state in after.items() if path in before} == before
    for name in complete(out):
        said = (out / name / "log.txt").read_text()
        assert said.count(": done in ") <= 1
        if name in killed:
            assert "attempt 2\n" in said or said.count("attempt 1\n") == 2


def test_the_bytes_are_those_of_the_plain_run(story, local):
    expected = predictions(local)
    assert len(expected) == 2 * GOOD
    assert predictions(story[0]) == expected


def test_the_others_are_reported_with_their_reasons(story, local):
    out, _, _, again, _ = story
    for (job, field), line in zip(INVALID, run_json(out)["rejected"], strict=True):
        assert field in line["error"]
        assert f"error: {line['error']}" in again.stderr.splitlines()
        assert job["name"] == line["name"]
        assert error_of(out, job["name"])["error"] == line["error"]
    assert error_of(out, "raises")["error"] == error_of(local, "raises")["error"]
    assert "Conformer generation failed" in error_of(out, "raises")["error"]
    assert "Conformer generation failed" in (out / "raises" / "log.txt").read_text()


def test_the_folder_says_how_it_went(story):
    out, _, before, again, _ = story
    said = run_json(out)
    states = list(said["jobs"].values())
    assert said["status"] == "done" and said["engine"] == "ray"
    assert states.count("done") + states.count("skipped") == GOOD
    assert states.count("skipped") * 2 == len(before)
    assert said["jobs"]["raises"] == "failed"
    assert said["campaign"]["failures"]["raises"]["kind"] == "job"
    assert {worker["state"] for worker in said["campaign"]["workers"]} == {"idle"}
    assert f"{states.count('skipped')} of {GOOD + 1} jobs already complete, skipped" in again.stderr
    assert "<html" in (out / "campaign.html").read_text()


def test_status_says_how_it_goes_meanwhile_and_how_it_ended(story):
    said = story[-1]
    during, left, after = said["during"], said["left alone"], said["after"]
    assert [entry["state"] for entry in (during, left, after)] == ["running", "stopped", "done"]
    assert during["driver"]["alive"] and not left["driver"]["alive"]
    # The file is some seconds old, in each of which a few of these jobs are done.
    assert during["counts"]["done"] >= GOOD // 4 and during["per_hour"] > 0 and during["remaining_s"] > 0
    assert len(during["workers"]) == 2
    assert {"pid", "host"} <= during["driver"].keys()
    for entry in (during, left, after):
        assert sum(entry["counts"].values()) == GOOD + 1 + len(INVALID)
    ended = after["counts"]
    assert ended["done"] + ended["skipped"] == GOOD
    assert (ended["failed"], ended["invalid"], ended["running"], ended["pending"]) == (1, len(INVALID), 0, 0)


def test_the_summary_begins_with_the_best(story):
    with (story[0] / "summary.csv").open(newline="") as file:
        scores = [float(row["ranking_score"]) for row in csv.DictReader(file)]
    assert len(scores) == GOOD
    assert scores == sorted(scores, reverse=True)
