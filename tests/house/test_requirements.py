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

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
    pinned = pins(name) | pins("protenix")
    for package, requirement in declared().items():
        assert package in pinned, f"{name}.txt does not pin {package}"
        assert pinned[package] in requirement.specifier


def test_the_extra_is_pinned_within_its_bounds() -> None:
    pinned = pins("cluster")
    assert all(
        pinned[package] in requirement.specifier for package, requirement in declared("cluster").items()
    )


def test_protenix_is_the_same_everywhere() -> None:
    assert pins("protenix") == {"protenix": str(declared()["protenix"].specifier).removeprefix("==")}


def test_the_sets_differ_in_torch_alone() -> None:
    cpu, gpu, dev, cluster = pins("cpu"), pins("gpu"), pins("dev"), pins("cluster")
    differing = {package for package in cpu.keys() & gpu.keys() if cpu[package] != gpu[package]}
    assert differing == {"torch"}
    for package, version in [*dev.items(), *cluster.items()]:
        for name, other in (("cpu", cpu), ("gpu", gpu), ("dev", dev), ("cluster", cluster)):
            assert other.get(package, version) == version, f"{name}.txt pins another {package}"


def test_triton_is_there_for_the_tests_whatever_the_set() -> None:
    assert set(pins("dev-cpu")) == {"triton"} <= pins("gpu").keys()


def test_the_cpu_set_holds_nothing_for_a_gpu() -> None:
    assert not [package for package in pins("cpu") if re.match(r"nvidia|cuequivariance|triton", package)]


@pytest.mark.parametrize("name", SETS)
def test_the_pins_are_what_protenix_pins(name: str) -> None:
    """The cpu set is free in torch, which it takes newer; in nothing else that it holds."""
    pinned = pins(name) | ({"torch": "2.7.1"} if name == "cpu" else {})
    for line in distribution("protenix").requires or []:
        requirement = Requirement(line)
        package = canonicalize_name(requirement.name)
        if package in pinned:
            assert pinned[package] in requirement.specifier, f"{name}.txt: Protenix needs {line}"
        elif name == "gpu":
            # It cannot be imported beside the numpy that Protenix pins, and nothing does.
            assert package == "scikit-learn-extra"


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
