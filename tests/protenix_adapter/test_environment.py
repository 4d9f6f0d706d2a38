"""What is settled before Protenix is imported, what that leaves behind, and what the shell may hold."""

import json
import os
import sys
from pathlib import Path

import pytest
from conftest import protein
from lengths import at_length
from processes import output_of, run_python

from flashbias_fold.protenix_adapter import environment

PREPARE = """
    from flashbias_fold.protenix_adapter import environment
    environment.prepare()
"""


@pytest.fixture
def bare_protenix(tmp_path):
    """Stands in for Protenix where only the moment of its import counts: it prints what it was told."""
    runner = tmp_path / "bare" / "runner"
    runner.mkdir(parents=True)
    for name in ("__init__", "dumper"):
        (runner / f"{name}.py").touch()
    (runner / "inference.py").write_text("import os; print(os.environ.get('LAYERNORM_TYPE'))")
    return runner.parent


@pytest.fixture
def toolkit(tmp_path):
    """A CUDA toolkit, as far as it is looked for."""
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\nexit 1\n")
    nvcc.chmod(0o755)
    return nvcc.parent.parent


def layernorm_told(bare_protenix, code=PREPARE, **variables):
    variables = {"LAYERNORM_TYPE": None, "CUDA_VISIBLE_DEVICES": "", **variables}
    done = run_python(code, path=bare_protenix, **variables)
    # Where a compiler may run, standard output is kept clean.
    return (done.stdout or done.stderr).strip()


def test_without_a_gpu_the_layernorm_is_torchs(bare_protenix):
    assert layernorm_told(bare_protenix) == "torch"


def test_a_cuda_toolkit_without_a_gpu_changes_nothing(bare_protenix, toolkit, monkeypatch):
    assert layernorm_told(bare_protenix, CUDA_HOME=str(toolkit)) == "torch"
    monkeypatch.setenv("PATH", str(toolkit / "bin"), prepend=":")
    assert layernorm_told(bare_protenix) == "torch"


def test_the_layernorm_that_the_user_chose_stays(bare_protenix):
    assert layernorm_told(bare_protenix, LAYERNORM_TYPE="fast_layernorm") == "fast_layernorm"
    assert layernorm_told(bare_protenix, LAYERNORM_TYPE="openfold") == "openfold"


def test_with_a_gpu_and_a_toolkit_protenix_decides(bare_protenix, toolkit):
    code = """
        from flashbias_fold.protenix_adapter import environment
        environment.has_nvidia_gpu = lambda: True
        environment.prepare()
    """
    assert layernorm_told(bare_protenix, code, CUDA_HOME=str(toolkit)) == "None"


def test_the_toolkit_is_found_where_torch_would_find_it(toolkit, monkeypatch):
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, str(toolkit))
            assert environment.cuda_toolkit() == toolkit / "bin" / "nvcc"


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_hidden_gpu_is_none(monkeypatch, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not environment.has_nvidia_gpu()


def test_importing_protenix_and_building_a_model_leave_no_trace(random_model):
    code = """
        import logging, os, sys
        from pathlib import Path
        handler = logging.NullHandler()
        logging.getLogger().addHandler(handler)
        logging.getLogger().setLevel(logging.ERROR)

        import torch
        from flashbias_fold.pairformer import Plan
        from flashbias_fold.protenix_adapter.components import open_components
        from flashbias_fold.protenix_adapter.engine import Engine
        from flashbias_fold.protenix_adapter.models import Model, find_model

        model = Model("random", find_model("demo").overrides, Path(sys.argv[1]))
        Engine(model, Plan.for_bias("dense"), device=torch.device("cpu"), dtype="fp32", samples=1)
        open_components().install()
        assert logging.getLogger().handlers == [handler]
        assert logging.getLogger().level == logging.ERROR
        assert os.environ["WORLD_SIZE"] == "8"
    """
    rank = {"WORLD_SIZE": "8", "RANK": "3", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "8"}
    done = run_python(code, random_model.checkpoint, **rank)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_torchrun_left_in_the_shell_does_not_matter(flashbias, job_file, tmp_path):
    # As one of 8 processes Protenix would take every eighth job, and wait for the others.
    rank = {"WORLD_SIZE": "8", "RANK": "3", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "0"}
    jobs = job_file(protein(sequence="ACDEFGHIKL"))
    tiny = ("--model", "demo", "--samples", 1, "--steps", 1, "--cycles", 1)
    flashbias("predict", jobs, "--out", tmp_path / "out", *tiny, env=rank, check=0)
    assert len(list(tmp_path.glob("out/tiny/seed_101/predictions/*.cif"))) == 1


def test_the_compiler_of_the_layernorm_does_not_write_to_standard_output(tmp_path):
    """Protenix compiles at import and the compiler writes to the descriptor; here a module stands for it."""
    (tmp_path / "fast_layer_norm_cuda_v2.py").write_text("import os; os.write(1, b'[1/3] nvcc\\n')")
    done = run_python(PREPARE, path=tmp_path, LAYERNORM_TYPE="fast_layernorm")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "[1/3] nvcc\n")


def test_a_layernorm_for_the_gpu_is_not_tried_on_the_cpu(tmp_path):
    (tmp_path / "fast_layer_norm_cuda_v2.py").touch()
    code = """
        import torch
        from flashbias_fold.pairformer import Plan
        from flashbias_fold.protenix_adapter.engine import Engine
        from flashbias_fold.protenix_adapter.models import find_model
        model, plan = find_model("demo"), Plan.for_bias("dense")
        Engine(model, plan, device=torch.device("cpu"), dtype="fp32", samples=1)
    """
    done = run_python(code, path=tmp_path, LAYERNORM_TYPE="fast_layernorm")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("flashbias_fold.errors.SetupError: Protenix's LayerNorm is the CUDA kernel")
    assert "export LAYERNORM_TYPE=torch" in last


def test_a_layernorm_that_cannot_be_compiled_is_said_with_the_way_out(tmp_path):
    (tmp_path / "fast_layer_norm_cuda_v2.py").write_text("raise RuntimeError('Error building extension')")
    done = run_python(PREPARE, path=tmp_path, LAYERNORM_TYPE="fast_layernorm")
    assert done.stderr.splitlines()[-1] == (
        "flashbias_fold.errors.SetupError: Protenix's CUDA LayerNorm could not be compiled: "
        "Error building extension; to do without it: export LAYERNORM_TYPE=torch"
    )


def test_a_package_that_protenix_lacks_is_named(bare_protenix):
    (bare_protenix / "runner" / "dumper.py").write_text("import absent_package")
    done = run_python(PREPARE, path=bare_protenix)
    assert done.stderr.splitlines()[-1] == (
        "flashbias_fold.errors.SetupError: Protenix cannot be imported: "
        "No module named 'absent_package'; mend with: make install"
    )


@pytest.mark.parametrize("module", ["flashbias_fold", "flashbias_fold.cli", "flashbias_fold.cli.parser"])
def test_importing_the_package_imports_nothing_heavy(module):
    code = """
        import importlib, json, sys
        importlib.import_module(sys.argv[1])
        print(json.dumps(sorted(sys.modules)))
    """
    imported = set(json.loads(output_of(code, module)))
    assert imported.isdisjoint({"torch", "protenix", "configs", "runner", "rdkit", "biotite", "numpy"})


@pytest.fixture
def crowded_folder(tmp_path):
    """A working directory with packages, or modules, that are called like Protenix's packages."""

    def make(kind):
        folder = tmp_path / "project"
        folder.mkdir()
        for name in ("configs", "runner", "scripts", "tests", "protenix"):
            path = folder / (f"{name}.py" if kind == "module" else f"{name}/__init__.py")
            path.parent.mkdir(exist_ok=True)
            path.write_text("raise RuntimeError('imported from the folder')")
        return folder

    return make


@pytest.mark.parametrize("kind", at_length(["package"], ["package", "module"]))
def test_the_working_directory_does_not_hide_protenix(flashbias, crowded_folder, kind):
    done = flashbias("doctor", cwd=crowded_folder(kind), check=0)
    assert "ok protenix: " in done.stdout and "self-test" in done.stdout


def test_it_runs_from_its_own_repository(flashbias):
    """There are folders called `configs`, `scripts` and `tests` here, too."""
    flashbias("doctor", cwd=Path(__file__).parents[2], check=0)


def test_python_m_leaves_alone_a_path_that_python_did_not_extend(tmp_path):
    code = """
        import runpy, sys
        sys.path.insert(0, sys.argv[1])
        sys.argv[1:] = ["--version"]
        try:
            runpy.run_module("flashbias_fold", run_name="__main__")
        except SystemExit:
            print(sys.path[0])
    """
    assert output_of(code, tmp_path).splitlines()[-1] == str(tmp_path)


def test_the_logging_of_the_user_is_put_back():
    import logging

    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with environment.quiet_root_logger():
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, force=True)
    assert (root.handlers, root.level) == (handlers, level)


# Protenix hidden, as where `pip install .` was all that was done.
WITHOUT = """
import importlib.metadata, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("protenix", "runner", "configs"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
def version(name, real=importlib.metadata.version):
    if name == "protenix":
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
sys.meta_path.insert(0, Hidden())
importlib.metadata.version = version
"""


@pytest.fixture
def without_protenix(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", path)


COMMANDS = [
    "predict JOBS --out OUT",
    "compare JOBS --out OUT",
    "bench model --tokens 16",
    "calibrate --inputs JOBS --out OUT.safetensors",
    "fetch protenix_tiny_default_v0.5.0",
]


@pytest.mark.parametrize(
    "command",
    at_length(COMMANDS[:1], COMMANDS),
    ids=lambda command: command.partition(" ")[0],
)  # fmt: skip
def test_without_protenix_one_line_says_what_adds_it(
    without_protenix, flashbias, job_file, tmp_path, command
):
    words = [
        word.replace("JOBS", str(job_file(protein()))).replace("OUT", str(tmp_path / "o"))
        for word in command.split()
    ]
    done = flashbias(*words, check=2)
    assert done.stderr.splitlines()[-1:] == [
        "error: Protenix is not installed; add it, without the packages that it pins: "
        f"{environment.ADD_PROTENIX}"
    ]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o").exists()


def test_without_protenix_doctor_says_what_adds_it(without_protenix, flashbias):
    findings = json.loads(flashbias("doctor", "--json", check=1).stdout)
    (found,) = (finding for finding in findings if finding["what"] == "protenix")
    assert (found["value"], found["ok"], found["mend"]) == ("not installed", False, environment.ADD_PROTENIX)
