"""The container is installed by the same script from the same files as a checkout."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, their continued lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined)]


def arguments(word: str) -> list[str]:
    """What follows each instruction of this kind."""
    return [rest for found, rest in instructions() if found == word]


def environment() -> dict[str, str]:
    """The variables that the image sets."""
    return dict(pair.split("=", 1) for line in arguments("ENV") for pair in line.split())


def copied() -> list[str]:
    """What is copied into the image, relative to the checkout."""
    return [source for line in arguments("COPY") for source in line.split()[:-1]]


def test_the_base_is_a_cuda_runtime_of_the_pinned_torch() -> None:
    (base,) = arguments("FROM")
    match = re.fullmatch(r"nvidia/cuda:(\d+\.\d+)\.\d+-runtime-ubuntu24\.04", base)
    assert match, "not a runtime image with a full tag"
    pinned = (ROOT / "requirements" / "gpu.txt").read_text()
    assert f"nvidia-cuda-runtime=={match[1]}." in pinned


def is_ignored(path: Path) -> bool:
    """Tell whether `.dockerignore` keeps a file, or a folder that it is in, out of the image."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line.strip().strip("/") for line in lines if line.strip() and not line.startswith("#")]
    inside = path.relative_to(ROOT)
    return any(
        fnmatch(part.name if pattern.startswith("**/") else str(part), pattern.removeprefix("**/"))
        for part in (inside, *inside.parents)
        for pattern in patterns
    )


def test_everything_that_is_copied_exists_and_is_not_ignored() -> None:
    for source in map(ROOT.joinpath, copied()):
        assert source.exists(), source
        files = source.rglob("*") if source.is_dir() else [source]
        shipped = [file for file in files if file.is_file() and file.suffix != ".pyc"]
        assert shipped
        assert [file for file in shipped if is_ignored(file)] == []


def test_the_code_and_what_it_ships_are_copied() -> None:
    needed = {"flashbias_fold/", "kernels/", "configs/", "data/", "requirements/", "pyproject.toml"}
    assert needed <= set(copied())


def test_only_the_script_installs_packages_and_first_without_the_code() -> None:
    runs = [rest for rest in arguments("RUN") if "install.sh" in rest]
    command = "scripts/install.sh --venv venv --set gpu"
    assert runs == [f"{command} --cluster --requirements-only", command]
    assert "pip install" not in DOCKERFILE
    order = [rest for word, rest in instructions() if word in ("COPY", "RUN")]
    code = order.index("flashbias_fold/ flashbias_fold/")
    assert order.index(runs[0]) < code < order.index(runs[1])
    assert f"PATH=/opt/flashbias-fold/venv/bin:{'$PATH'}" in DOCKERFILE


def test_nothing_is_left_for_nvcc() -> None:
    assert environment()["LAYERNORM_TYPE"] == "torch"
    assert not re.search(r"nvcc|cuda-|toolkit", " ".join(arguments("RUN")))


@pytest.mark.parametrize(
    "package", ["python3-venv", "gcc", "libc6-dev", "python3-dev", "libxrender1", "libxext6", "libexpat1"]
)
def test_the_system_packages_that_run_time_needs_are_there(package: str) -> None:
    """For the installation, for Triton's launcher, and for the libraries that rdkit does not bring."""
    packages = next(rest for rest in arguments("RUN") if rest.startswith("apt-get update"))
    assert package in packages.split()


def test_any_user_can_run_it() -> None:
    (user,) = arguments("USER")
    assert user not in ("root", "0")
    (volume,) = arguments("VOLUME")
    assert volume == environment()["PROTENIX_ROOT_DIR"]
    assert any('chmod 1777 "$HOME" "$PROTENIX_ROOT_DIR"' in rest for rest in arguments("RUN"))
    # A uid that no file lists has no name to be asked for.
    assert environment()["USER"]
    # The caches are below HOME, which Apptainer replaces by the user's own.
    assert "FLASHBIAS_FOLD_CACHE" not in environment()


def test_the_command_is_the_entry_point() -> None:
    assert [json.loads(rest) for rest in arguments("ENTRYPOINT")] == [["flashbias-fold"]]
    assert [json.loads(rest) for rest in arguments("CMD")] == [["--help"]]


@pytest.mark.parametrize("name", [".git", ".venv", "preds"])
def test_the_build_context_leaves_out(name: str) -> None:
    assert name in (ROOT / ".dockerignore").read_text().split()
