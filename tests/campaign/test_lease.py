"""One driver for a folder: of several that want it one gets it, and who has lost it is told."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time

import pytest

from flashbias_fold.campaign import lease as module
from flashbias_fold.campaign.lease import LEASE, Lease, LeaseLostError, check, holder_of
from flashbias_fold.errors import UsageError


def elsewhere(folder, *, age_s=0.0, token="other"):
    """A driver on another machine has the folder, and gave its last sign of life so long ago."""
    path = folder / LEASE
    path.write_text(json.dumps({"token": token, "host": "elsewhere", "pid": 7}))
    then = time.time() - age_s
    os.utime(path, (then, then))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_is_there_while_it_is_held_and_leaves_nothing(tmp_path):
    with Lease(tmp_path / "out") as lease:
        lease.check()
        assert names(tmp_path / "out") == [LEASE]
        holder = holder_of(tmp_path / "out")
        assert (holder["host"], holder["pid"]) == (socket.gethostname(), os.getpid())
    assert names(tmp_path / "out") == []


def test_a_second_driver_is_told_who_has_it(tmp_path):
    with Lease(tmp_path) as first:
        with pytest.raises(UsageError) as error, Lease(tmp_path):
            pass
        assert str(error.value) == (
            f"--out: {tmp_path} is in use by process {os.getpid()} on {socket.gethostname()}; "
            "wait for it or choose another"
        )
        first.check()
        assert names(tmp_path) == [LEASE]


def test_a_process_of_this_machine_that_has_gone_holds_nothing(tmp_path):
    code = f"""
import os
from pathlib import Path
from flashbias_fold.campaign.lease import Lease
Lease(Path({str(tmp_path)!r})).__enter__()
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert holder_of(tmp_path)
    with Lease(tmp_path) as lease:
        lease.check()
        assert names(tmp_path) == [LEASE]


def test_a_process_with_the_number_of_the_one_that_had_it_is_another(tmp_path):
    with Lease(tmp_path):
        holder = holder_of(tmp_path)
    (tmp_path / LEASE).write_text(json.dumps({**holder, "token": "old", "started": holder["started"] - 1}))
    with Lease(tmp_path) as lease:
        lease.check()


@pytest.mark.parametrize("key", ["host", "boot", "pid_namespace"])
def test_a_process_of_another_machine_or_container_holds_it_until_it_is_silent(tmp_path, key):
    with Lease(tmp_path):
        holder = holder_of(tmp_path)
    gone = {**holder, "token": "old", "pid": 2**22 + 1, key: "another"}
    (tmp_path / LEASE).write_text(json.dumps(gone))
    with pytest.raises(UsageError, match="in use"), Lease(tmp_path, stale_s=60):
        pass
    elsewhere(tmp_path, age_s=61)
    with Lease(tmp_path, stale_s=60) as lease:
        lease.check()


def test_a_sign_of_life_is_given(tmp_path):
    with Lease(tmp_path, beat_s=0.05) as lease:
        before = (tmp_path / LEASE).stat().st_mtime_ns
        os.utime(tmp_path / LEASE, (0, 0))
        deadline = time.monotonic() + 20
        while (tmp_path / LEASE).stat().st_mtime_ns < before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        lease.check()


def test_who_has_lost_it_is_told_by_whom_and_takes_nothing_away(tmp_path):
    with Lease(tmp_path, beat_s=0.02) as lease:
        elsewhere(tmp_path)
        with pytest.raises(LeaseLostError, match="taken over by process 7 on elsewhere"):
            lease.check()
        os.utime(tmp_path / LEASE, (0, 0))
        time.sleep(0.2)
        assert (tmp_path / LEASE).stat().st_mtime == 0, "the other's sign of life is the other's"
    assert holder_of(tmp_path)["token"] == "other"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"token": 3}'])
def test_a_damaged_file_is_somebodys_until_it_is_old(tmp_path, content):
    (tmp_path / LEASE).write_text(content)
    with pytest.raises(UsageError, match="in use by another process"), Lease(tmp_path):
        pass
    os.utime(tmp_path / LEASE, (0, 0))
    with Lease(tmp_path) as lease:
        lease.check()


def test_a_file_that_is_gone_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PAUSE_S", 0.01)
    with Lease(tmp_path, beat_s=60) as lease:
        (tmp_path / LEASE).unlink()
        with pytest.raises(LeaseLostError, match="was given up"):
            lease.check()


def test_of_a_file_that_a_third_driver_took_meanwhile_nothing_is_taken(tmp_path):
    """The slow one of two that find the same stale file moves away what the quick one has put there."""
    elsewhere(tmp_path, age_s=10_000, token="stale")
    slow = Lease(tmp_path)
    slow._own.write_text(json.dumps({"token": slow.token}))
    seen = holder_of(tmp_path)
    with Lease(tmp_path) as quick:
        slow._move_away(seen)
        assert not slow._linked()
        quick.check()


def test_a_file_system_without_links_will_do(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with Lease(tmp_path) as first:
        first.check()
        with pytest.raises(UsageError, match="in use"), Lease(tmp_path):
            pass
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_a_wrong_argument(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--out: cannot write to"), Lease(tmp_path / "file"):
        pass


def _race(folder, start, won):
    start.wait()
    try:
        with Lease(folder, stale_s=60) as lease:
            time.sleep(0.3)
            lease.check()
            won.put(lease.token)
    except (UsageError, LeaseLostError):
        pass


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_that_come_at_once_one_gets_it(tmp_path, stale):
    context = multiprocessing.get_context("fork")
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        if stale:
            elsewhere(folder, age_s=1000)
        start, won = context.Event(), context.Queue()
        racers = [context.Process(target=_race, args=(folder, start, won)) for _ in range(6)]
        for racer in racers:
            racer.start()
        start.set()
        for racer in racers:
            racer.join()
        assert not won.empty()
        won.get()
        assert won.empty()


def test_a_worker_asks_with_its_drivers_token(tmp_path):
    with Lease(tmp_path) as lease:
        check(tmp_path, lease.token)
        with pytest.raises(LeaseLostError):
            check(tmp_path, "another")
