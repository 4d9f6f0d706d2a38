"""Campaigns by the real command line: jobs of all kinds, and what is done to them while they run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
from command_line import TINY, run, start
from conftest import protein

# Without importing it: it reads its environment then.
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra [cluster]")
RAY = ("--engine", "ray", "--devices", "2")
LETTERS = "ACDEFGHIKLMNPQRSTVWY"
# Every input check passes it; the conformer generator, in the middle of a job, does not.
IMPOSSIBLE = {"ligand": {"ligand": "C1#CC1", "count": 1}}
TIMEOUT_S = 240


def peptides(count, *, lengths=range(8, 21), prefix="job"):
    """Small jobs, always the same."""
    generator = random.Random(8)
    return [
        protein(
            f"{prefix}{number:03d}", "".join(generator.choices(LETTERS, k=generator.choice(list(lengths))))
        )
        for number in range(count)
    ]


def raising(name="raises"):
    """A job that is accepted and fails in the worker."""
    job = protein(name, "MTPAVTTYK")
    job["sequences"].append(IMPOSSIBLE)
    return job


def campaign(jobs, out, *options, **kwargs):
    """A campaign to its end."""
    return run("predict", jobs, "--out", out, *TINY, *RAY, *options, **kwargs)


@contextlib.contextmanager
def running_campaign(jobs, out, *options, **kwargs):
    """A campaign that is killed at the end of the block if it still runs."""
    process = start("predict", jobs, "--out", out, *TINY, *RAY, *options, **kwargs)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(condition, process=None):
    """Wait for what a function finds; fails after too long, or if a process that has to be there ends."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        if process is not None and process.poll() is not None:
            out, err = process.communicate()
            raise AssertionError(f"ended with {process.returncode}: {out}{err}")
        time.sleep(0.005)
    raise AssertionError("waited too long")


def complete(out):
    """The names of the jobs with a report."""
    return {path.parent.name for path in Path(out).glob("*/report.json")}


def attempts(out, name):
    """The processes that have begun a job, in order."""
    with contextlib.suppress(OSError):
        said = Path(out, name, "log.txt").read_text()
        return [int(pid) for pid in re.findall(r"process (\d+) on .*, attempt \d+$", said, re.MULTILINE)]
    return []


def in_the_middle(out, *, but=()):
    """A job that a worker is doing, and the worker's process, stopped: it cannot finish any more."""
    for log in Path(out).glob("*/log.txt"):
        name, ended = log.parent.name, [log.parent / "report.json", log.parent / "error.json"]
        pids = attempts(out, name)
        if name in but or not pids or any(file.exists() for file in ended):
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[-1], signal.SIGSTOP)
            time.sleep(0.05)
            if not any(file.exists() for file in ended):
                return name, pids[-1]
            os.kill(pids[-1], signal.SIGCONT)
    return None


def is_running(pid):
    """Whether there is a process that is not dead and only not yet buried."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
