"""The recipes for clusters: they start what they say, and run the same command line as everywhere.

The mocks: SLURM's `srun` and `scontrol`, Ray's `ray`, and `flashbias-fold` itself are small programs that
write down how they were called. Between them the scripts are the real ones.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from flashbias_fold.cli.parser import parse

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "docs" / "cluster"
SLURM = CLUSTER / "slurm.sh"
PAGE = (ROOT / "docs" / "campaigns.md").read_text()
CAMPAIGN = ["flashbias-fold", "predict", "my targets/", "--out", "preds/", "--engine", "ray"]

PROGRAMS = {
    "scontrol": 'printf "%s\\n" $FAKE_NODES',
    "hostname": "echo 10.0.0.1 192.168.0.1",
    "sleep": "exec /bin/sleep 0.05",
    # What it starts is told on how many nodes; it passes signals on, as the real one does.
    "srun": """
echo "srun $*" >> "$LOG"
while [[ $1 == --* ]]; do case $1 in --nodes=*) export FAKE_COUNT=${1#*=};; esac; shift; done
[[ $1 == rm ]] && exit 0
exec "$@"
""",
    "ray": """
case $1 in
start)
    echo "ray $* token=$RAY_AUTH_MODE:${#RAY_AUTH_TOKEN} usage=$RAY_USAGE_STATS_ENABLED" >> "$LOG"
    [[ -n ${FAKE_BROKEN-} ]] && { echo "no port" >&2; exit 1; }
    [[ " $* " == *" --head "* || -z ${FAKE_LATE-} ]] &&
        for (( n = 0; n < FAKE_COUNT; n++ )); do echo " 1 node_$RANDOM" >> "$LOG.nodes"; done
    trap 'echo "ray stops" >> "$LOG"; kill $!; exit 0' TERM
    if [[ " $* " == *" --block "* ]]; then /bin/sleep 60 & wait; fi;;
status) echo "Active:"; cat "$LOG.nodes"; echo "Pending:";;
*) echo "ray $*" >> "$LOG";;
esac
""",
    "flashbias-fold": """
printf -v words "%q " "$@"
echo "campaign $words" >> "$LOG"
trap 'echo "campaign told" >> "$LOG"; kill $!; /bin/sleep 0.3; exit 130' TERM
[[ -n ${FAKE_LONG-} ]] && { /bin/sleep 60 & wait; }
exit "${FAKE_STATUS:-0}"
""",
}


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in PROGRAMS.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


def environment(bin_folder: Path, nodes: int, **more: str) -> dict[str, str]:
    names = " ".join(f"node{number}" for number in range(nodes))
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "SLURM_"))}
    return {
        **kept,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "LOG": str(bin_folder.parent / "log"),
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "node[0-9]",
        "SLURM_CPUS_PER_TASK": "32",
        "FAKE_NODES": names,
        **more,
    }


def run(bin_folder: Path, nodes: int = 3, *, command: list[str] = CAMPAIGN, **more: str):
    """The batch script to its end; what it did, in order."""
    done = subprocess.run(
        ["bash", SLURM, *command], env=environment(bin_folder, nodes, **more), check=False,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done, log_of(bin_folder)


def log_of(bin_folder: Path) -> list[str]:
    log = bin_folder.parent / "log"
    return log.read_text().splitlines() if log.exists() else []


def test_the_batch_script_is_one_that_bash_reads():
    subprocess.run(["bash", "-n", SLURM], check=True)
    lines = SLURM.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(number < first for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert os.access(SLURM, os.X_OK)


@pytest.mark.parametrize("status", [0, 1, 2])
def test_it_starts_a_head_and_workers_and_runs_the_command_line(bin_folder, status):
    done, log = run(bin_folder, FAKE_STATUS=str(status))
    assert (done.returncode, done.stderr) == (status, "")
    head, workers = (line for line in log if line.startswith("ray start"))
    assert "--head" in head and "--node-ip-address=10.0.0.1 --port=23456" in head
    assert "--head" not in workers and "--address=10.0.0.1:23456" in workers
    for line in (head, workers):
        assert "--block" in line and "--num-cpus=32" in line
        assert line.endswith("token=token:64 usage=0")
    steps = [line for line in log if line.startswith("srun")]
    assert "--nodes=1 --ntasks=1 --nodelist=node0 ray start --head" in steps[0]
    assert "--nodes=2 --ntasks=2 --exclude=node0 ray start" in steps[1]
    campaign = next(line for line in log if line.startswith("campaign"))
    assert shlex.split(campaign)[1:] == [*CAMPAIGN[1:], "--address", "10.0.0.1:23456"]
    assert log.index(head) < log.index(workers) < log.index(campaign)


def test_it_leaves_nothing_behind(bin_folder):
    _, log = run(bin_folder)
    assert log.count("ray stops") == 2
    assert log[-1] == "srun --overlap --nodes=3 --ntasks=3 rm -rf /tmp/ray-123456"


def test_one_node_needs_no_workers_and_its_address_can_be_chosen(bin_folder):
    _, log = run(bin_folder, 1, HEAD_IP="172.16.0.9")
    assert sum(line.startswith("ray start") for line in log) == 1
    assert any(line.endswith("--address 172.16.0.9:23456 ") for line in log if line.startswith("campaign"))


def test_what_keeps_ray_from_starting_is_the_end(bin_folder):
    done, log = run(bin_folder, FAKE_BROKEN="yes")
    assert done.returncode == 1
    assert "no port\n" in done.stderr
    assert "slurm.sh: Ray did not start on node0, see above" in done.stderr
    assert not any(line.startswith("campaign") for line in log)


def test_nodes_that_do_not_come_are_not_waited_for_for_ever(bin_folder):
    done, log = run(bin_folder, FAKE_LATE="yes", RAY_WAIT_S="1")
    assert done.returncode == 0
    assert "slurm.sh: 1 of 3 nodes came within 1 s" in done.stderr
    assert any(line.startswith("campaign") for line in log)


def test_when_the_time_is_up_the_campaign_ends_in_order(bin_folder):
    process = subprocess.Popen(
        ["bash", SLURM, *CAMPAIGN], env=environment(bin_folder, 2, FAKE_LONG="yes"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not any(line.startswith("campaign") for line in log_of(bin_folder)):
        assert time.monotonic() < deadline, log_of(bin_folder)
        time.sleep(0.05)
    time.sleep(0.2)  # until it would hear a signal
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 130
    process.communicate()
    log = log_of(bin_folder)
    assert log.index("campaign told") < log.index("ray stops"), "the campaign first, then what it runs on"


def test_ray_may_be_in_an_image(bin_folder):
    script = SLURM.read_text()
    (line,) = re.findall(r"^# +(ray=\(apptainer .*\))$", script, re.MULTILINE)
    (bin_folder / "apptainer").write_text('#!/bin/bash\necho "apptainer $*" >> "$LOG"\nexec "${@:4}"\n')
    (bin_folder / "apptainer").chmod(0o755)
    changed = bin_folder.parent / "changed.sh"
    changed.write_text(script.replace("\nray=(ray)\n", f"\n{line}\n"))
    done = subprocess.run(
        ["bash", changed, *CAMPAIGN],
        env=environment(bin_folder, 2),
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    calls = [line for line in log_of(bin_folder) if line.startswith("apptainer")]
    assert {call.split()[5] for call in calls} == {"start", "status"}


def test_without_a_command_line_it_says_what_it_wants(bin_folder):
    done, log = run(bin_folder, command=[])
    assert (done.returncode, log) == (2, [])
    assert done.stderr.startswith("usage: sbatch ")


def test_the_command_line_of_the_batch_script_is_ours():
    (line,) = re.findall(r"^#     sbatch docs/cluster/slurm.sh (.*)$", SLURM.read_text(), re.MULTILINE)
    options = parse([*shlex.split(line)[1:], "--address", "10.0.0.1:23456"])
    assert (options.command, options.engine) == ("predict", "ray")


# Machines without a scheduler


def start(bin_folder: Path, *arguments: str, **more: str):
    done = subprocess.run(
        ["bash", CLUSTER / "ray.sh", *arguments], env=environment(bin_folder, 1, FAKE_COUNT="1", **more),
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done, log_of(bin_folder)


def test_a_head_has_a_token_before_it_starts(bin_folder):
    done, log = start(bin_folder, "head", PORT="6380")
    assert done.returncode == 0
    assert log[0] == "ray get-auth-token --generate"
    assert re.fullmatch(r"ray start --head --port=6380 .*token=token:0 usage=0", log[1])
    assert "export RAY_AUTH_MODE=token" in done.stdout


def test_a_worker_joins_it(bin_folder):
    done, (line,) = start(bin_folder, "worker", "gpu1:6380")
    assert done.returncode == 0
    assert re.fullmatch(r"ray start --address=gpu1:6380 .*token=token:0 usage=0", line)


@pytest.mark.parametrize("arguments", [[], ["worker"], ["head", "gpu1:6380"], ["other"]], ids=str)
def test_anything_else_is_told_how_it_goes(bin_folder, arguments):
    done, log = start(bin_folder, *arguments)
    assert (done.returncode, log) == (2, [])
    assert done.stderr.startswith("usage: ")


# Kubernetes


@pytest.fixture(scope="module")
def manifest():
    return yaml.safe_load((CLUSTER / "kuberay.yaml").read_text())


def groups(manifest):
    cluster = manifest["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_the_manifest_has_what_the_operator_asks_for(manifest):
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", manifest["metadata"]["name"])
    for group in groups(manifest):
        parameters = group["rayStartParams"]
        assert all(isinstance(value, str) for value in parameters.values()), "the operator reads texts"
        assert len(group["template"]["spec"]["containers"]) == 1
    for group in manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", group["groupName"])
    # A cluster is given back only where it was said so, with a time only beside it.
    assert manifest["spec"]["shutdownAfterJobFinishes"] is True
    assert isinstance(manifest["spec"]["ttlSecondsAfterFinished"], int)


def test_all_containers_are_alike_and_the_workers_have_a_gpu(manifest):
    head, *workers = (group["template"]["spec"]["containers"][0] for group in groups(manifest))
    for worker in workers:
        assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert [worker[key] for key in ("image", "env", "volumeMounts")] == [
            head[key] for key in ("image", "env", "volumeMounts")
        ]
    assert "nvidia.com/gpu" not in head["resources"].get("limits", {})
    assert groups(manifest)[0]["rayStartParams"]["num-cpus"] == "0", "so that no job runs there"


def test_everything_is_on_the_shared_volume(manifest):
    for group in groups(manifest):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) == set(volumes)
        shared = next(path for path, name in mounts.items() if "persistentVolumeClaim" in volumes[name])
        variables = {pair["name"]: pair["value"] for pair in container["env"]}
        assert variables["PROTENIX_ROOT_DIR"].startswith(f"{shared}/")
        assert variables["RAY_USAGE_STATS_ENABLED"] == "0"
        options = parse(shlex.split(manifest["spec"]["entrypoint"])[1:])
        assert all(str(path).startswith(f"{shared}/") for path in (options.input, options.out))


def test_the_command_line_of_the_manifest_is_ours(manifest):
    program, *arguments = shlex.split(manifest["spec"]["entrypoint"])
    options = parse(arguments)
    assert (program, options.command, options.engine, options.address) == (
        "flashbias-fold", "predict", "ray", "auto"
    )  # fmt: skip


def test_the_version_of_ray_is_that_of_the_image(manifest):
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    (installed,) = re.findall(r"'ray\[default\]==([\d.]+)'", dockerfile)
    assert manifest["spec"]["rayClusterSpec"]["rayVersion"] == installed
    assert re.findall(r"^(FROM|USER) (.*)$", dockerfile, re.MULTILINE) == [
        ("FROM", "flashbias-fold"), ("USER", "root"), ("USER", "flashbias")
    ]  # fmt: skip


# The page


def test_the_page_names_every_recipe():
    for file in CLUSTER.iterdir():
        assert f"cluster/{file.name}" in PAGE


def test_every_recipe_is_the_same_command_line():
    lines = re.findall(r"flashbias-fold predict .*--engine ray(?!.*\[options\]).*", PAGE)
    assert len(lines) >= 4
    for line in lines:
        options = parse(shlex.split(line, comments=True)[1:])
        assert options.engine == "ray"


def test_there_is_a_place_for_the_measured_throughput():
    assert PAGE.count("<!-- throughput campaign-cpu -->") == 1
    assert PAGE.index("<!-- throughput campaign-cpu -->") < PAGE.index("<!-- end -->")
