"""Factors that are right where it matters, and what softmax makes of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbias_fold.factorize import decompose, refit


def attention(seed=0, rows=40, heads=2, length=60, peaked=3.0):
    """Scores of several rows that share a bias, the bias, and how much the rows look at each pair."""
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    own = normal(rows, heads, length, 8) @ normal(rows, heads, 8, length) / 8
    bias = peaked * (normal(heads, length, 4) @ normal(heads, 4, length) / 2 + normal(heads, length, length))
    return own, bias, (own + bias).softmax(-1)


def output_error(own, bias, factors):
    """Relative, of what attention makes of values, in float64."""
    values = torch.randn(
        own.shape[0], own.shape[1], own.shape[3], 16, generator=torch.Generator().manual_seed(9)
    )
    values, own = values.double(), own.double()
    exact = (own + bias.double()).softmax(-1) @ values
    found = (own + factors.q.double() @ factors.k.double().transpose(-1, -2)).softmax(-1) @ values
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("rank", [8, 16, 32])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_output_is_nearer_than_with_the_best_by_norm(rank, seed):
    own, bias, weights = attention(seed)
    plain = decompose(bias, rank).factors
    all_rows, some_rows = (refit(bias, w.mean(0), plain) for w in (weights, weights[::5]))
    before = output_error(own, bias, plain)
    assert output_error(own, bias, all_rows) < 0.75 * before
    assert output_error(own, bias, some_rows) < 0.85 * before


def test_even_weights_give_the_best_by_norm():
    _, bias, _ = attention()
    plain = decompose(bias, 16).factors
    even = refit(bias, torch.ones_like(bias), plain)
    torch.testing.assert_close(even.error, plain.error, rtol=0.02, atol=0.0)


def test_the_error_is_that_of_the_weights():
    _, bias, weights = attention()
    weights = weights.mean(0)
    factors = refit(bias, weights, decompose(bias, 16).factors)
    rest = bias.double() - factors.product().double()
    weights = weights.double() / weights.double().sum(-1, keepdim=True)
    # Around the constant of each row that the weights like best, and with each pair's least weight.
    weights = weights + 0.05 / weights.shape[-1]
    rest = rest - (weights * rest).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True)
    expected = ((weights * rest.square()).sum((-1, -2)) / weights.sum((-1, -2))).sqrt().float()
    torch.testing.assert_close(factors.error, expected, rtol=0.05, atol=0.0)
    assert (factors.error >= 0.999 * expected).all()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_nothing_becomes_nan(data):
    some = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731
    heads, queries, keys, rank = some(1, 3), some(1, 2, 7, 40), some(1, 2, 7, 40), some(1, 4, 33)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    bias = torch.randn(heads, queries, keys, generator=generator) * some(0.0, 1e-20, 1.0, 1e4)
    if some(True, False):
        bias = bias[..., :1].expand(-1, -1, keys) * 1.0
    weights = torch.rand(bias.shape, generator=generator)
    weights = some(
        weights, torch.zeros_like(weights), weights**40, torch.eye(queries, keys).expand_as(weights)
    )
    mask = some(torch.ones(keys, dtype=torch.bool), torch.arange(keys) < keys // 2)
    found = refit(bias, weights * mask, decompose(bias, rank, key_mask=mask).factors)
    for tensor in (found.q, found.k, found.error):
        assert torch.isfinite(tensor).all()


def test_keys_that_do_not_count_take_no_channel():
    own, bias, _ = attention()
    mask = torch.arange(60) % 4 > 0
    wild = torch.where(mask, bias, 1e4)
    weights = (own + wild).masked_fill(~mask, float("-inf")).softmax(-1).mean(0)
    found = refit(wild, weights, decompose(wild, 16, key_mask=mask).factors)
    plain = refit(bias, weights, decompose(bias, 16, key_mask=mask).factors)
    torch.testing.assert_close(found.product()[..., mask], plain.product()[..., mask], rtol=1e-3, atol=1e-2)


def test_what_cannot_be_factored_still_says_so():
    _, bias, weights = attention()
    bias[1, 3, 4] = float("nan")
    found = refit(bias.nan_to_num(), weights.mean(0), decompose(bias, 8).factors)
    assert found.error.isinf().tolist() == [False, True]


def test_autocast_takes_no_digits():
    _, bias, weights = attention()
    plain = decompose(bias, 8).factors
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = refit(bias, weights.mean(0), plain)
    assert torch.equal(inside.k, refit(bias, weights.mean(0), plain).k)
