"""The replacement layer against Protenix's own, with weights that let every part be seen."""

import pytest
import torch

from flashbias_fold.pairformer import Rule, TriangleAttention
from flashbias_fold.protenix_adapter import environment

DENSE, NONE = Rule("*", "dense"), Rule("*", "none")


@pytest.fixture(scope="module")
def stock():
    environment.prepare()
    from protenix.model.triangular.triangular import TriangleAttention as Stock

    torch.manual_seed(0)
    layer = Stock(c_in=24, c_hidden=32, no_heads=4).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return layer


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def pair(n, seed=0, scale=1.0):
    return torch.randn(n, n, 24, generator=torch.Generator().manual_seed(seed)) * scale


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 31, 33, 64, 65])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_dense_is_stock(stock, n, scale):
    x = pair(n, scale=scale)
    assert relative(TriangleAttention(stock, DENSE)(x), stock(x)) < 1e-5


@pytest.mark.parametrize("chunk_size", [1, 7, 16, 33, 100])
@pytest.mark.parametrize("inplace_safe", [False, True])
def test_chunks_change_nothing(stock, chunk_size, inplace_safe):
    x = pair(33)
    kept = x.clone()
    dense = TriangleAttention(stock, DENSE)
    out = dense(x, chunk_size=chunk_size, inplace_safe=inplace_safe)
    assert relative(out, dense(x)) < 1e-6
    assert torch.equal(x, kept), "the input belongs to the caller"


def test_mask_is_that_of_stock(stock):
    x = pair(20)
    mask = torch.ones(20, 20)
    mask[:, 13:] = 0
    assert relative(TriangleAttention(stock, DENSE)(x, mask=mask), stock(x, mask=mask)) < 1e-5


def test_ending_node_is_that_of_stock():
    from protenix.model.triangular.triangular import TriangleAttention as Stock

    torch.manual_seed(1)
    layer = Stock(c_in=24, c_hidden=32, no_heads=4, starting=False).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, mask = pair(19), torch.ones(19, 19)
    mask[15:] = 0
    assert relative(TriangleAttention(layer, DENSE)(x, mask=mask), layer(x, mask=mask)) < 1e-5


def test_a_leading_batch_dimension(stock):
    x = torch.stack([pair(12, seed) for seed in range(3)])
    assert relative(TriangleAttention(stock, DENSE)(x), stock(x)) < 1e-5


def test_without_the_bias_it_is_another_result(stock):
    x = pair(17)
    assert relative(TriangleAttention(stock, NONE)(x), stock(x)) > 1e-2


def test_it_is_equivariant_under_renumbering(stock):
    x = pair(18)
    order = torch.randperm(18, generator=torch.Generator().manual_seed(3))
    dense = TriangleAttention(stock, DENSE)
    assert relative(dense(x[order][:, order]), dense(x)[order][:, order]) < 1e-5


def test_no_random_number_is_drawn(stock):
    before = torch.get_rng_state()
    TriangleAttention(stock, DENSE)(pair(9))
    assert torch.equal(before, torch.get_rng_state())


def test_report_says_what_ran(stock):
    exact = {"way": "dense", "rank": None, "reach": None, "certified_error": 0.0, "fallbacks": 0}
    assert TriangleAttention(stock, DENSE).report() == exact
    assert TriangleAttention(stock, NONE).report()["certified_error"] is None


def test_parameters_keep_their_names(stock):
    assert list(TriangleAttention(stock, DENSE).state_dict()) == list(stock.state_dict())
