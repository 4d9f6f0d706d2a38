"""The biases of a real model: nearly as well decomposed as can be, at every rank."""

import pytest
import torch
from conftest import SEQUENCE, protein

from flashbias_fold.factorize import decompose
from flashbias_fold.pairformer import Plan
from flashbias_fold.predict.progress import Reporter
from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.components import open_components
from flashbias_fold.protenix_adapter.models import find_model


@pytest.fixture(scope="module")
def biases():
    """Of the demonstration model's triangle attentions, by name, for a protein of 72 residues."""
    environment.prepare()
    from flashbias_fold.protenix_adapter.engine import Engine
    from flashbias_fold.protenix_adapter.watch import triangle_attentions, watched

    job = protein("one", SEQUENCE * 2)
    open_components().install_for(job)
    engine = Engine(
        find_model("demo"),
        Plan.for_bias("dense"),
        device=torch.device("cpu"),
        dtype="fp32",
        samples=1,
        steps=1,
        cycles=2,
    )
    layers, found = triangle_attentions(engine.network), {}

    def see(name, x, mask, tokens):
        found[name] = layers[name].exact_bias(layers[name].rows_of(x, mask)[0]).float()

    with torch.no_grad(), watched(engine.network, see):
        engine.predict(job, 1, Reporter(quiet=True))
    return found


@pytest.mark.parametrize("rank", [1, 4, 13, 32, 48])
def test_the_error_is_at_most_a_tenth_above_the_best(biases, rank):
    assert len(biases) == 12
    for name, bias in biases.items():
        centred = bias.double() - bias.double().mean(-1, keepdim=True)
        lacking = (centred - centred_product(decompose(bias, rank))).norm(dim=(-1, -2))
        best = torch.linalg.svdvals(centred)[..., rank:].norm(dim=-1)
        floor = 1e-5 * centred.norm(dim=(-1, -2))  # of float32
        assert (lacking <= 1.1 * best + floor).all(), name


def centred_product(factors):
    product = factors.q.double() @ factors.k.double().transpose(-1, -2)
    return product - product.mean(-1, keepdim=True)
