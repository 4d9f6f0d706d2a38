"""Weights from disk: what is loaded is all of the model, and what is refused is refused in one clear line."""

import argparse
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flashbias_fold.checksum import keep, sidecar
from flashbias_fold.errors import SetupError
from flashbias_fold.pairformer import Plan
from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.checkpoints import load_weights
from flashbias_fold.protenix_adapter.engine import Engine
from flashbias_fold.protenix_adapter.models import Model


def small_model():
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2, bias=False))


@pytest.fixture
def model():
    return small_model()


@pytest.fixture
def weights():
    """The state of another model of the same make."""
    return small_model().state_dict()


def with_prefix(state):
    return {f"module.{name}": value for name, value in state.items()}


def assert_holds(model, weights):
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name].to(value.dtype)), name


def refusal(model, path, **options):
    """The line that says why the file is refused; nothing of it may be in the model."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(SetupError) as refused:
        load_weights(model, path, **options)
    assert_holds(model, before)
    line = str(refused.value)
    assert line.startswith(str(path)) and "\n" not in line and len(line) < len(str(path)) + 250
    return line.removeprefix(str(path)).strip()


@pytest.mark.parametrize("dress", [dict, with_prefix], ids=["plain", "wrapped"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_checkpoint_of_protenix_is_loaded(model, weights, tmp_path, dress, zipped):
    path = tmp_path / "model.pt"
    torch.save({"model": dress(weights)}, path, _use_new_zipfile_serialization=zipped)
    load_weights(model, path)
    assert_holds(model, weights)


@pytest.mark.parametrize("dress", [dict, with_prefix], ids=["plain", "wrapped"])
def test_a_safetensors_file_is_loaded(model, weights, tmp_path, dress):
    path = tmp_path / "model.safetensors"
    save_file(dress(weights), path)
    load_weights(model, path)
    assert_holds(model, weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_stored_in_16_bit_are_loaded_into_fp32(model, weights, tmp_path, dtype, suffix):
    path = tmp_path / f"model{suffix}"
    weights = {name: value.to(dtype) for name, value in weights.items()}
    if suffix == ".pt":
        torch.save({"model": weights}, path)
    else:
        save_file(weights, path)
    load_weights(model, path)
    assert_holds(model, weights)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_a_loaded_model_needs_the_file_no_more(model, weights, tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"model": weights}, path)
    load_weights(model, path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert_holds(model, weights)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_of_another_model_are_refused_by_name(model, weights, tmp_path, suffix):
    def write(state):
        path = tmp_path / f"model{suffix}"
        if suffix == ".pt":
            torch.save({"model": state}, path)
        else:
            save_file(state, path)
        return path

    lacking = {name: value for name, value in weights.items() if name != "2.weight"}
    assert refusal(model, write(lacking)) == "is not of this model: it lacks 2.weight"
    excess = {**weights, "3.weight": torch.zeros(1)}
    assert refusal(model, write(excess)) == "is not of this model: it has in excess 3.weight"
    reshaped = {**weights, "0.weight": torch.zeros(4, 5)}
    assert refusal(model, write(reshaped)) == (
        "is not of this model: it has in another shape 0.weight (4, 5) for (4, 3)"
    )
    other = {f"layer{index}": torch.zeros(1) for index in range(9)}
    assert refusal(model, write(other)) == (
        "is not of this model: it lacks 0.bias, 0.weight, 1.bias and 2 more; "
        "it has in excess layer0, layer1, layer2 and 6 more"
    )


class Trap:
    """An object that, when it is unpickled, makes a folder: it could as well do anything else."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_checkpoint_that_holds_more_than_tensors_is_not_opened(model, weights, tmp_path):
    path, sprung = tmp_path / "model.pt", tmp_path / "sprung"
    torch.save({"model": weights, "extra": Trap(sprung)}, path)
    line = refusal(model, path)
    assert line.startswith("holds more than tensors (posix.mkdir) and was not opened")
    assert "--trust-checkpoint" in line
    assert not sprung.exists()


def test_a_trusted_checkpoint_is_opened_whatever_it_holds(model, weights, tmp_path):
    path, sprung = tmp_path / "model.pt", tmp_path / "sprung"
    torch.save({"model": weights, "extra": Trap(sprung)}, path)
    load_weights(model, path, trust=True)
    assert_holds(model, weights)
    assert sprung.exists()


def test_a_pickle_that_is_no_checkpoint_is_not_executed(model, tmp_path):
    path, sprung = tmp_path / "model.pt", tmp_path / "sprung"
    path.write_bytes(pickle.dumps({"model": Trap(sprung)}, protocol=2))
    refusal(model, path)
    assert not sprung.exists()


def test_the_arguments_of_a_training_run_are_no_reason_to_refuse(model, weights, tmp_path):
    """Protenix puts argparse.Namespace on torch's list of harmless classes, for the weights of ESM."""
    environment.prepare()
    path = tmp_path / "model.pt"
    torch.save({"model": weights, "args": argparse.Namespace(lr=1.8e-3)}, path)
    load_weights(model, path)
    assert_holds(model, weights)
    # The class is harmless only if what is inside it is looked at like everything else.
    torch.save({"model": weights, "args": argparse.Namespace(trap=Trap(tmp_path / "sprung"))}, path)
    assert "holds more than tensors" in refusal(model, path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("trust", [False, True], ids=["", "trusted"])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda good: good[: len(good) // 2], id="truncated"),
        pytest.param(lambda good: good[:-1], id="one byte short"),
        pytest.param(lambda good: b"", id="empty"),
        pytest.param(lambda good: b"hello world\n", id="text"),
        pytest.param(lambda good: b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>", id="HTML"),
        pytest.param(lambda good: b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", id="XML"),
        pytest.param(lambda good: b"PK\x03\x04" + good[4:99], id="start of a zip"),
        pytest.param(lambda good: bytes(range(256)) * 8, id="bytes"),
    ],
)
def test_a_damaged_file_is_refused_without_the_advice_to_unpickle_it(
    model, weights, tmp_path, content, trust
):
    path = tmp_path / "model.pt"
    torch.save({"model": weights}, path)
    path.write_bytes(content(path.read_bytes()))
    assert refusal(model, path, trust=trust) == "is damaged, or no checkpoint: torch cannot read it"


def test_what_cannot_be_read_at_all_is_refused(model, tmp_path):
    assert refusal(model, tmp_path) == "cannot be read: Is a directory"
    assert refusal(model, tmp_path / "none.pt") == "cannot be read: No such file or directory"


@pytest.mark.parametrize(
    "content",
    [b"", b"<!DOCTYPE html><html></html>", bytes(range(256)), (2**60).to_bytes(8, "little") + b"{}"],
    ids=["empty", "HTML", "bytes", "length beyond the file"],
)
def test_a_damaged_safetensors_file_is_refused(model, tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert refusal(model, path).startswith("is damaged, or no safetensors file: ")


@pytest.mark.parametrize("cut", [1, 100])
def test_a_truncated_safetensors_file_is_refused(model, weights, tmp_path, cut):
    path = tmp_path / "model.safetensors"
    save_file(weights, path)
    path.write_bytes(path.read_bytes()[:-cut])
    assert refusal(model, path).startswith("is damaged, or no safetensors file: ")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda weights: weights, id="bare weights"),
        pytest.param(lambda weights: [weights], id="list"),
        pytest.param(lambda weights: torch.zeros(3), id="tensor"),
        pytest.param(lambda weights: {"model": 3}, id="number"),
        pytest.param(lambda weights: {"model": {"0.weight": "text"}}, id="text for a weight"),
        pytest.param(lambda weights: {"model": {0: torch.zeros(3)}}, id="number for a name"),
    ],
)
def test_a_file_of_another_structure_is_refused(model, weights, tmp_path, content):
    path = tmp_path / "model.pt"
    torch.save(content(weights), path)
    assert refusal(model, path) == (
        "is not a Protenix checkpoint: expected a dictionary with the weights under 'model'"
    )


@pytest.mark.parametrize("value", [torch.zeros(2, 4).to_sparse(), torch.zeros(2, 4, device="meta")])
def test_tensors_that_can_be_no_weights_are_refused(model, weights, tmp_path, value):
    path = tmp_path / "model.pt"
    torch.save({"model": {"2.weight": value, **{k: v for k, v in weights.items() if k != "2.weight"}}}, path)
    with pytest.raises(SetupError, match="holds tensors that can be no weights: sparse, or without data"):
        load_weights(model, path)


@pytest.fixture
def downloaded(random_model, tmp_path):
    """A checkpoint with the checksum that `fetch` keeps beside it."""
    path = tmp_path / "random.pt"
    shutil.copy(random_model.checkpoint, path)
    keep(path, path)
    return Model("random", random_model.overrides, path)


def load(model):
    return Engine(model, Plan.for_bias("stock"), device=torch.device("cpu"), dtype="fp32", samples=1)


def test_an_engine_loads_what_agrees_with_its_checksum(downloaded):
    expected = torch.load(downloaded.checkpoint, weights_only=True)["model"]
    assert_holds(load(downloaded).network, {name.removeprefix("module."): w for name, w in expected.items()})


def test_an_engine_refuses_what_differs_from_its_checksum(downloaded):
    path = downloaded.checkpoint
    content = bytearray(path.read_bytes())
    content[-5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        SetupError, match=rf"{path} is not the file that its checksum {sidecar(path)} was kept"
    ):
        load(downloaded)
