"""The NVIDIA driver: how its version is read, and what is said where torch cannot use it."""

from pathlib import Path

import pytest
import torch
from command_line import TINY, call, report_of, write_jobs
from conftest import SEQUENCE, protein

from flashbias_fold.errors import SetupError
from flashbias_fold.protenix_adapter import driver
from flashbias_fold.protenix_adapter.driver import driver_version, why_no_gpu
from flashbias_fold.protenix_adapter.kernels import chosen_device

CLOSED = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:\n"
)
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (dvs-builder@U22)\n"
)


@pytest.mark.parametrize(("said", "version"), [(CLOSED, "550.54.15"), (OPEN, "580.159.04"), ("", None)])
def test_the_kernel_says_which_driver_it_has(tmp_path, said, version):
    folder = tmp_path / "driver" / "nvidia"
    folder.mkdir(parents=True)
    (folder / "version").write_text(said)
    assert driver_version(tmp_path) == version


@pytest.mark.parametrize(
    ("script", "version"), [("echo 535.129.03", "535.129.03"), ("exit 9", None), (None, None)]
)
def test_where_the_kernel_says_nothing_nvidia_smi_is_asked(tmp_path, monkeypatch, script, version):
    monkeypatch.setenv("PATH", str(tmp_path))
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    assert driver_version(tmp_path / "proc") == version


@pytest.fixture
def gpu(monkeypatch):
    """A GPU is there, with a driver, and torch is a build for some CUDA that does not start on it."""

    def make(version, cuda="13.0"):
        monkeypatch.setattr(driver, "has_nvidia_gpu", lambda: True)
        monkeypatch.setattr(driver, "driver_version", lambda: version)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.version, "cuda", cuda)

    return make


@pytest.mark.parametrize("version", ["550.54.15", "580.65.05", "575.57.08"])
def test_a_driver_that_is_too_old_is_one_clear_line(gpu, version):
    gpu(version)
    why, mend = why_no_gpu()
    assert why == (
        f"torch {torch.__version__} is built for CUDA 13.0, which needs driver 580.65.06 or later; "
        f"this one is {version}"
    )
    assert "An older driver" in mend
    assert "\n## An older driver\n" in (Path(__file__).parents[2] / "docs" / "install.md").read_text()
    with pytest.raises(SetupError, match=f"--device cuda: .*this one is {version}"):
        chosen_device("cuda")
    assert chosen_device("auto").type == "cpu"


def test_an_earlier_cuda_does_with_an_earlier_driver(gpu):
    gpu("550.54.15", cuda="12.6")
    assert why_no_gpu()[0].endswith("driver 550.54.15 is new enough, and yet CUDA does not start")


def test_without_a_driver_or_with_a_build_for_cpus_it_says_so(gpu):
    gpu(None)
    assert why_no_gpu()[0].endswith("and no driver answers")
    gpu("580.65.06", cuda=None)
    assert why_no_gpu() == (
        f"torch {torch.__version__} is a build for CPUs", "FLASHBIAS_FOLD_SET=gpu make install"
    )  # fmt: skip


def test_without_a_gpu_there_is_nothing_to_say(gpu, monkeypatch):
    gpu("550.54.15")
    monkeypatch.setattr(driver, "has_nvidia_gpu", lambda: False)
    assert why_no_gpu() is None


def test_a_run_on_the_cpu_beside_an_unused_gpu_says_so(gpu, tmp_path):
    """In the terminal and in the report."""
    jobs, out = write_jobs(tmp_path / "jobs.json", protein("one", SEQUENCE[:8])), tmp_path / "out"
    gpu("550.54.15")
    done = call("predict", jobs, "--out", out, *TINY, check=0)
    said = "predicting on the CPU, as torch cannot use the NVIDIA GPU that is here: torch"
    assert [line for line in done.stderr.splitlines() if line.startswith(f"warning: {said}")]
    assert any(text.startswith(said) for text in report_of(out, "one")["warnings"])
