"""`flashbias-fold doctor`: what it finds, what it advises, and its exit status."""

import json
import os
from importlib.metadata import version

import pytest

from flashbias_fold.doctor import _problem_of_writing

DEFAULT = "protenix_base_default_v1.0.0"
TINY = "protenix_tiny_default_v0.5.0"


@pytest.fixture
def doctor(flashbias):
    """The findings by name, as `--json` prints them."""

    def run(status, **env):
        done = flashbias("doctor", "--json", env=env, check=status)
        assert done.stderr == ""
        findings = json.loads(done.stdout)
        assert all(finding.keys() == {"what", "value", "ok", "mend"} for finding in findings)
        return {finding["what"]: finding for finding in findings}

    return run


def test_a_machine_that_can_predict_is_found_fit(doctor):
    found = doctor(0)
    assert found["machine"]["value"].startswith("flashbias-fold ")
    for package in ("protenix", "torch", "numpy", "rdkit", "biotite"):
        assert (found[package]["value"], found[package]["ok"]) == (version(package), True)
    assert found["default model"]["value"].startswith("demo: DEMONSTRATION")
    assert found["official weights"]["ok"] is None
    assert found["official weights"]["mend"] == f"flashbias-fold fetch {DEFAULT}"
    assert found["chemical components"]["value"].startswith(
        f"biotite {version('biotite')} (47,353 components"
    )
    assert found["cache"] == {
        "what": "cache", "value": os.environ["FLASHBIAS_FOLD_CACHE"], "ok": True, "mend": None
    }  # fmt: skip
    assert "torch" in found["LayerNorm"]["value"]
    assert "stock" in found["kernels"]["value"]
    assert found["self-test of the attention"]["ok"] is True


def test_it_reads_well(flashbias):
    done = flashbias("doctor", env={"COLUMNS": "80"}, check=0)
    lines = done.stdout.splitlines()
    assert f"     ok protenix: {version('protenix')}" in lines
    weights = next(
        index for index, line in enumerate(lines) if line.startswith("   note official weights: none")
    )
    assert lines[weights + 1].strip() == f"mend: flashbias-fold fetch {DEFAULT}"
    assert done.stderr == ""


def test_official_weights_on_disk_are_listed_and_are_the_default(doctor, tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in (TINY, DEFAULT):
        (folder / f"{name}.pt").touch()
    found = doctor(0, PROTENIX_ROOT_DIR=str(tmp_path))
    assert found["official weights"]["value"] == f"{DEFAULT}, {TINY} in {folder}"
    assert found["official weights"]["ok"] is True
    assert found["default model"]["value"] == DEFAULT


def test_a_cache_that_cannot_be_written_is_worth_a_note_and_no_more(doctor):
    """It is tried, and not only asked about: nobody can make a file there, and root is told that it can."""
    found = doctor(0, FLASHBIAS_FOLD_CACHE="/proc/cache")
    assert found["cache"]["ok"] is None
    assert found["cache"]["value"].startswith("/proc/cache: cannot be written (")
    assert found["cache"]["mend"] == "export FLASHBIAS_FOLD_CACHE=/a/writable/folder"


def test_trying_a_cache_makes_and_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    assert _problem_of_writing(tmp_path / "not" / "yet") is None
    assert _problem_of_writing(tmp_path) is None
    assert _problem_of_writing(tmp_path / "file" / "cache") == "Not a directory"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def python_path(folder):
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


def test_a_missing_package_is_an_error_with_the_command_that_mends_it(doctor, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        """
import importlib.metadata

def version(name, real=importlib.metadata.version):
    if name == "rdkit":
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)

importlib.metadata.version = version
"""
    )
    found = doctor(1, PYTHONPATH=python_path(tmp_path))
    assert found["rdkit"] == {
        "what": "rdkit",
        "value": "not installed",
        "ok": False,
        "mend": "make install, or pip install flashbias-fold",
    }
    assert "self-test of the attention" not in found, "what needs the package is not tried"


def test_missing_weights_of_the_demonstration_are_an_error(doctor, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        """
from pathlib import Path
from flashbias_fold import resources

def resource(*parts, real=resources.resource):
    return Path("/nowhere") if parts == ("data", "demo") else real(*parts)

resources.resource = resource
"""
    )
    found = doctor(1, PYTHONPATH=python_path(tmp_path))
    assert found["default model"]["ok"] is False
    assert found["default model"]["value"].startswith("no weights of demo at /nowhere/demo.safetensors; ")


def test_a_protenix_that_cannot_be_imported_is_an_error(doctor, tmp_path):
    """It needs more packages than are asked for by name: here one that it imports is broken."""
    (tmp_path / "runner").mkdir()
    (tmp_path / "runner" / "__init__.py").write_text("import a_package_that_is_missing")
    found = doctor(1, PYTHONPATH=python_path(tmp_path))
    assert found["Protenix"]["ok"] is False
    assert found["Protenix"]["value"] == (
        "Protenix cannot be imported: No module named 'a_package_that_is_missing'; mend with: make install"
    )


def test_a_self_test_that_fails_is_an_error(doctor, tmp_path):
    package = tmp_path / "flashbias_kernels"
    package.mkdir()
    (package / "__init__.py").write_text(
        """
def biased_attention(q, k, v, *, bias):
    raise RuntimeError("no kernel image\\nis available")

def reference_attention(q, k, v, *, bias):
    return q

def choose_backend(q, k, v, *, bias):
    from types import SimpleNamespace
    return SimpleNamespace(backend="sdpa")
"""
    )
    found = doctor(1, PYTHONPATH=python_path(tmp_path))
    test = found["self-test of the attention"]
    assert test["ok"] is False and test["mend"] == "make install"
    assert test["value"].startswith("cpu: RuntimeError: no kernel image is available")
