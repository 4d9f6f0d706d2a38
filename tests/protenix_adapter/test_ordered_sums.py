"""Sums in a fixed order: the same numbers as Protenix's, and on a GPU the same bytes in every run."""

import pytest
import torch
from conftest import protein
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbias_fold.pairformer import Plan
from flashbias_fold.protenix_adapter.engine import Engine
from flashbias_fold.protenix_adapter.ordered_sums import OrderedSums, sum_rows

CPU = torch.device("cpu")
GPU = torch.device("cuda")


@settings(deadline=None, max_examples=60)
@given(
    index=st.lists(st.integers(0, 12), min_size=1, max_size=80),
    batch=st.sampled_from([(), (1,), (3,), (2, 3)]),
    columns=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_rows_are_summed_where_their_index_says(index, batch, columns, dtype):
    rows = torch.randn(*batch, len(index), columns).to(dtype)
    sums = sum_rows(rows, torch.tensor(index), 13)
    expected = torch.zeros(*batch, 13, columns, dtype=torch.float64)
    for place, target in enumerate(index):
        expected[..., target, :] += rows[..., place, :].double()
    assert sums.dtype == dtype
    bar = {torch.float32: 1e-5, torch.bfloat16: 8e-3}[dtype]  # of a sum of 80 terms; a last rounding
    scale = rows.double().abs().amax() * len(index)
    assert (sums - expected).abs().max() <= bar * scale


def test_the_order_is_that_of_the_rows():
    """In fp32 the sum of these depends on their order, so an equal sum was added in theirs."""
    rows = torch.tensor([1e8, 1.0, -1e8, 1.0, 3.0, 1e-8]).unsqueeze(-1)
    sums = sum_rows(rows, torch.tensor([2, 2, 2, 2, 0, 0]), 3)
    in_order = torch.zeros(())
    for value in rows[:4, 0]:
        in_order = in_order + value
    assert sums[:, 0].tolist() == [3.0, 0.0, in_order.item()]


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
