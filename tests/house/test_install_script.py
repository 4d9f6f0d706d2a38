"""What `make` and scripts/install.sh do, tried with a stand-in for pip: nothing is installed here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "install.sh"
SHELL_SCRIPTS = [SCRIPT, ROOT / ".ci" / "run"]

# An environment's python that runs everything but pip, whose calls it writes down.
STAND_IN = """\
#!/bin/sh
case "$*" in
    *sys.prefix*) echo "{venv}" ;;
    "-m pip --version"*) ;;
    "-m pip"*) echo "$*" >>"{venv}/pip.log"; exit "${{PIP_STATUS:-0}}" ;;
    *) exec "{python}" "$@" ;;
esac
"""


class Environment:
    """A virtual environment whose pip is a stand-in, on a machine with or without a GPU."""

    def __init__(self, folder: Path) -> None:
        self.venv = folder / "venv"
        self.tools = folder / "tools"
        for directory in (self.venv / "bin", self.tools):
            directory.mkdir(parents=True)
        executable(self.venv / "bin" / "python", STAND_IN.format(venv=self.venv, python=sys.executable))
        self.set_gpu(False)

    def set_gpu(self, there: bool) -> None:
        executable(self.tools / "nvidia-smi", f"#!/bin/sh\nexit {0 if there else 1}\n")

    def install(self, *options: str, **variables: str) -> tuple[int, str, list[str]]:
        """The exit status, what was said, and the calls of pip, without what is the same in all."""
        log = self.venv / "pip.log"
        log.write_text("")
        done = subprocess.run(
            [SCRIPT, "--venv", self.venv, *options],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env={"PATH": f"{self.tools}{os.pathsep}{os.environ['PATH']}"} | variables,
        )
        same = "-m pip install --quiet --quiet --disable-pip-version-check --no-warn-conflicts "
        calls = [line.removeprefix(same) for line in log.read_text().splitlines()]
        return done.returncode, done.stdout + done.stderr, calls


def executable(path: Path, content: str) -> None:
    path.write_text(content)
    path.chmod(0o755)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def requirements(name: str) -> list[str]:
    return [f"-r requirements/{name}.txt", "--no-deps -r requirements/protenix.txt"]


COPY = ["--no-deps --force-reinstall ."]
IN_PLACE = ["--no-deps --editable ."]
CLUSTER = ["-r requirements/cluster.txt"]
DEV = [*CLUSTER, "-r requirements/dev.txt -r requirements/dev-cpu.txt"]


def test_the_second_time_nothing_is_installed(environment: Environment) -> None:
    assert environment.install()[2] == requirements("cpu") + COPY
    status, said, calls = environment.install()
    assert (status, calls) == (0, [])
    assert said.splitlines() == [f"install: ready: {environment.venv}/bin/flashbias-fold"]


def test_tools_for_developers_are_added_to_what_is_there(environment: Environment) -> None:
    environment.install("--editable")
    assert environment.install("--editable", "--dev")[2] == DEV
    assert environment.install("--editable")[2] == []
    assert environment.install("--editable", "--dev")[2] == []


def test_a_set_for_a_gpu_has_its_own_triton(environment: Environment) -> None:
    environment.install("--set", "gpu")
    assert environment.install("--set", "gpu", "--dev")[2] == [*CLUSTER, "-r requirements/dev.txt"]


def test_ray_is_added_to_what_is_there(environment: Environment) -> None:
    environment.install("--editable")
    assert environment.install("--editable", "--cluster")[2] == CLUSTER
    assert environment.install("--editable", "--cluster")[2] == []
    assert environment.install("--editable", "--dev")[2] == DEV[1:]


def test_in_place_and_as_a_copy(environment: Environment) -> None:
    assert environment.install("--editable")[2] == requirements("cpu") + IN_PLACE
    assert environment.install()[2] == COPY


def test_the_container_installs_requirements_before_the_code(environment: Environment) -> None:
    assert environment.install("--set", "gpu", "--requirements-only")[2] == requirements("gpu")
    assert environment.install("--set", "gpu")[2] == COPY


def test_the_machine_chooses_the_set_once(environment: Environment) -> None:
    environment.set_gpu(True)
    assert environment.install()[2] == requirements("gpu") + COPY
    # On a cluster's login node, say, where the same environment is seen.
    environment.set_gpu(False)
    assert environment.install()[2] == []


def test_the_user_chooses_the_set(environment: Environment) -> None:
    assert environment.install(FLASHBIAS_FOLD_SET="gpu")[2] == requirements("gpu") + COPY
    assert environment.install(FLASHBIAS_FOLD_SET="cpu")[2] == requirements("cpu")
    assert environment.install("--set", "gpu", FLASHBIAS_FOLD_SET="cpu")[2] == requirements("gpu")


def test_an_interrupted_installation_is_not_taken_for_a_complete_one(environment: Environment) -> None:
    environment.install()
    status, _, calls = environment.install("--set", "gpu", PIP_STATUS="1")
    assert (status, calls) == (1, requirements("gpu")[:1])
    # Half of the other set is there now, so the first one has to be installed again too.
    assert environment.install("--set", "cpu")[2] == requirements("cpu")


@pytest.mark.parametrize(
    ("options", "variables", "message"),
    [
        (["--set", "tpu"], {}, "--set is auto, cpu or gpu"),
        ([], {"FLASHBIAS_FOLD_SET": "tpu"}, "FLASHBIAS_FOLD_SET is cpu or gpu"),
        (["--frobnicate"], {}, "unknown option '--frobnicate'"),
        (["--set"], {}, "--set needs auto, cpu or gpu"),
    ],
)
def test_a_wrong_choice_is_refused_before_anything_is_done(
    environment: Environment, options: list[str], variables: dict[str, str], message: str
) -> None:
    status, said, calls = environment.install(*options, **variables)
    assert status == 1
    assert message in said
    assert calls == []


@pytest.mark.parametrize("broken", ["exit 0", "exit 1"], ids=["too old", "no venv"])
def test_a_python_that_will_not_do_is_named(tmp_path: Path, broken: str) -> None:
    """`no venv`: Debian's python without python3-venv."""
    python = tmp_path / "python"
    if broken == "exit 0":
        executable(python, "#!/bin/sh\n[ $1 = --version ] && echo Python 3.9.2\nexit 1\n")
    else:
        executable(
            python, f'#!/bin/sh\ncase "$*" in *ensurepip*) exit 1 ;; esac\nexec {sys.executable} "$@"\n'
        )
    done = subprocess.run(
        [SCRIPT, "--venv", tmp_path / "venv"],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHON": str(python)},
    )
    assert done.returncode == 1
    assert ("is Python 3.9.2" if broken == "exit 0" else "apt install python3-venv") in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    done = subprocess.run([SCRIPT, "--venv", tmp_path / "mine"], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is not a working environment" in done.stderr
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_are_sound(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


@pytest.mark.parametrize("target", ["install", "demo", "test", "lint", "bench", "help", "clean"])
def test_make_has(target: str) -> None:
    done = subprocess.run(["make", "-n", target], check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = subprocess.run(["make", "help"], check=True, cwd=ROOT, capture_output=True, text=True)
    assert f"make {target} " in listed.stdout


def test_ci_runs_what_a_developer_runs() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if line.startswith("make")] == ["make lint", "make test"]


@pytest.mark.parametrize("name", ["Makefile", "scripts/install.sh", "Dockerfile", "requirements"])
def test_where_packages_come_from_is_left_to_pip(name: str) -> None:
    path = ROOT / name
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        assert not re.search(r"://|--(extra-)?index-url|--find-links", file.read_text()), file


def test_the_environment_variables_of_the_code_are_documented() -> None:
    sources = [*(ROOT / "flashbias_fold").rglob("*.py"), SCRIPT]
    used = {name for path in sources for name in re.findall(r"\bFLASHBIAS_FOLD_[A-Z_]+", path.read_text())}
    documented = (ROOT / "docs" / "install.md").read_text()
    assert {name for name in used if f"| `{name}` |" not in documented} == set()
