"""Featurising a job: the random numbers of Protenix's own run, one line for an error, nothing left lying."""

import json
import random
import tempfile

import numpy as np
import pytest
import torch
from conftest import protein

from flashbias_fold.errors import JobError, SetupError
from flashbias_fold.protenix_adapter.features import featurize, seed_everything
from flashbias_fold.protenix_adapter.models import Model, build_config, checkpoint_path, find_model

SEQUENCE = "ACDEFGHIKL"
LANGUAGE_MODEL = "esm2_t36_3B_UR50D"


@pytest.fixture
def config():
    return build_config(find_model("demo"))


def job(**fields):
    return protein(sequence=SEQUENCE, **fields)


def next_draws():
    return random.random(), np.random.rand(), torch.rand(1).item()


@pytest.mark.parametrize("seed", [0, 101, 2**32 - 1])
def test_the_generators_are_where_protenix_has_them(components, config, tmp_path, seed):
    """In `runner.inference.infer_predict` the loader is made, the seed is set, the loader is gone through."""
    from protenix.data.inference.infer_dataloader import get_inference_dataloader
    from protenix.utils.seed import seed_everything as protenix_seed_everything

    config.input_json_path = str(tmp_path / "job.json")
    (tmp_path / "job.json").write_text(json.dumps([job()]))
    loader = get_inference_dataloader(configs=config)
    protenix_seed_everything(seed=seed, deterministic=False)
    iter(loader)
    expected = next_draws()
    seed_everything(seed)
    assert next_draws() == expected


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        if isinstance(value, dict):
            assert_same(value, expected[name])
        else:
            assert torch.equal(value, expected[name]), name


def test_features_are_those_that_protenixs_loader_gives(components, config, tmp_path):
    from protenix.data.inference.infer_dataloader import get_inference_dataloader
    from protenix.utils.seed import seed_everything as protenix_seed_everything

    components.install_for(job())
    config.input_json_path = str(tmp_path / "job.json")
    (tmp_path / "job.json").write_text(json.dumps([job()]))
    loader = get_inference_dataloader(configs=config)
    protenix_seed_everything(seed=3, deterministic=False)
    expected = next(iter(loader))[0][0]["input_feature_dict"]
    after = next_draws()
    seed_everything(3)
    features = featurize(job(), config)
    assert next_draws() == after
    assert_same(features.data["input_feature_dict"], expected)
    assert (features.n_token, features.n_atom) == (10, len(features.atom_array))
    assert features.polymer_types == {"1": "polypeptide(L)"}


def test_an_alignment_is_counted(components, config):
    components.install_for(job())
    alone = featurize(job(), config).n_msa
    aligned = featurize(
        job(unpairedMsa=f">query\n{SEQUENCE}\n>a\nACDEFGHIKV\n>b\nACDEFGHIRV\n"), config
    ).n_msa
    assert aligned == alone + 2


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        pytest.param(
            job(unpairedMsaPath="/nowhere/x.a3m"),
            r"FileNotFoundError: \[Errno 2\] No such file or directory: '/nowhere/x.a3m'",
            id="missing file",
        ),
        pytest.param(
            job(unpairedMsa=">query\nACD\n"),
            r"ValueError: MSA query/size mismatch for polypeptide\(L\), falling back to query only\.",
            id="alignment of another chain",
        ),
        pytest.param(
            {"name": "x", "sequences": [{"ligand": {"ligand": "C(((", "count": 1}}]},
            # rdkit's message has several lines; they become one.
            r"Boost\.Python\.ArgumentError: Python argument types in .* did not match C\+\+ signature: .*",
            id="message of several lines",
        ),
        pytest.param({"name": "x"}, "KeyError: 'sequences'", id="message that is only a name"),
    ],
)
def test_an_error_of_the_featuriser_is_one_line_with_its_kind(components, config, document, reason):
    components.install_for(job())
    with pytest.raises(JobError) as failed:
        featurize(document, config)
    assert failed.match(f"^Protenix could not featurise the job: {reason}$")
    assert "\n" not in str(failed.value)
    assert "Traceback (most recent call last)" in str(failed.value.__cause__)


@pytest.fixture
def bystanders(tmp_path, monkeypatch):
    """The working directory and the folder for temporary files, both empty."""
    folders = tmp_path / "working", tmp_path / "temporary"
    for folder in folders:
        folder.mkdir()
    monkeypatch.chdir(folders[0])
    monkeypatch.setattr(tempfile, "tempdir", str(folders[1]))
    return folders


def assert_empty(folders):
    for folder in folders:
        assert not list(folder.iterdir())


def test_nothing_is_left_lying(components, config, bystanders, capfd):
    components.install_for(job())
    featurize(job(), config)
    with pytest.raises(JobError):
        featurize({"name": "x"}, config)
    assert_empty(bystanders)
    assert capfd.readouterr().out == ""


@pytest.fixture
def language_model_config(tmp_path, monkeypatch):
    """The configuration of a model that reads ESM embeddings, and its folder of weights."""
    from configs.configs_model_type import model_configs

    monkeypatch.setenv("PROTENIX_ROOT_DIR", str(tmp_path / "root"))
    (tmp_path / "root" / "checkpoint").mkdir(parents=True)

    def make(name="protenix_mini_esm_v0.5.0"):
        return build_config(
            Model(name, model_configs[name], checkpoint_path(name))
        ), tmp_path / "root" / "checkpoint"

    return make


@pytest.mark.parametrize(
    ("model", "present", "commands"),
    [
        ("protenix_mini_esm_v0.5.0", (), ("", "-contact-regression")),
        ("protenix_base_constraint_v0.5.0", (), ("", "-contact-regression")),
        ("protenix_mini_ism_v0.5.0", (), ("_ism", "_ism-contact-regression")),
        # Each of these alone, or of the other model, would have Protenix download the rest.
        ("protenix_mini_esm_v0.5.0", ("",), ("-contact-regression",)),
        ("protenix_mini_esm_v0.5.0", ("-contact-regression",), ("",)),
        ("protenix_mini_ism_v0.5.0", ("", "-contact-regression"), ("_ism", "_ism-contact-regression")),
    ],
)
def test_missing_weights_of_the_language_model_name_the_commands_that_get_them(
    components, language_model_config, bystanders, model, present, commands
):
    config, folder = language_model_config(model)
    for part in present:
        (folder / f"{LANGUAGE_MODEL}{part}.pt").touch()
    with pytest.raises(SetupError) as refused:
        featurize(job(), config)
    fetch = " && ".join(f"flashbias-fold fetch {LANGUAGE_MODEL}{part}" for part in commands)
    assert str(refused.value) == (
        f"model {model} needs ESM weights, and {folder} lacks some; get them with: {fetch}"
    )
    assert_empty(bystanders)


def test_embeddings_of_the_language_model_are_not_written_into_the_working_directory(
    components, language_model_config, bystanders, monkeypatch
):
    """The language model itself has 3 billion parameters; here it answers with ones."""
    from protenix.data.esm import esm_featurizer

    config, folder = language_model_config()
    for part in ("", "-contact-regression"):
        (folder / f"{LANGUAGE_MODEL}{part}.pt").touch()
    asked = []

    def load(model_name, local_esm_dir):
        asked.append((model_name, local_esm_dir))
        return None, None

    def compute(model_name, model, alphabet, labels, sequences, save_dir, **limits):
        for label, sequence in zip(labels, sequences, strict=True):
            torch.save(torch.ones(len(sequence), 2560), f"{save_dir}/{label}.pt")
        return {}

    monkeypatch.setattr(esm_featurizer, "load_esm_model", load)
    monkeypatch.setattr(esm_featurizer, "compute_ESM_embeddings", compute)
    components.install_for(job())
    features = featurize(job(), config)
    assert asked == [("esm2-3b", str(folder))]
    embedding = features.data["input_feature_dict"]["esm_token_embedding"]
    assert embedding.shape == (10, 2560) and bool((embedding == 1).all())
    assert_empty(bystanders)


def test_rdkits_remarks_stay_off_the_terminal(components, config, capfd):
    """Its force field does not know this iron, which it says by itself on descriptor 2."""
    ferrocene = {"ligand": {"ligand": "C1=CC=C[CH-]1.C1=CC=C[CH-]1.[Fe+2]", "count": 1}}
    document = job()
    document["sequences"].append(ferrocene)
    components.install_for(document)
    assert featurize(document, config).n_token == len(SEQUENCE) + 11
    assert "UFFTYPER" not in capfd.readouterr().err
