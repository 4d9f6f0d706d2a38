"""A disk without room, a real one: what could not be written is named, and `status` tells it afterwards."""

import json
import os
import re
import subprocess

import pytest
from command_line import TINY, assert_whole, call, errors_in, run, run_json, write_jobs
from conftest import SEQUENCE, protein

SIZE = 512 * 1024
LOCK_ROOM = 4096  # a page, which the lock takes before anything is computed


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own; only some users may have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


def leave_room(filling, room):
    """Take all of a disk but so many bytes."""
    disk = os.statvfs(filling.parent)
    filling.write_bytes(bytes(disk.f_bavail * disk.f_frsize - room))


def state_of(out):
    """How the run ended, as scripts and as people are told."""
    status = json.loads(call("status", out, "--json", check=0).stdout)
    return status["state"], status["why"], call("status", out, check=0).stdout.splitlines()


def test_a_full_disk_is_named_and_remembered(small_disk, tmp_path):
    jobs = write_jobs(tmp_path / "jobs.json", protein("one", SEQUENCE[:6]), protein("two", SEQUENCE[:6]))
    out, filling = small_disk / "out", small_disk / "filling"
    arguments = ("predict", jobs, "--out", out, *TINY)
    leave_room(filling, LOCK_ROOM)

    (error,) = errors_in(run(*arguments, check=1).stderr)
    assert re.fullmatch(rf"error: {out}/summary\.csv: No space left on device", error)
    # Not even `run.json` has room; what says it all the same has taken its room before.
    assert not (out / "run.json").exists()
    assert not list(out.rglob("*.partial")), "what takes room and is of no use"
    why = error.removeprefix("error: ")
    state, told, lines = state_of(out)
    assert (state, told) == ("failed", why)
    assert lines[0] == f"{out}: failed" and f"  ended by: {why}" in lines

    assert errors_in(call(*arguments, check=1).stderr) == [error], "still full: nothing that is known is lost"
    assert state_of(out)[:2] == ("failed", why)

    filling.unlink()
    call(*arguments, check=0)
    assert_whole(out)
    assert run_json(out)["jobs"] == {"one": "done", "two": "done"}
    state, told, lines = state_of(out)
    assert (state, told) == ("done", None) and not any("ended by" in line for line in lines)

    # A run that could write nothing: it is the last one that is asked about, not the one of `run.json`.
    leave_room(filling, LOCK_ROOM)
    (error,) = errors_in(call(*arguments, "--seeds", "5", check=1).stderr)
    assert run_json(out)["status"] == "done"
    assert state_of(out)[:2] == ("failed", error.removeprefix("error: "))
