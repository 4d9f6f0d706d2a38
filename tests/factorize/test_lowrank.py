"""Factors on the fly: nearly the best of their rank, honest about what they lack, finite whatever comes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbias_fold.factorize import decompose

# Of the error that is said, where the factors lack nothing: squares of float32 are taken from each other.
FLOOR = 2e-3


def spectrum(kind, heads, queries, keys, seed=0):
    """A bias whose singular values, around its rows' means, fall as the name says."""
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    if kind == "noise":
        return normal(heads, queries, keys).float()
    count = min(queries, keys - 1)
    ones = torch.ones(heads, keys, 1, dtype=torch.float64)
    left = torch.linalg.qr(normal(heads, queries, count))[0]
    right = torch.linalg.qr(torch.cat([ones, normal(heads, keys, count)], -1))[0][..., 1:]
    place = torch.arange(count, dtype=torch.float64)
    values = {
        "flat": torch.ones_like(place),
        "slow": 1 / (1 + place).sqrt(),
        "fast": 0.8**place,
        "step": torch.where(place < 10, 1.0, 0.1),
        "cliff": torch.where(place < 5, 1.0, 1e-5),
    }[kind]
    return (left * (values * 30) @ right.transpose(-1, -2) + normal(heads, queries, 1)).float()


def lacking(bias, factors, key_mask=None):
    """What the product lacks, up to a constant of each row: the norm, by head, in float64."""
    rest = bias.double() - factors.q.double() @ factors.k.double().transpose(-1, -2)
    if key_mask is not None:
        rest = rest[..., key_mask]
    return (rest - rest.mean(-1, keepdim=True)).flatten(-2).norm(dim=-1)


def best(bias, rank, key_mask=None):
    """What the best product of a rank lacks."""
    kept = bias.double() if key_mask is None else bias.double()[..., key_mask]
    values = torch.linalg.svdvals(kept - kept.mean(-1, keepdim=True))
    return values[..., rank:].norm(dim=-1)


@pytest.mark.parametrize("kind", ["noise", "flat", "slow", "fast", "step", "cliff"])
@pytest.mark.parametrize(("queries", "keys"), [(40, 40), (190, 190), (77, 150), (150, 77)])
@pytest.mark.parametrize("rank", [1, 4, 16, 32])
def test_nearly_the_best_of_the_rank(kind, queries, keys, rank):
    bias = spectrum(kind, 2, queries, keys)
    factors = decompose(bias, rank)
    assert (factors.q.shape, factors.k.shape) == ((2, queries, rank), (2, keys, rank))
    norm = (bias - bias.mean(-1, keepdim=True)).double().flatten(-2).norm(dim=-1)
    assert (lacking(bias, factors) <= 1.1 * best(bias, rank) + 1e-5 * norm).all()
    said = factors.error.double() * math.sqrt(queries * keys)
    torch.testing.assert_close(said, lacking(bias, factors), rtol=2e-3, atol=FLOOR * float(norm.max()))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_softmax_does_not_see_changes_nothing(data):
    some = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731
    bias = spectrum(
        some("fast", "step"), some(1, 3), some(30, 65), some(30, 65), data.draw(st.integers(0, 99))
    )
    rows = torch.randn(*bias.shape[:-1], 1, generator=torch.Generator().manual_seed(1)) * some(1.0, 100.0)
    rank = some(10, 16)
    there, moved = decompose(bias, rank), decompose(bias + rows, rank)
    # Where singular values are alike, rounding decides between products that are equally good.
    difference = (there.bias() - moved.bias()).double().flatten(-2).norm(dim=-1)
    noise = 1e-5 * float((bias.abs() + rows.abs()).max()) * bias[0].numel() ** 0.5
    assert (difference <= 2.2 * best(bias, rank) + noise).all()


@pytest.mark.parametrize("kind", ["fast", "step"])
def test_tokens_in_another_order_give_the_product_in_that_order(kind):
    bias, rank = spectrum(kind, 2, 90, 90), 10
    order = torch.randperm(90, generator=torch.Generator().manual_seed(5))
    there = decompose(bias, rank).bias()[:, order][:, :, order]
    moved = decompose(bias[:, order][:, :, order], rank)
    # Two near-best products differ by no more than what both lack.
    difference = (there - moved.bias()).double().flatten(-2).norm(dim=-1)
    assert (difference <= 2.2 * best(bias, rank)).all()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_nothing_becomes_nan(data):
    some = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731
    heads, queries, keys, rank = some(1, 3), some(1, 2, 7, 40), some(1, 2, 7, 40), some(1, 4, 33)
    normal = spectrum("noise", heads, queries, keys, data.draw(st.integers(0, 99)))
    kind = some("zero", "constant", "of rows", "of columns", "rank 1", "one entry", "noise", "twice")
    bias = {
        "zero": torch.zeros_like(normal),
        "constant": torch.full_like(normal, -3.7),
        "of rows": normal[..., :1].expand_as(normal),
        "of columns": normal[..., :1, :].expand_as(normal),
        "rank 1": normal[..., :1] * normal[..., :1, :],
        "one entry": torch.zeros_like(normal).index_put_((torch.tensor(0),) * 3, torch.tensor(1.0)),
        "noise": normal,
        "twice": torch.cat([normal, normal], -2)[..., ::2, :],
    }[kind]
    bias = bias * some(1e-30, 1.0, 1e4, 1e30)
    mask = some(None, torch.arange(keys) < keys // 2, torch.zeros(keys, dtype=torch.bool))
    factors = decompose(bias, rank, key_mask=mask)
    assert factors.q.shape == (heads, queries, factors.rank)
    assert factors.k.shape == (heads, keys, factors.rank)
    for tensor in (factors.q, factors.k, factors.error):
        assert torch.isfinite(tensor).all(), kind
    if mask is not None:
        assert (factors.k[:, ~mask] == 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_cannot_be_factored_says_so(value):
    bias = spectrum("noise", 3, 20, 20)
    bias[1, 4, 5] = value
    factors = decompose(bias, 4)
    assert factors.error.isinf().tolist() == [False, True, False]
    assert torch.isfinite(factors.q).all()
    assert torch.isfinite(factors.k).all()
    hidden = decompose(bias, 4, key_mask=torch.arange(20) != 5)
    assert torch.isfinite(hidden.error).all()


def test_keys_that_do_not_count_take_no_channel():
    bias, mask = spectrum("fast", 2, 60, 60), torch.arange(60) % 3 > 0
    wild = torch.where(mask, bias, 1e6 * spectrum("noise", 2, 60, 60))
    factors = decompose(wild, 8, key_mask=mask)
    assert (lacking(bias, factors, mask) <= 1.1 * best(bias, 8, mask)).all()
    said = factors.error.double() * math.sqrt(60 * int(mask.sum()))
    torch.testing.assert_close(said, lacking(bias, factors, mask), rtol=2e-3, atol=1e-3)


def test_leading_dimensions_are_their_own():
    bias, mask = spectrum("slow", 6, 50, 50).unflatten(0, (2, 3)), torch.ones(2, 50, dtype=torch.bool)
    mask[1, 30:] = False
    together = decompose(bias, 8, key_mask=mask)
    for one in range(2):
        alone = decompose(bias[one], 8, key_mask=mask[one])
        torch.testing.assert_close(together.bias()[one], alone.bias(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together.error[one], alone.error, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_factors_have_the_dtype_that_is_asked_for(dtype):
    """And stay in its range: their sizes are shared between both sides."""
    bias = 1e3 * spectrum("slow", 2, 70, 70)
    factors = decompose(bias.to(dtype), 16)
    assert factors.q.dtype == factors.k.dtype == dtype
    assert torch.isfinite(factors.k).all()
    exact = decompose(bias.to(dtype), 16, dtype=torch.float32)
    assert exact.q.dtype == torch.float32
    size = exact.bias().abs().max()
    assert (factors.bias() - exact.bias()).abs().max() <= 2**-6 * size


def test_generators_are_left_alone_and_runs_repeat():
    bias = spectrum("noise", 2, 100, 100)
    before = torch.random.get_rng_state()
    one, other = decompose(bias, 8), decompose(bias, 8)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one.q, other.q)
    assert torch.equal(one.k, other.k)


def test_autocast_takes_no_digits():
    bias = spectrum("fast", 2, 60, 60)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = decompose(bias, 16)
    assert torch.equal(inside.k, decompose(bias, 16).k)
