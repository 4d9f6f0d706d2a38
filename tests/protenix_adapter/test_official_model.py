"""A model by its official name, from a checkpoint where Protenix keeps it, through the command line."""

import json

import pytest
import torch
from command_line import predictions, report_of
from conftest import protein

from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.initial_weights import uninitialised
from flashbias_fold.protenix_adapter.models import Model, build_config, checkpoint_path

NAME = "protenix_tiny_default_v0.5.0"
SEQUENCE = "GSHMEELLKTAIAKQRQISF"


@pytest.fixture(scope="module")
def weights_folder(tmp_path_factory):
    """Protenix's folder, with the smallest official model in it: 109 million random weights, in 16 bit."""
    environment.prepare()
    from configs.configs_model_type import model_configs
    from protenix.model.protenix import Protenix

    with environment.swallow_stdout(), uninitialised():
        network = Protenix(build_config(Model(NAME, model_configs[NAME], checkpoint_path(NAME))))
    generator = torch.Generator().manual_seed(0)
    state = {
        f"module.{name}": (0.02 * torch.randn(value.shape, generator=generator)).bfloat16()
        for name, value in network.state_dict().items()
    }
    root = tmp_path_factory.mktemp("official")
    (root / "checkpoint").mkdir()
    torch.save({"model": state}, root / "checkpoint" / f"{NAME}.pt")
    return root


@pytest.mark.slow
def test_an_official_model_runs_end_to_end_and_is_what_auto_takes(
    flashbias, weights_folder, job_file, tmp_path
):
    jobs = job_file(protein(sequence=SEQUENCE))
    small = ("--bias", "stock", "--samples", 1, "--steps", 2, "--cycles", 1)
    env = {"PROTENIX_ROOT_DIR": str(weights_folder)}
    named = flashbias("predict", jobs, "--out", tmp_path / "named", "--model", NAME, *small, env=env, check=0)
    auto = flashbias("predict", jobs, "--out", tmp_path / "auto", *small, env=env, check=0)
    written = []
    for done, out in ((named, tmp_path / "named"), (auto, tmp_path / "auto")):
        report = json.loads((out / "tiny" / "report.json").read_text())
        assert (report["model"], report["demo_model"]) == (NAME, False)
        assert report["n_token"] == len(SEQUENCE)
        assert "DEMONSTRATION" not in done.stdout + done.stderr
        assert "demonstration" not in done.stdout + done.stderr
        written.append((out / "tiny" / report["samples"][0]["cif"]).read_bytes())
    assert written[0] == written[1]


@pytest.mark.slow
def test_weights_that_are_not_in_the_file_are_said_and_the_same_in_every_run(
    flashbias, weights_folder, job_file, tmp_path
):
    """A run of two jobs says it once, and each of their reports has it."""
    path = weights_folder / "checkpoint" / f"{NAME}.pt"
    state = torch.load(path, weights_only=True)["model"]
    lacking = "pairformer_stack.blocks.0.tri_att_start.linear.weight"
    del state[f"module.{lacking}"]
    root = tmp_path / "older"
    (root / "checkpoint").mkdir(parents=True)
    torch.save({"model": {**state, "module.old.weight": torch.zeros(3)}}, root / "checkpoint" / path.name)
    jobs = job_file(protein("one", "GSHMEELL"), protein("two", "KTAIAKQR"))
    small = ("--bias", "stock", "--samples", 1, "--steps", 1, "--cycles", 1, "--model", NAME)
    written = []
    for out in (tmp_path / "first", tmp_path / "second"):
        done = flashbias("predict", jobs, "--out", out, *small, env={"PROTENIX_ROOT_DIR": str(root)}, check=0)
        warnings = [line.removeprefix("warning: ") for line in done.stderr.splitlines() if NAME in line][1:]
        assert f"{NAME}.pt lacks 1 of 1,156 weights: {lacking}; they have initial values" in warnings[0]
        assert f"{NAME}.pt has 1 in excess: old.weight" in warnings[1] and len(warnings) == 2
        for name in ("one", "two"):
            assert report_of(out, name)["warnings"][:2] == warnings
        written.append(predictions(out))
    assert written[0] == written[1] and len(written[0]) == 4


def test_protenixs_own_initialisation_is_back_whatever_happened():
    """Building for a checkpoint leaves it out, since it is slow; a model without one must not."""
    environment.prepare()
    from protenix.model.modules import primitives
    from protenix.model.triangular import layers

    draw = layers.trunc_normal_init_
    with pytest.raises(ZeroDivisionError), uninitialised():
        assert layers.trunc_normal_init_ is primitives.trunc_normal_init_ is not draw
        raise ZeroDivisionError
    assert layers.trunc_normal_init_ is primitives.trunc_normal_init_ is draw
