"""`flashbias-fold status`: what a folder says of its run, whatever is in it."""

from __future__ import annotations

import copy
import datetime
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from campaign_made_up import name_of, run
from command_line import call, environment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashbias_fold.campaign.lease import STALE_S, Lease
from flashbias_fold.campaign.status import described, status_of
from flashbias_fold.predict.folder import LOCK, OutputFolder

HERE = socket.gethostname()


def now(ago_s: float = 0.0) -> str:
    moment = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=ago_s)
    return moment.isoformat(timespec="seconds")


def campaign(folder: Path, *, ago_s: float = 0.0, host: str = "gpu1", pid: int = 4242, **kwargs) -> dict:
    """A running campaign's `run.json`, last written some time ago."""
    found = run(**{"pending": 2, "status": "running", **kwargs})
    found |= {"started": now(ago_s + 600), "updated": now(ago_s)}
    found["campaign"]["driver"] = {"host": host, "pid": pid}
    for worker in found["campaign"]["workers"]:
        worker["since"] = now(ago_s + 300)
    return write(folder, found)


def local(folder: Path, **changes) -> dict:
    """A local run's `run.json`: it knows nothing of workers and has no heartbeat."""
    found = run(2, skipped=0, failed=1, pending=3, status="running")
    del found["campaign"], found["engine"]
    return write(folder, found | {"started": now(7200), "updated": now(3600)} | changes)


def write(folder: Path, found: dict) -> dict:
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(found))
    return found


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# A campaign


def test_a_campaign_that_runs(tmp_path):
    campaign(tmp_path / "out")
    told = call("status", tmp_path / "out", check=0).stdout
    assert "out: running\n" in told
    assert "13 jobs: 6 done, 1 skipped, 3 failed, 2 pending, 1 invalid" in told
    assert "1,234 per hour, about 2 min left, 2.5 h so far" in told
    assert "driver: process 4242 on gpu1, alive; run.json is of" in told
    assert "3 workers, 1 lost so far:" in told
    assert f"1  gpu0  NVIDIA A100-SXM4-80GB  {name_of(1)}, for 5 min  1 done" in told
    assert "newest failures:\n  bad: input: targets/bad.json: job 'bad'" in told
    assert told.rstrip().endswith(f"{name_of(9)}: poison: its worker died 3 times, the last time by signal 9")


def test_json_says_the_same(tmp_path):
    campaign(tmp_path)
    done = call("status", tmp_path, "--json", check=0)
    found = json.loads(done.stdout)
    counts = {"done": 6, "skipped": 1, "failed": 3, "running": 0, "pending": 2, "invalid": 1}
    assert found["counts"] == counts
    assert found["state"] == "running"
    assert found["driver"] == {"host": "gpu1", "pid": 4242, "alive": True, "began_after": False}
    assert [worker["done"] for worker in found["workers"]] == [0, 1, 2, 3]
    assert [one["kind"] for one in found["failures"]] == ["input", "poison", "memory", "poison"]
    again = call("status", tmp_path, check=0).stdout.splitlines()
    assert len(again) == len(described(found).splitlines())


def test_a_driver_elsewhere_that_is_not_heard_of_is_given_up(tmp_path):
    found = campaign(tmp_path, ago_s=STALE_S + 5)
    found["jobs"][name_of(0)] = "running"
    write(tmp_path, found)
    told = call("status", tmp_path, check=0).stdout
    assert "5 done, 1 skipped, 3 failed, 1 cut off, 2 pending" in told
    assert "stopped: its driver has gone without a word" in told
    assert (
        "the same command goes on from the outputs that are complete: flashbias-fold predict targets" in told
    )
    assert "left" not in told
    assert "workers" not in told


@pytest.mark.parametrize("ago_s", [0.0, STALE_S + 5])
def test_a_driver_here_is_looked_for_itself(tmp_path, dead, ago_s):
    found = campaign(tmp_path, host=HERE, pid=os.getpid(), ago_s=ago_s)
    write(tmp_path, found | {"started": now()})
    found = status_of(tmp_path)
    assert (found["state"], found["driver"]["alive"]) == ("running", True)
    campaign(tmp_path, host=HERE, pid=dead, ago_s=ago_s)
    assert status_of(tmp_path)["state"] == "stopped"


def test_a_process_that_only_has_the_same_number_is_not_the_driver(tmp_path):
    campaign(tmp_path, host=HERE, pid=os.getpid(), ago_s=10 * 86400 * 365)
    assert status_of(tmp_path)["state"] == "stopped"


def test_the_lease_of_a_driver_that_lives_and_of_one_that_was_killed(tmp_path):
    campaign(tmp_path, host="other", ago_s=10)
    with Lease(tmp_path):
        found = status_of(tmp_path)
        assert found["driver"] | {"began_after": None} == {
            "host": HERE, "pid": os.getpid(), "alive": True, "began_after": None
        }  # fmt: skip
    script = "from pathlib import Path; import os, sys; from flashbias_fold.campaign.lease import Lease; "
    script += "Lease(Path(sys.argv[1])).__enter__(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script, tmp_path], check=False, env=environment())
    assert status_of(tmp_path)["state"] == "stopped"


def test_the_lease_of_another_container_of_the_same_name_is_judged_by_its_age(tmp_path, dead):
    lease = {"host": HERE, "pid": dead, "started": 5, "pid_namespace": "pid:[1]"}
    (tmp_path / ".flashbias-fold.driver").write_text(json.dumps(lease))
    campaign(tmp_path, ago_s=1)
    assert status_of(tmp_path)["driver"]["alive"] is True
    campaign(tmp_path, ago_s=STALE_S + 5)
    assert status_of(tmp_path)["state"] == "stopped"


@pytest.mark.parametrize("status", ["done", "failed", "interrupted"])
def test_a_campaign_that_is_over(tmp_path, status):
    campaign(tmp_path, status=status, ago_s=86400 * 3)
    told = call("status", tmp_path, check=0).stdout
    assert told.startswith(f"{tmp_path}: {status}\n")
    assert "run.json is of 3.0 days ago" in told
    assert ("the same command goes on" in told) == (status != "done")
    assert "left" not in told


# A local run


def test_a_local_run_that_runs(tmp_path):
    local(tmp_path)
    with OutputFolder(tmp_path):
        told = call("status", tmp_path, check=0).stdout
    assert "running\n" in told
    assert "7 jobs: 2 done, 1 failed, 3 pending, 1 invalid" in told
    assert "3.0 per hour, about 60 min left, 60 min so far" in told
    assert f"driver: process {os.getpid()} on {HERE}, alive" in told
    assert f"{name_of(2)}: unknown: {name_of(2)}/error.json does not say why" in told


def test_the_reason_of_a_local_failure_is_that_of_its_file(tmp_path):
    local(tmp_path)
    (tmp_path / name_of(2)).mkdir()
    error = {"error": "out of \x1b[31mmemory\n twice", "kind": "memory"}
    (tmp_path / name_of(2) / "error.json").write_text(json.dumps(error))
    assert f"{name_of(2)}: memory: out of ?[31mmemory twice\n" in call("status", tmp_path, check=0).stdout


def test_a_local_run_that_was_killed_or_ended_without_a_word(tmp_path, dead):
    local(tmp_path)
    (tmp_path / LOCK).write_text(f"process {dead} on {HERE}\n")
    assert status_of(tmp_path)["state"] == "stopped"
    (tmp_path / LOCK).write_text("")
    assert status_of(tmp_path)["state"] == "stopped"


def test_a_local_run_on_another_machine_cannot_be_seen(tmp_path):
    local(tmp_path)
    (tmp_path / LOCK).write_text("process 7 on elsewhere\n")
    told = call("status", tmp_path, check=0).stdout
    assert "running\n" in told
    assert "on another machine, so not seen from here; run.json is of 60 min ago" in told


def test_a_run_that_has_begun_again_and_not_written_yet(tmp_path):
    local(tmp_path, status="interrupted", updated=now(86400 * 365 * 30))
    with OutputFolder(tmp_path):
        assert "begun again; what follows is of the last run" in described(status_of(tmp_path))
    assert status_of(tmp_path)["state"] == "interrupted"


def test_looking_changes_nothing_and_holds_nothing(tmp_path):
    local(tmp_path)
    with OutputFolder(tmp_path):
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        call("status", tmp_path, check=0)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    if os.geteuid():
        tmp_path.chmod(0o500)
        call("status", tmp_path, check=0)
        tmp_path.chmod(0o700)


# Without run.json, or with one that is no good


def test_without_run_json_outputs_are_counted(tmp_path):
    for name, files in (("one", ["a.cif"]), ("two", ["a.cif"]), ("gone", ["missing.cif"])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.cif").write_text("x")
        (tmp_path / name / "report.json").write_text(json.dumps({"name": name, "files": files}))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "error.json").write_text(json.dumps({"error": "why", "kind": "job"}))
    done = call("status", tmp_path, check=0)
    assert "3 jobs: 2 done, 1 failed" in done.stdout
    assert "there is no run.json: counted by the outputs" in done.stdout
    assert "bad: job: why" in done.stdout
    assert json.loads(call("status", tmp_path, "--json", check=0).stdout)["source"] == "outputs"


def test_a_run_that_has_only_begun(tmp_path):
    with OutputFolder(tmp_path):
        assert "running\n  0 jobs: none" in call("status", tmp_path, check=0).stdout


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "null", '{"status": "done"}', '{"jobs": {}}', '{"status": 1, "jobs": {}}',
     '{"status": "done", "jobs": []}', "[" * 100_000, "1" * 10_000, "\udcff"],
    ids=lambda content: content[:12] or "nothing",
)  # fmt: skip
def test_a_damaged_run_json_is_one_line(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content.encode(errors="surrogateescape"))
    done = call("status", tmp_path, check=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"error: {tmp_path}/run.json is damaged, or not ours; without it, the same command"
    )
    assert done.stdout == ""


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "inputs"])
def test_what_is_no_run_is_one_line(tmp_path, kind):
    path = tmp_path / kind
    if kind == "file":
        path.write_text("x")
    elif kind != "missing":
        path.mkdir()
        (path / "readme.txt").write_text("x")
    for options in ([], ["--json"], ["--quiet"]):
        done = call("status", path, *options, check=2)
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: {path}: expected the folder of a run, found ")
        assert done.stdout == ""


def test_a_run_json_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "run.json").mkdir()
    (line,) = call("status", tmp_path, check=2).stderr.splitlines()
    assert line == f"error: {tmp_path}/run.json: Is a directory"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value):
    """All (container, key) pairs of a JSON value."""
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, member in members:
        yield value, key
        yield from places(member)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_run_json_holds_there_is_an_answer(tmp_path, data):
    found = copy.deepcopy(run(pending=1, status=data.draw(st.sampled_from(["running", "done"]))))
    for _ in range(data.draw(st.integers(1, 4))):
        container, key = data.draw(st.sampled_from(list(places(found))))
        container[key] = data.draw(ANYTHING)
    write(tmp_path, found)
    done = call("status", tmp_path)
    as_json = call("status", tmp_path, "--json")
    assert done.returncode == as_json.returncode
    assert done.returncode in (0, 2)
    assert "unexpected" not in done.stderr
    if done.returncode == 0:
        assert all(line.isprintable() for line in done.stdout.splitlines() if line)
        json.loads(as_json.stdout)
    else:
        assert "damaged" in done.stderr


# In a process of its own


def test_it_starts_at_once_and_imports_nothing_heavy(tmp_path):
    campaign(tmp_path)
    script = (
        "import sys\nfrom flashbias_fold.cli import main\nstatus = main(sys.argv[1:])\n"
        "print('modules:', *sys.modules, file=sys.stderr)\nsys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "status", str(tmp_path)],
        capture_output=True, text=True, check=True, env=environment(),
    )  # fmt: skip
    modules = done.stderr.partition("modules:")[2].split()
    assert "flashbias_fold.campaign.status" in modules
    assert not {"torch", "ray", "numpy", "protenix", "rdkit", "rich", "gemmi", "biotite"} & set(modules)


@pytest.mark.skipif(shutil.which("head") is None, reason="no head")
def test_quiet_says_nothing_and_a_reader_that_goes_is_no_error(tmp_path):
    campaign(tmp_path)
    assert call("status", tmp_path, "--quiet", check=0).stdout == ""
    line = f"{sys.executable} -m flashbias_fold status {tmp_path} | head -c 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, env=environment(),
                          check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
