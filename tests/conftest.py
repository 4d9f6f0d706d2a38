"""What the tests share: a private cache and weights folder, the command line as users start it, a model."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SEQUENCE = "MTPAVTTYKLVINGKTLKGETTTKAVDAETAEKAF"

# One of the processes that share the tests, where there are several; they inherit what the first one has set.
_IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ

# Before anything of Protenix is imported: it reads its folder then. The user's own weights and component
# files must not decide what a test sees; one cache for the whole session keeps the tests quick.
if not _IS_WORKER:
    _SCRATCH = tempfile.TemporaryDirectory(prefix="flashbias-fold-tests-")
    os.environ["PROTENIX_ROOT_DIR"] = str(Path(_SCRATCH.name, "protenix"))
    os.environ["FLASHBIAS_FOLD_CACHE"] = os.environ.get("FLASHBIAS_FOLD_TEST_CACHE") or str(
        Path(_SCRATCH.name, "cache")
    )
os.environ.setdefault("LAYERNORM_TYPE", "torch")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if _IS_WORKER:
    _N_CORES = len(os.sched_getaffinity(0)) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _N_CORES)))
import hypothesis  # noqa: E402
import torch  # noqa: E402

# No test asserts a time, and a busy machine is no failure.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# Triton's interpreter stands in for a GPU; Triton reads this when it is first imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
# A job in the background of a shell, as CI may be, ignores SIGINT, and so would every process that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The files that take longest, in that order: begun late, one of them would be run while all else is done.
LONGEST = (
    "test_gradients.py",
    "test_compare.py",
    "test_ray_faults.py",
    "test_train_demo.py",
    "test_ray_campaign.py",
    "test_resume.py",
    "test_ray_nodes.py",
    "test_triton.py",
    "test_ray_overwrite.py",
    "test_audit.py",
    "test_engine.py",
    "test_memory_model.py",
    "test_alignment_server.py",
    "test_environment.py",
    "test_components_parity.py",
    "test_components.py",
    "test_attention.py",
    "test_reproduce_table.py",
    "test_step_graph.py",
    "test_overwrite.py",
    "test_kill_runs.py",
    "test_dockq.py",
    "test_structures.py",
    "test_fidelity.py",
)


def pytest_collection_modifyitems(items):
    """Begin with the longest files; the order within each stays."""
    order = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


# The folders whose tests compute in this process, by our kernels or by what stands around them.
POISONED = {"kernels", "pairformer", "factorize", "calibrate", "bench", "protenix_adapter"}


@pytest.fixture(autouse=True)
def poisoned_memory(request, monkeypatch):
    """Memory that nobody wrote to is seen in whatever is computed from it."""
    if request.path.parent.name in POISONED:
        from poison import poison

        poison(monkeypatch)


@pytest.fixture
def flashbias():
    """The command line in a process of its own, as a user starts it."""
    from command_line import run

    return run


@pytest.fixture
def job_file(tmp_path):
    """Write jobs as a Protenix JSON file."""
    from command_line import write_jobs

    return lambda *jobs: write_jobs(tmp_path / "jobs.json", *jobs)


def protein(name="tiny", sequence=SEQUENCE, **fields):
    """A job with one protein chain."""
    return {"name": name, "sequences": [{"proteinChain": {"sequence": sequence, "count": 1, **fields}}]}


@pytest.fixture(scope="session")
def random_model(tmp_path_factory):
    """The demonstration architecture with random weights, none of them zero, as a checkpoint of Protenix.

    Protenix initialises the last projection of many layers to zero, which would hide what they compute.
    """
    import torch

    from flashbias_fold.protenix_adapter import environment
    from flashbias_fold.protenix_adapter.models import Model, build_config, demo_model

    environment.prepare()
    from protenix.model.protenix import Protenix

    overrides = demo_model().overrides
    path = tmp_path_factory.mktemp("checkpoint") / "random.pt"
    with environment.swallow_stdout():
        network = Protenix(build_config(Model("random", overrides, path)))
    generator = torch.Generator().manual_seed(7)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() > 1:
            parameter.data = noise * 1.5 / parameter.shape[-1] ** 0.5
        else:
            parameter.data = 0.2 * noise + (1.0 if name.endswith("weight") else 0.0)
    torch.save({"model": {f"module.{key}": value for key, value in network.state_dict().items()}}, path)
    return Model("random", overrides, path)


@pytest.fixture(scope="session")
def components():
    """Protenix served with chemical components from biotite's dictionary."""
    from flashbias_fold.protenix_adapter import environment

    environment.prepare()
    from flashbias_fold.protenix_adapter.components import open_components

    return open_components()
