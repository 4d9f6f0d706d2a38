"""Factors that are right where it matters, and what softmax makes of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbias_fold.factorize import Factors, decompose, far_alone, refit
from flashbias_fold.factorize.weighted import importance, turn
from flashbias_kernels.band import far


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
    found = (own + factors.bias().double()).softmax(-1) @ values
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("rank", [8, 16, 32])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_output_is_nearer_than_with_the_best_by_norm(rank, seed):
    own, bias, _ = attention(seed)
    plain = decompose(bias, rank)
    assert output_error(own, bias, refit(bias, plain)) < 0.85 * output_error(own, bias, plain)


@pytest.mark.parametrize("rank", [8, 16, 32])
def test_the_bias_tells_where_attention_looks(rank):
    """As well as rows do that were attended, which have scores of their own."""
    own, bias, weights = attention()
    plain = decompose(bias, rank)
    q, k, _ = turn(bias, weights[::5].mean(0) + 0.05 / 60, plain.k)
    by_rows = output_error(own, bias, Factors(q, k, plain.error))
    assert output_error(own, bias, refit(bias, plain)) < 1.1 * by_rows


def test_more_turns_of_nearly_the_same_bias_come_nearer_still():
    _, bias, _ = attention()
    first = refit(bias, decompose(bias, 16))
    again = refit(bias, first)
    assert (again.error < first.error).all()
    moved = bias + 0.05 * attention(1)[1]
    later = refit(moved, first)
    assert (later.error < 1.05 * refit(moved, decompose(moved, 16)).error).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 99), keys=st.integers(1, 40), counted=st.integers(0, 40))
def test_weights_of_a_query_add_up(seed, keys, counted):
    bias = 5 * torch.randn(2, 7, keys, generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(keys) < counted
    weights = importance(bias, mask)
    assert (weights[..., ~mask] == 0).all() and (weights[..., mask] > 0).all()
    expected = 1.05 if mask.any() else 0.0
    torch.testing.assert_close(weights.sum(-1), torch.full((2, 7), expected))
    if mask.all():
        torch.testing.assert_close(weights, importance(bias))


def test_the_error_is_that_of_the_weights():
    _, bias, _ = attention()
    factors = refit(bias, decompose(bias, 16))
    rest = bias.double() - factors.bias().double()
    weights = importance(bias).double()
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
    mask = some(torch.ones(keys, dtype=torch.bool), torch.arange(keys) < keys // 2)
    reach = some(0, 1, 5, 50)
    start = decompose(far_alone(bias, reach, mask), rank, key_mask=mask)
    found = refit(bias, start, mask, reach)
    for tensor in (found.q, found.k, found.error, *([found.band] if reach else [])):
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("reach", [0, 7])
def test_keys_that_do_not_count_take_no_channel(reach):
    _, bias, _ = attention()
    mask = torch.arange(60) % 4 > 0
    wild = torch.where(mask, bias, 1e4)
    found, plain = (
        refit(each, decompose(far_alone(each, reach, mask), 16, key_mask=mask), mask, reach)
        for each in (wild, bias)
    )
    torch.testing.assert_close(found.bias()[..., mask], plain.bias()[..., mask], rtol=1e-3, atol=1e-2)


def toeplitz(heads=2, length=80, seed=0):
    """A bias that says mostly how far apart two places are, with all distances up to 12 told apart."""
    generator = torch.Generator().manual_seed(seed)
    table = 3 * torch.randn(heads, 25, generator=generator)
    steps = (torch.arange(length) - torch.arange(length)[:, None]).clamp(-12, 12) + 12
    smooth = torch.randn(heads, length, 3, generator=generator) @ torch.randn(
        heads, 3, length, generator=generator
    )
    return table[:, steps] + smooth


@pytest.mark.parametrize("reach", [1, 4, 12, 79, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pairs_within_reach_keep_their_bias(reach, dtype):
    """Up to a constant of the query, whatever the rank and however factors are rounded."""
    bias = toeplitz().to(dtype)
    factors = refit(bias, decompose(far_alone(bias, reach), 4), reach=reach)
    assert factors.band.shape == (2, 80, 2 * reach + 1)
    rest = factors.bias().double() - bias.double()
    near = ~far(bias, reach)
    middle = rest.where(near, torch.nan).nanmedian(-1, keepdim=True).values
    assert ((rest - middle).abs()[..., near] <= 2 * torch.finfo(dtype).eps * bias.abs().max()).all()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_factors_of_16_bits_stay_so_under_autocast(device):
    """Which takes sums to 32 on a GPU, where wide factors would cost attention twice its time."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    bias = toeplitz().bfloat16().to(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        factors = refit(bias, decompose(far_alone(bias, 5), 4), reach=5)
    assert {tensor.dtype for tensor in factors.arguments().values()} == {torch.bfloat16}


def test_a_reach_saves_channels_where_neighbours_are_told_apart():
    own, _, _ = attention(length=80)
    bias = toeplitz()
    errors = {}
    for reach in (0, 4, 12):
        factors = refit(bias, decompose(far_alone(bias, reach), 8), reach=reach)
        errors[reach] = output_error(own, bias, factors)
    assert errors[4] < errors[0]
    assert errors[12] < 0.05 * errors[0]  # what is left is smooth, and one number on each side


def test_what_cannot_be_factored_still_says_so():
    _, bias, _ = attention()
    bias[1, 3, 4] = float("nan")
    found = refit(bias.nan_to_num(), decompose(bias, 8))
    assert found.error.isinf().tolist() == [False, True]


def test_autocast_takes_no_digits():
    _, bias, _ = attention()
    plain = decompose(bias, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = refit(bias, plain)
    assert torch.equal(inside.k, refit(bias, plain).k)
