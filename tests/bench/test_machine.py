"""What a record says of the machine: enough to believe it, nothing that names it."""

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from flashbias_fold.bench import machine


@pytest.fixture
def repository(tmp_path):
    """A checkout with one commit."""

    def git(*arguments):
        identity = ("-c", "user.name=x", "-c", "user.email=x@x")
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init")
    (tmp_path / "file").write_text("one\n")
    (tmp_path / "inside").mkdir()
    git("add", "file")
    git("commit", "-m", "first")
    return tmp_path, git("rev-parse", "HEAD")


def test_a_checkout_has_a_commit_and_knows_whether_it_was_changed(repository):
    folder, head = repository
    assert machine.commit(folder) == {"commit": head, "changed": False}
    (folder / "untracked").touch()
    assert machine.commit(folder)["changed"] is False
    (folder / "file").write_text("two\n")
    assert machine.commit(folder) == {"commit": head, "changed": True}


def test_a_package_inside_somebody_elses_repository_has_none(repository):
    assert machine.commit(repository[0] / "inside") == {"commit": None, "changed": None}


def test_outside_of_any_repository_there_is_none(tmp_path):
    assert machine.commit(tmp_path) == {"commit": None, "changed": None}


def test_the_processor_names_itself(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nmodel name\t: Other\n")
    assert machine.cpu_model(tmp_path / "cpuinfo") == "Some CPU @ 3 GHz"
    assert machine.cpu_model(tmp_path / "nothing")


def test_versions_are_those_that_are_installed():
    found = machine.versions()
    assert found["torch"] == version("torch")
    assert found["python"] == platform.python_version()
    assert all(found.values())


def test_a_cpu_is_described_without_naming_the_machine():
    found = machine.describe(torch.device("cpu"))
    assert found.keys() == {"cpu", "threads", "system"}
    assert found["threads"] == torch.get_num_threads()
    said = json.dumps(found | machine.versions() | machine.commit())
    assert platform.node() not in said or len(platform.node()) < 4
    assert str(Path.home()) not in said


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo '565.57.01, 1980'", ("565.57.01", 1980.0)),
        ("echo '565.57.01, [N/A]'", ("565.57.01", None)),
        ("echo 'no devices'; exit 9", (None, None)),
    ],
)
def test_driver_and_clock_are_what_nvidia_smi_says(tmp_path, monkeypatch, script, expected):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert machine._driver_and_clock("abc") == expected


def test_without_nvidia_smi_they_are_not_known(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine._driver_and_clock("") == (None, None)
