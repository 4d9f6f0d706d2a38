"""What Protenix loads although names differ is loaded, and said; what it lacks is as Protenix makes it."""

import copy
import random

import numpy as np
import pytest
import torch
from configs.configs_model_type import model_configs

from flashbias_fold.errors import SetupError
from flashbias_fold.pairformer import Plan
from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.engine import Engine
from flashbias_fold.protenix_adapter.initial_weights import uninitialised
from flashbias_fold.protenix_adapter.models import DEMO, Model, architecture, build_config

# By the kind of first values: drawn, zero, one, fixed by Protenix whatever the seed.
DRAWN = "pairformer_stack.blocks.0.tri_att_start.linear.weight"
ZERO, ONE = "linear_no_bias_z_cycle.weight", "layernorm_z_cycle.weight"
FIXED = "diffusion_module.diffusion_conditioning.fourier_embedding.w"
LACKING = (DRAWN, ZERO, ONE, FIXED)
EXCESS = ("distogram_head.old.weight", "ema.decay")
# What only models of these kinds have: training of a base model's weights went on with them.
OWN = {
    "protenix_base_constraint_v0.5.0": "constraint_embedder.pocket_z_embedder.weight",
    "protenix_mini_esm_v0.5.0": "input_embedder.linear_esm.weight",
    "protenix_mini_ism_v0.5.0": "input_embedder.linear_esm.weight",
}
LENIENT = [name for name, overrides in model_configs.items() if not overrides.get("load_strict", True)]


def of_one_block(name, path):
    """A model of the same kind, with one block where there are many."""
    overrides = copy.deepcopy(dict(architecture(name).overrides))
    for stack in ("pairformer", "msa_module", "confidence_head", "diffusion_module.transformer"):
        settings = overrides.setdefault("model", {})
        for part in stack.split("."):
            settings = settings.setdefault(part, {})
        settings["n_blocks"] = 1
    return Model(name, overrides, path)


def network_of(model):
    environment.prepare()
    from protenix.model.protenix import Protenix

    with environment.swallow_stdout(), uninitialised():
        return Protenix(build_config(model))


def checkpoint_of(model, *, lacking=(), excess=(), reshaped=(), prefix=""):
    """A file of this model's weights, each of one value, which takes no room; its values by name."""
    state = {name: value.shape for name, value in network_of(model).state_dict().items()}
    state |= dict.fromkeys(excess, torch.Size([3])) | dict.fromkeys(reshaped, torch.Size([3, 5]))
    values = {
        name: torch.tensor((index % 97 - 48) / 100).expand(shape)
        for index, (name, shape) in enumerate(state.items())
        if name not in lacking
    }
    torch.save({"model": {prefix + name: value for name, value in values.items()}}, model.checkpoint)
    return values


def load(model):
    return Engine(model, Plan.for_bias("stock"), device=torch.device("cpu"), dtype="fp32", samples=1)


def test_the_models_that_protenix_loads_so_are_these():
    assert set(OWN) < set(LENIENT)
    assert {"protenix_tiny_default_v0.5.0", "protenix_mini_default_v0.5.0"} < set(LENIENT)
    assert "protenix_base_default_v1.0.0" not in LENIENT


@pytest.mark.parametrize("name", LENIENT)
def test_what_the_file_lacks_is_as_protenix_makes_it_and_said(name, tmp_path):
    model = of_one_block(name, tmp_path / "weights.pt")
    lacking = (*LACKING, *([OWN[name]] if name in OWN else []))
    values = checkpoint_of(model, lacking=lacking, excess=EXCESS, prefix="module.")
    engine = load(model)
    loaded = engine.network.state_dict()
    assert all(torch.equal(loaded[key], values[key]) for key in loaded.keys() - set(lacking))
    drawn = loaded[DRAWN]  # Protenix's are normal, cut off at two deviations; torch's own would be uniform
    assert 0.8 < float(drawn.std()) * drawn.shape[-1] ** 0.5 < 1.2
    assert float(drawn.abs().max()) * drawn.shape[-1] ** 0.5 < 2.3
    assert (loaded[ZERO] == 0).all() and (loaded[ONE] == 1).all()
    assert torch.equal(loaded[FIXED], network_of(model).state_dict()[FIXED])
    if name in OWN:
        assert (loaded[OWN[name]] == 0).all()
    first, second, third = sorted(lacking)[:3]
    assert engine.load_warnings == [
        f"weights.pt lacks {len(lacking)} of {len(loaded):,} weights: {first}, {second}, {third} and "
        f"{len(lacking) - 3} more; they have initial values, which nothing has trained",
        f"weights.pt has 2 in excess: {', '.join(EXCESS)}; the model does not use them",
    ]


def states():
    """Return the states of all generators that a prediction draws from."""
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_first_values_are_the_same_each_time_and_no_generator_notices(tmp_path):
    model = of_one_block(LENIENT[-1], tmp_path / "weights.pt")
    checkpoint_of(model, lacking=LACKING)
    before = states()
    one = load(model).network.state_dict()
    assert states() == before
    random.random(), np.random.rand(), torch.rand(1)
    other = load(model).network.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_file_that_fits_is_loaded_without_a_word(tmp_path):
    model = of_one_block(LENIENT[-1], tmp_path / "weights.pt")
    checkpoint_of(model)
    assert load(model).load_warnings == []


def refusal(model):
    with pytest.raises(SetupError) as refused:
        load(model)
    return str(refused.value)


def test_another_shape_is_refused_as_by_protenix(tmp_path):
    model = of_one_block(LENIENT[-1], tmp_path / "weights.pt")
    values = checkpoint_of(model, lacking=[ZERO], reshaped=[DRAWN])
    assert f"it has in another shape {DRAWN} (3, 5) for " in refusal(model)
    with pytest.raises(RuntimeError, match="size mismatch"):
        network_of(model).load_state_dict(values, strict=False)


def test_a_file_of_which_nothing_fits_is_refused(tmp_path):
    model = of_one_block(LENIENT[-1], tmp_path / "weights.pt")
    for state in ({}, {"layer.weight": torch.zeros(3)}):
        torch.save({"model": state}, model.checkpoint)
        assert "weights.pt is not of this model: it lacks " in refusal(model)


def test_where_protenix_is_strict_a_lacking_or_needless_weight_is_refused(tmp_path):
    model = of_one_block(DEMO, tmp_path / "weights.pt")
    checkpoint_of(model, lacking=[DRAWN])
    assert refusal(model).endswith(f"is not of this model: it lacks {DRAWN}")
    checkpoint_of(model, excess=EXCESS)
    assert refusal(model).endswith(f"is not of this model: it has in excess {', '.join(EXCESS)}")
