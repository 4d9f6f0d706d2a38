"""The pinned sets agree with each other, with pyproject.toml, and with what Protenix imports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from lengths import only_in_full
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flashbias_fold.doctor import MEASURED_ON_GPU
from flashbias_fold.protenix_adapter.environment import ADD_PROTENIX, PROTENIX

ROOT = Path(__file__).parents[2]
SETS = ("cpu", "gpu")
# What pip needs of a name once: torch brings its own CUDA libraries and Triton, at the versions it pins.
BROUGHT_BY_TORCH = re.compile(r"nvidia-|cuda-|triton$")

# What a prediction imports of Protenix, and with it of everything else.
INFERENCE = [
    "protenix.data.core.ccd",
    "protenix.data.esm",
    "protenix.data.inference.infer_dataloader",
    "protenix.data.inference.json_maker",
    "protenix.data.inference.json_parser",
    "protenix.data.msa.msa_featurizer",
    "protenix.data.template.template_featurizer",
    "protenix.model.protenix",
    "protenix.model.sample_confidence",
    "protenix.tfg",
    "protenix.web_service.colab_request_parser",
    "protenix.web_service.dependency_url",
    "runner.batch_inference",
    "runner.dumper",
    "runner.inference",
    "runner.msa_search",
    "runner.rna_msa_search",
    "runner.template_search",
]


def pins(name: str) -> dict[str, str]:
    """The versions in requirements/NAME.txt, which holds nothing but pins and comments."""
    found: dict[str, str] = {}
    for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)==([0-9][0-9A-Za-z.]*)", line)
        assert match, f"{name}.txt: not a pin of one version: {line}"
        package = canonicalize_name(match[1])
        assert package not in found, f"{name}.txt pins {package} twice"
        found[package] = match[2]
    return found


def declared(extra: str | None = None) -> dict[str, Requirement]:
    """The dependencies of pyproject.toml, or those of an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


@pytest.mark.parametrize("name", SETS)
def test_every_declared_dependency_is_pinned_within_its_bounds(name: str) -> None:
    pinned = pins(name)
    for package, requirement in declared().items():
        assert package in pinned, f"{name}.txt does not pin {package}"
        assert pinned[package] in requirement.specifier or (name, package) == ("cpu", "torch")


@pytest.mark.parametrize("extra", ["cluster", "gpu"])
def test_an_extra_is_pinned_within_its_bounds(extra: str) -> None:
    pinned = pins(extra)
    assert all(pinned[package] in requirement.specifier for package, requirement in declared(extra).items())


def test_protenix_is_the_same_everywhere_and_never_brings_what_it_pins() -> None:
    (version,) = pins("protenix").values()
    assert f"protenix=={version}" == PROTENIX
    assert f"pip install --no-deps protenix=={version}" == ADD_PROTENIX
    assert "protenix" not in declared()
    assert ADD_PROTENIX in (ROOT / "docs" / "install.md").read_text()
    assert ADD_PROTENIX in (ROOT / "README.md").read_text()


def test_the_gpu_set_is_the_measured_one() -> None:
    """As the records of the benchmarks have it, and as doctor says."""
    pinned = pins("gpu")
    for package, measured in MEASURED_ON_GPU.items():
        assert pinned[package].startswith(f"{measured}.")
    records = [json.loads(path.read_text()) for path in (ROOT / "docs" / "benchmarks").glob("*h200*.json")]
    versions = [record["versions"] for record in records if "versions" in record]
    assert len(versions) > 5
    for found in versions:
        for package in ("torch", "triton", "cuequivariance-torch"):
            if package in found:
                assert found[package].partition("+")[0] == pinned[package]


def test_the_sets_differ_in_torch_alone_and_what_it_needs() -> None:
    cpu, gpu, dev, cluster = pins("cpu"), pins("gpu"), pins("dev"), pins("cluster")
    differing = {package for package in cpu.keys() & gpu.keys() if cpu[package] != gpu[package]}
    assert differing == {"torch", "setuptools"}
    for package, version in [*dev.items(), *cluster.items()]:
        for name, other in (("cpu", cpu), ("gpu", gpu), ("dev", dev), ("cluster", cluster)):
            assert other.get(package, version) == version, f"{name}.txt pins another {package}"


def test_triton_is_there_for_the_tests_whatever_the_set() -> None:
    assert set(pins("dev-cpu")) == {"triton"} <= pins("gpu").keys()


def test_the_cpu_set_holds_nothing_for_a_gpu() -> None:
    assert not [package for package in pins("cpu") if re.match(r"nvidia|cuequivariance|triton", package)]


# What is taken newer than Protenix pins it, together: they are built for one another.
NEWER = {"torch", "triton", "cuequivariance-torch", "cuequivariance-ops-torch-cu12"}


@pytest.mark.parametrize("name", SETS)
def test_all_else_is_what_protenix_pins(name: str) -> None:
    pinned = pins(name)
    for line in distribution("protenix").requires or []:
        requirement = Requirement(line)
        package = canonicalize_name(requirement.name)
        if package in pinned and package not in NEWER:
            assert pinned[package] in requirement.specifier, f"{name}.txt: Protenix needs {line}"


@pytest.mark.parametrize("name", [*SETS, "cluster", "dev"])
def test_what_a_pinned_package_needs_is_pinned_too(name: str) -> None:
    """Else two installations differ. Only packages that are installed here, as pinned, can be asked."""
    pinned = pins(name)
    asked, missing = 0, []
    for package, version in pinned.items():
        try:
            installed = distribution(package)
        except PackageNotFoundError:
            continue
        if installed.version.split("+")[0] != version:
            continue
        asked += 1
        for line in installed.requires or []:
            requirement = Requirement(line)
            needed = canonicalize_name(requirement.name)
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if package == "torch" and BROUGHT_BY_TORCH.match(needed):
                continue
            if applies and needed not in pinned:
                missing.append(f"{package} needs {line}")
    if not asked:
        pytest.skip(f"nothing of {name}.txt is installed here")
    assert missing == []


# Imports each module with everything hidden that the set does not install, whatever else is there.
IMPORT_WITH_ONLY = """
import importlib, importlib.metadata, json, re, sys
allowed = set(json.loads(sys.argv[1]))
canonical = lambda name: re.sub(r"[-_.]+", "-", name).lower()
hidden = {
    module for module, owners in importlib.metadata.packages_distributions().items()
    if not allowed & {canonical(owner) for owner in owners}
}
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
for module in json.loads(sys.argv[2]):
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        print(f"{module} needs {error.name}", file=sys.stderr)
"""


@pytest.mark.slow
def test_the_cpu_set_holds_everything_that_inference_imports() -> None:
    allowed = [*pins("cpu"), *pins("protenix"), "flashbias-fold"]
    environment = os.environ | {"LAYERNORM_TYPE": "torch", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", IMPORT_WITH_ONLY, json.dumps(allowed), json.dumps(INFERENCE)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^\S+ needs .*$", done.stderr, re.MULTILINE) == []


# Where the GPU set is for: any Linux on x86-64 of the last years.
GPU_PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ["manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64"]
PLATFORMS += [f"manylinux_2_{number}_x86_64" for number in range(5, 29)]


def offered(python: str, folder: Path) -> list[dict[str, Any]]:
    """The metadata of the wheels that pip would take for the GPU set; nothing but metadata is downloaded."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--dry-run",
        "--no-deps",
        "--ignore-installed",
    ]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--target", str(folder / "none")]
    command += ["--python-version", python, "--implementation", "cp", "--report", str(folder / "report.json")]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    command += [
        "-r",
        str(ROOT / "requirements" / "gpu.txt"),
        "-r",
        str(ROOT / "requirements" / "protenix.txt"),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    if "from versions: none" in done.stderr:  # of a package that has been there for years
        pytest.skip("no package index can be reached here")
    assert done.returncode == 0, done.stderr
    return [entry["metadata"] for entry in json.loads((folder / "report.json").read_text())["install"]]


@only_in_full
@pytest.mark.parametrize("python", GPU_PYTHONS)
def test_the_gpu_set_is_complete_and_agrees_with_itself(python: str, tmp_path: Path) -> None:
    """Of each pin there is a wheel, and what it needs is pinned as it needs it; but for Protenix."""
    pinned = pins("gpu") | pins("protenix")
    metadata = offered(python, tmp_path)
    assert {canonicalize_name(found["name"]): found["version"] for found in metadata} == pinned
    here = {"python_version": python, "python_full_version": f"{python}.0", "platform_system": "Linux"}
    here |= {"sys_platform": "linux", "platform_machine": "x86_64", "implementation_name": "cpython"}
    here |= {"platform_python_implementation": "CPython"}
    wrong = []
    for found in metadata:
        if found["name"] == "protenix":
            continue
        for requirement in map(Requirement, found.get("requires_dist", [])):
            needed = canonicalize_name(requirement.name)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": "", **here}):
                continue
            if needed not in pinned or pinned[needed] not in requirement.specifier:
                wrong.append(f"{found['name']} needs {requirement}")
    assert wrong == []


@only_in_full
def test_the_gpu_set_can_be_installed_and_predicts_on_a_cpu(tmp_path: Path) -> None:
    """As far as a machine without a GPU can tell: 6 GB to download."""
    venv = tmp_path / "venv"
    done = subprocess.run(
        [ROOT / "scripts" / "install.sh", "--venv", venv, "--set", "gpu"],
        check=False, capture_output=True, text=True, timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    command = [
        venv / "bin" / "flashbias-fold",
        "predict",
        ROOT / "data" / "examples",
        "--out",
        tmp_path / "out",
    ]
    options = ["--model", "demo", "--samples", "1", "--steps", "2", "--cycles", "1"]
    done = subprocess.run([*command, *options], check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*/report.json"))) > 1
