"""A model by its official name, from a checkpoint where Protenix keeps it, through the command line."""

import pytest
import torch
from command_line import predictions, report_of
from conftest import protein

from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.initial_weights import uninitialised
from flashbias_fold.protenix_adapter.models import Model, build_config, checkpoint_path

NAME = "protenix_tiny_default_v0.5.0"
LACKING, EXCESS = "pairformer_stack.blocks.0.tri_att_start.linear.weight", "old.weight"
SEQUENCE = "GSHMEELLKTAIAKQRQISF"


@pytest.fixture(scope="module")
def weights_folder(tmp_path_factory):
    """Protenix's folder, with the smallest official model in it: 109 million random weights, in 16 bit.

    One weight is not there and one too many is: this model Protenix loads all the same.
    """
    environment.prepare()
    from configs.configs_model_type import model_configs
    from protenix.model.protenix import Protenix

    with environment.swallow_stdout(), uninitialised():
        network = Protenix(build_config(Model(NAME, model_configs[NAME], checkpoint_path(NAME))))
    generator = torch.Generator().manual_seed(0)
    shapes = {name: value.shape for name, value in network.state_dict().items()} | {EXCESS: (3,)}
    state = {
        f"module.{name}": (0.02 * torch.randn(shape, generator=generator)).bfloat16()
        for name, shape in shapes.items()
        if name != LACKING
    }
    root = tmp_path_factory.mktemp("official")
    (root / "checkpoint").mkdir()
    torch.save({"model": state}, root / "checkpoint" / f"{NAME}.pt")
    return root


@pytest.mark.slow
def test_an_official_model_runs_end_to_end_and_is_what_auto_takes(
    flashbias, weights_folder, job_file, tmp_path
):
    """What its file lacks is the same in both runs; each says it once, and in the report of each job."""
    jobs = job_file(protein(sequence=SEQUENCE), protein("less", "GSHMEELL"))
    small = ("--bias", "stock", "--samples", 1, "--steps", 2, "--cycles", 1)
    env = {"PROTENIX_ROOT_DIR": str(weights_folder)}
    named = flashbias("predict", jobs, "--out", tmp_path / "named", "--model", NAME, *small, env=env, check=0)
    auto = flashbias("predict", jobs, "--out", tmp_path / "auto", *small, env=env, check=0)
    for done, out in ((named, tmp_path / "named"), (auto, tmp_path / "auto")):
        report = report_of(out, "tiny")
        assert (report["model"], report["demo_model"]) == (NAME, False)
        assert report["n_token"] == len(SEQUENCE)
        assert "DEMONSTRATION" not in done.stdout + done.stderr
        assert "demonstration" not in done.stdout + done.stderr
        warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
        lacking, excess = (line for line in warnings if f"{NAME}.pt" in line)
        assert f"{NAME}.pt lacks 1 of 1,156 weights: {LACKING}; they have initial values" in lacking
        assert f"{NAME}.pt has 1 in excess: {EXCESS}; the model does not use them" in excess
        for name in ("tiny", "less"):
            noted = [text for text in report_of(out, name)["warnings"] if f"{NAME}.pt" in text]
            assert noted == [line[9:] for line in (lacking, excess)]
    assert predictions(tmp_path / "named") == predictions(tmp_path / "auto") != {}


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
