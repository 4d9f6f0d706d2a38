"""The models that can be asked for, and their configurations against those of Protenix's own runner."""

import copy
import hashlib
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flashbias_fold.errors import SetupError, UsageError
from flashbias_fold.pairformer import Plan
from flashbias_fold.protenix_adapter import environment, models
from flashbias_fold.protenix_adapter.engine import Engine
from flashbias_fold.protenix_adapter.models import (
    AUTO,
    DEMO,
    Model,
    architecture,
    build_config,
    checkpoint_path,
    demo_model,
    find_model,
    official_names,
    protenix_root,
)

DEFAULT = "protenix_base_default_v1.0.0"
TINY = "protenix_tiny_default_v0.5.0"


@pytest.fixture
def on_disk(tmp_path, monkeypatch):
    """Pretend that weights of these models are on disk."""
    monkeypatch.setenv("PROTENIX_ROOT_DIR", str(tmp_path))

    def put(*names):
        for name in names:
            checkpoint_path(name).parent.mkdir(exist_ok=True)
            checkpoint_path(name).touch()

    put()
    return put


def test_every_model_of_protenix_can_be_found_and_no_other(on_disk):
    from configs.configs_model_type import model_configs

    on_disk(*model_configs)
    assert sorted(official_names()) == sorted(model_configs)
    for name in model_configs:
        model = find_model(name)
        assert (model.name, model.checkpoint) == (name, checkpoint_path(name))
        assert not model.is_demo and model.banner is None


def test_an_architecture_needs_no_weights(on_disk):
    from configs.configs_model_type import model_configs

    for name in model_configs:
        assert architecture(name) == Model(name, model_configs[name], checkpoint_path(name))
        assert not architecture(name).checkpoint.exists()
    assert architecture(DEMO) == demo_model()
    with pytest.raises(UsageError, match="unknown model 'protenix_v2'; did you mean protenix-v2"):
        architecture("protenix_v2")


def test_auto_takes_the_demonstration_where_no_official_weights_are_and_says_so(on_disk):
    model = find_model(AUTO)
    assert model.is_demo
    assert model.banner.startswith("DEMONSTRATION")


def test_auto_takes_official_weights_that_are_on_disk(on_disk):
    on_disk(TINY)
    model = find_model(AUTO)
    assert model.name == TINY and model.banner is None


def test_auto_prefers_the_model_that_protenix_takes_by_default(on_disk):
    on_disk(*official_names())
    assert find_model(AUTO).name == DEFAULT


def test_auto_takes_neither_a_folder_nor_an_unfinished_download_for_weights(on_disk):
    checkpoint_path(DEFAULT).mkdir(parents=True)
    checkpoint_path(TINY).with_suffix(".pt.partial").touch()
    assert find_model(AUTO).is_demo


def test_the_demonstration_can_be_asked_for_beside_official_weights(on_disk):
    on_disk(DEFAULT)
    assert find_model(DEMO).is_demo


def test_the_banner_says_what_the_demonstration_is_and_what_to_take_instead():
    banner = find_model(DEMO).banner
    assert "not for science" in banner and "memorised" in banner
    assert f"flashbias-fold fetch {DEFAULT}" in banner


@pytest.mark.parametrize("name", [AUTO, DEMO])
def test_a_demonstration_without_its_weights_is_an_incomplete_installation(
    name, on_disk, tmp_path, monkeypatch
):
    monkeypatch.setattr(models, "DEMO_WEIGHTS", "none.safetensors")
    with pytest.raises(
        SetupError, match=r"no weights of demo at .*/data/demo/none\.safetensors; .* incomplete: install it"
    ):
        find_model(name)
    assert build_config(demo_model()).model.N_cycle == 4, "it can be trained again all the same"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("protenix_base_default_v1.0", DEFAULT), ("Demo", DEMO), ("protenix-v3", "protenix-v2")],
)
def test_a_misspelt_name_is_answered_with_the_nearest(wrong, right):
    with pytest.raises(
        UsageError, match=f"unknown model '{wrong}'; did you mean {right}\\? known: auto, demo, "
    ):
        find_model(wrong)


def test_a_name_like_no_other_is_answered_with_all():
    with pytest.raises(UsageError, match=f"unknown model 'esmfold'; known: auto, demo, {DEFAULT}"):
        find_model("esmfold")


def test_missing_weights_name_the_command_that_gets_them(on_disk):
    with pytest.raises(
        SetupError, match=rf"no weights of {TINY} at .*; get them with: flashbias-fold fetch {TINY}"
    ):
        find_model(TINY)


def test_protenix_root_dir_is_followed_also_after_protenix_was_imported(tmp_path, monkeypatch):
    """Protenix's own configuration keeps the value of its import; features and weights must not part ways."""
    build_config(demo_model())
    monkeypatch.setenv("PROTENIX_ROOT_DIR", str(tmp_path))
    assert checkpoint_path("x") == tmp_path / "checkpoint" / "x.pt"
    assert build_config(demo_model()).load_checkpoint_dir == str(tmp_path / "checkpoint")


def test_protenix_root_dir_is_the_home_folder_where_it_is_not_set_or_empty(monkeypatch):
    monkeypatch.setenv("PROTENIX_ROOT_DIR", "")
    assert protenix_root() == Path.home()
    monkeypatch.delenv("PROTENIX_ROOT_DIR")
    assert protenix_root() == Path.home()


def test_a_relative_protenix_root_dir_survives_a_change_of_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROTENIX_ROOT_DIR", "weights")
    config = build_config(demo_model())
    assert config.load_checkpoint_dir == str(tmp_path / "weights" / "checkpoint")


@pytest.mark.parametrize("name", official_names())
def test_the_configuration_is_the_one_that_protenix_runs_with(name, monkeypatch):
    """`runner.inference.run` makes the configuration and hands it to `main`; here it goes no further."""
    environment.prepare()
    from configs.configs_model_type import model_configs
    from runner import inference

    made = []
    for its_own in ("configs_base", "data_configs", "inference_configs"):  # it merges the model into them
        monkeypatch.setattr(inference, its_own, copy.deepcopy(getattr(inference, its_own)))
    monkeypatch.setattr(inference, "main", made.append)
    monkeypatch.setattr(inference, "download_inference_cache", lambda config: None)
    monkeypatch.setattr(sys, "argv", ["inference.py", "--model_name", name])
    with environment.quiet_root_logger():
        inference.run()
    ours = build_config(Model(name, model_configs[name], checkpoint_path(name)))
    assert ours.to_dict() == made[0].to_dict()


def test_making_a_configuration_leaves_those_of_protenix_alone():
    from configs.configs_model_type import model_configs

    before = repr(model_configs)
    config = build_config(Model(TINY, model_configs[TINY], checkpoint_path(TINY)))
    config.model.pairformer.n_blocks = 1
    config.sample_diffusion.N_step = 1
    assert repr(model_configs) == before
    assert build_config(Model(TINY, model_configs[TINY], checkpoint_path(TINY))).sample_diffusion.N_step == 5


@pytest.fixture(scope="module")
def demo():
    """The demonstration model, loaded."""
    return Engine(
        find_model(DEMO), Plan.for_bias("stock"), device=torch.device("cpu"), dtype="fp32", samples=1
    ).network


def test_the_demonstration_is_protenix_made_small(demo):
    from protenix.model.triangular.triangular import TriangleAttention

    parameters = sum(parameter.numel() for parameter in demo.parameters())
    assert 5e6 < parameters < 6.5e6
    assert len(demo.pairformer_stack.blocks) >= 4
    assert len(demo.msa_module.blocks) >= 1
    attentions = [layer for layer in demo.modules() if isinstance(layer, TriangleAttention)]
    assert len(attentions) >= 2 * (4 + 1)
    assert {(layer.no_heads, layer.c_hidden) for layer in attentions} == {(4, 32)}


def test_the_demonstration_has_the_weights_that_ship(demo):
    """All of them, unchanged: whatever a process drew while it built the model is gone."""
    path = find_model(DEMO).checkpoint
    assert path.stat().st_size < 16 * 2**20
    shipped, loaded = load_file(path), demo.state_dict()
    assert shipped.keys() == loaded.keys()
    assert all(value.isfinite().all() for value in shipped.values())
    exact = {name for name, value in shipped.items() if value.dtype != torch.float16}
    assert {"confidence_head.upper_bins", "confidence_head.lower_bins"} < exact and len(exact) == 4
    for name, value in loaded.items():
        assert torch.equal(value, shipped[name].float()), name


def test_weights_are_told_apart_by_their_content_and_large_ones_by_the_checksum_that_is_kept(tmp_path):
    def weights(content, name="w.pt"):
        path = tmp_path / name
        path.write_bytes(content)
        return Model("any", {}, path).weights

    assert weights(b"one") == weights(b"one", "elsewhere.pt") != weights(b"two")
    assert weights(b"one") == f"sha256 {hashlib.sha256(b'one').hexdigest()}"
    large = tmp_path / "large.pt"
    with large.open("wb") as file:
        file.truncate(2**30)  # a hole: no bytes on disk, and too many to be read at every start
    assert Model("any", {}, large).weights == f"{2**30} bytes"
    Path(f"{large}.sha256").write_text("ab" * 32 + "  large.pt\n")
    assert Model("any", {}, large).weights == f"sha256 {'ab' * 32}"
