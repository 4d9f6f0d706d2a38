"""The wheel holds both packages with all that they read, and nothing that would shadow Protenix's."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from this checkout."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(archive: Path) -> set[str]:
    """The names of the files in it."""
    with zipfile.ZipFile(archive) as content:
        return set(content.namelist())


def shipped(folder: str, pattern: str = "*") -> set[str]:
    """The files of a folder, relative to the checkout, that version control would take."""
    files = {path for path in (ROOT / folder).rglob(pattern) if path.is_file()}
    return {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}


def test_both_packages_are_complete_and_typed(wheel: set[str]) -> None:
    assert shipped("flashbias_fold", "*.py") <= wheel
    kernels = {file.removeprefix("kernels/") for file in shipped("kernels/flashbias_kernels", "*.py")}
    assert kernels <= wheel
    assert {"flashbias_fold/py.typed", "flashbias_kernels/py.typed"} <= wheel
    page = shipped("flashbias_fold/report", "*.html") | shipped("flashbias_fold/report", "page.*")
    assert {"flashbias_fold/report/page.css", "flashbias_fold/report/page.js"} <= page <= wheel


@pytest.mark.parametrize("folder", ["configs", "data"])
def test_configurations_and_data_are_inside_the_package(wheel: set[str], folder: str) -> None:
    files = shipped(folder)
    assert files
    assert {f"flashbias_fold/{file}" for file in files} <= wheel


def test_once_installed_it_finds_the_weights_that_it_brings(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path)
    code = (
        "from flashbias_fold.protenix_adapter.models import find_model; print(find_model('demo').checkpoint)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "flashbias_fold" / "data" / "demo" / "demo.safetensors"


def test_nothing_else_is_at_the_top(wheel: set[str]) -> None:
    """A top-level `configs` or `tests` would shadow Protenix's packages of these names."""
    top = {name.partition("/")[0] for name in wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "flashbias_fold",
        "flashbias_kernels",
    }


def test_the_license_and_the_command_are_there(wheel: set[str]) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)
    assert any(name.endswith(".dist-info/entry_points.txt") for name in wheel)
