"""Sums in a fixed order: the same numbers as Protenix's, and on a GPU the same bytes in every run."""

import pytest
import torch
from conftest import protein

from flashbias_fold.pairformer import Plan
from flashbias_fold.protenix_adapter.engine import Engine
from flashbias_fold.protenix_adapter.ordered_sums import OrderedSums
from flashbias_kernels import sum_rows

CPU = torch.device("cpu")
GPU = torch.device("cuda")


def test_a_models_atom_encoders_use_it_and_can_be_put_back(random_model, components, monkeypatch):
    job = protein(sequence="MTPAVTTYKL")
    components.install_for(job)
    engine = Engine(
        random_model, Plan.for_bias("stock"), device=CPU, dtype="fp32", samples=2, steps=2, cycles=1
    )
    stock = engine.predict(job, 101).output["coordinate"]
    calls = []
    monkeypatch.setattr(
        "flashbias_fold.protenix_adapter.ordered_sums.sum_rows",
        lambda *args: calls.append(args[0].shape) or sum_rows(*args),
    )
    sums = OrderedSums(engine.network)
    ordered = engine.predict(job, 101).output["coordinate"]
    assert len(calls) == 3  # the input's encoder, and that of each step
    torch.testing.assert_close(ordered, stock, rtol=0, atol=1e-3)
    sums.remove()
    assert torch.equal(engine.predict(job, 101).output["coordinate"], stock)
    assert len(calls) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("graph", ["1", "0"], ids=["recorded", "as ever"])
@pytest.mark.parametrize("bias", ["stock", "dense"])
def test_a_gpu_gives_the_same_bytes_in_every_run(random_model, components, monkeypatch, bias, graph):
    monkeypatch.setenv("FLASHBIAS_FOLD_CUDA_GRAPH", graph)
    job = protein(sequence="MTPAVTTYKLVINGKTLKGETTTKAVDAETAEKAFKQYANDNG" * 3)
    components.install_for(job)
    runs = []
    for _ in range(2):
        engine = Engine(random_model, Plan.for_bias(bias), device=GPU, dtype="bf16", samples=5, steps=40)
        output = engine.predict(job, 101).output
        runs.append([output["coordinate"], output["plddt"], output["pae"]])
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)
