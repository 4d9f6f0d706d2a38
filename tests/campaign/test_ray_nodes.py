"""Campaigns on a cluster that is there before them, of several nodes: Ray's own for tests, all here."""

import secrets
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from campaigns import complete, is_running, needs_ray, peptides, running_campaign, until
from command_line import assert_whole, run_json
from command_line import write_jobs as write
from lengths import at_length, only_in_full

pytestmark = needs_ray

JOBS = at_length(110, 240)
TOKEN = secrets.token_hex(32)  # of every cluster here: Ray reads it once in a process


@pytest.fixture
def nodes(monkeypatch):
    """A cluster whose first node, where the driver is, does no work."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    # A node is given up after two seconds, and not after half a minute.
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    from ray.cluster_utils import Cluster

    # With a short path, as there are sockets in it.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    small = {"object_store_memory": 80 * 2**20, "include_dashboard": False, "temp_dir": folder}
    # Where the test cluster notes its address, in a folder that it takes to be there.
    monkeypatch.setenv("RAY_TMPDIR", folder)
    Path(folder, "ray").mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, **small})
    cluster.add_small = lambda cores=1: cluster.add_node(num_cpus=cores, num_gpus=0, **small)
    yield cluster
    cluster.shutdown()
    shutil.rmtree(folder)


def in_state(out, *states):
    """How many workers are in one of these states, as far as the folder says."""
    return [worker["state"] in states for worker in run_json(out)["campaign"]["workers"]].count(True)


@only_in_full
def test_a_campaign_goes_on_without_a_node_and_welcomes_another(nodes, tmp_path):
    jobs, out = write(tmp_path / "jobs.json", *peptides(JOBS)), tmp_path / "out"
    doomed, other = nodes.add_small(), nodes.add_small()
    with running_campaign(jobs, out, "--address", nodes.address) as driver:
        until(lambda: len(complete(out)) >= 5, driver)
        nodes.remove_node(doomed, allow_graceful=False)
        until(lambda: in_state(out, "lost") == 1, driver)
        nodes.add_small()
        until(lambda: in_state(out, "idle", "running") == 2, driver)
        said, err = driver.communicate(timeout=120)
    assert driver.returncode == 0, said + err
    assert len(complete(out)) == JOBS
    assert_whole(out)
    ended = run_json(out)
    assert ended["campaign"]["deaths"] >= 1
    assert len(ended["campaign"]["workers"]) == 3
    assert ended["campaign"]["cluster"] == {"address": nodes.address, "nodes": 2}
    assert "was lost" in err or "is out of reach" in err
    assert other in nodes.list_all_nodes()  # the cluster stays


@only_in_full
def test_a_cluster_outlives_its_drivers_and_the_workers_do_not(nodes, tmp_path):
    jobs, out = write(tmp_path / "jobs.json", *peptides(JOBS)), tmp_path / "out"
    nodes.add_small(cores=2)
    for number in (signal.SIGKILL, signal.SIGINT):
        before = len(complete(out))
        with running_campaign(jobs, out, "--address", nodes.address) as driver:
            until(lambda: len(complete(out)) >= before + 5, driver)  # noqa: B023 (called at once)
            until(lambda: in_state(out, "idle", "running") == 2, driver)
            workers = [worker["pid"] for worker in run_json(out)["campaign"]["workers"]]
            driver.send_signal(number)
            driver.wait(timeout=30)
        until(lambda: not any(is_running(pid) for pid in workers))  # noqa: B023
        assert_whole(out)
    assert len(complete(out)) < JOBS
    assert len(nodes.list_all_nodes()) == 2 and all(
        node.any_processes_alive() for node in nodes.list_all_nodes()
    )
