"""Biases in closed form, and tables: the dense bias up to a constant of each row, with a true error."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbias_fold.factorize import alibi, constant, squared_distance
from flashbias_kernels import biased_attention, reference_attention

# Relative, what the dtype loses: in 16 bit the queries, the weights and the output are rounded.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
SIZES = [(1, 1), (7, 7), (33, 65), (65, 33), (1, 40), (40, 1)]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rms(values):
    return float(values.double().square().mean().sqrt())


def lacking(bias, factors):
    """The error that the factors have, from its definition in float64."""
    rest = bias.double() - factors.q.double() @ factors.k.double().transpose(-1, -2)
    rest = rest - rest.mean(-1, keepdim=True)
    return rest.square().mean((-1, -2)).sqrt()


def assert_true_error(bias, factors, rtol=0.05):
    """As large as it is said to be; where nothing is lacking, not above the rounding of float64."""
    assert factors.error.shape == bias.shape[:-2]
    assert factors.error.dtype == torch.float32
    floor = 1e-14 * float(bias.double().abs().max())
    torch.testing.assert_close(factors.error.double(), lacking(bias, factors), rtol=rtol, atol=floor)


def assert_shapes(factors, leading, queries, keys, rank):
    assert factors.rank == rank
    assert factors.q.shape == (*leading, queries, rank)
    assert factors.k.shape == (*leading, keys, rank)
    assert factors.q.dtype == factors.k.dtype == torch.float32


def dense_alibi(slopes, queries, keys):
    far = torch.arange(keys).double() - torch.arange(queries).double()[:, None]
    return slopes.double()[..., None, None] * far


def dense_distance(x, y, weight):
    """Without a square root: the difference of each pair, squared."""
    apart = (x.double().unsqueeze(-2) - y.double().unsqueeze(-3)).square().sum(-1)
    return -weight.double()[..., None, None] * apart.unsqueeze(-3)


def assert_same_attention(bias, factors, dtype, leading=()):
    heads, queries, keys = bias.shape[-3:]
    q = normal(*leading, heads, queries, 16, seed=1, dtype=dtype)
    k, v = (normal(*leading, heads, keys, 16, seed=seed, dtype=dtype) for seed in (2, 3))
    found = biased_attention(q, k, v, q_factor=factors.q, k_factor=factors.k)
    right = reference_attention(q, k, v, bias=bias)
    assert found.dtype == dtype
    assert rms(found.double() - right) <= TOLERANCE[dtype] * rms(right)


# ALiBi


@pytest.mark.parametrize(("queries", "keys"), SIZES)
def test_alibi_is_exact(queries, keys):
    """Whatever the slope: the rounded part of a query is a constant of its row."""
    slopes = torch.tensor([0.5, 0.1, 1 / 3])
    factors, bias = alibi(slopes, queries, keys), dense_alibi(slopes, queries, keys)
    assert_shapes(factors, (3,), queries, keys, 2)
    assert factors.error.tolist() == [0.0] * 3
    assert_true_error(bias, factors)
    torch.testing.assert_close(factors.bias().double(), bias, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_attention_with_alibi(dtype):
    slopes = 2.0 ** -torch.arange(1.0, 5.0)
    assert_same_attention(dense_alibi(slopes, 45, 61), alibi(slopes, 45, 61), dtype)


def test_alibi_far_into_a_text():
    """Positions are numbers of float32 and no longer of 16 bit."""
    slopes = torch.tensor([2.0**-8])
    factors = alibi(slopes.half(), 3, 70_001)
    assert_true_error(dense_alibi(slopes, 3, 70_001), factors)
    assert factors.error.item() == 0.0


def test_slopes_of_a_batch():
    slopes = torch.rand(5, 2, generator=torch.Generator().manual_seed(0))
    factors = alibi(slopes, 9, 11)
    assert_shapes(factors, (5, 2), 9, 11, 2)
    bias = dense_alibi(slopes, 9, 11)
    assert_true_error(bias, factors)
    assert_same_attention(bias, factors, torch.float32, leading=(5,))


@pytest.mark.parametrize("keys", [2, 300])
def test_slopes_that_float32_does_not_have(keys):
    slopes = torch.tensor([1 / 3, 0.25], dtype=torch.float64)
    factors = alibi(slopes, 50, keys)
    assert factors.error[0] > 0
    assert factors.error[1] == 0
    assert_true_error(dense_alibi(slopes, 50, keys), factors, rtol=1e-3)


# Squared distances


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
@pytest.mark.parametrize(("queries", "keys"), SIZES)
def test_squared_distances(dim, queries, keys):
    x, y, weight = normal(queries, dim), normal(keys, dim, seed=1), torch.tensor([0.01, 1.0, -2.0])
    factors, bias = squared_distance(x, y, weight), dense_distance(x, y, weight)
    assert_shapes(factors, (3,), queries, keys, dim + 2)
    assert_true_error(bias, factors)
    torch.testing.assert_close(factors.bias().double(), bias, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("leading", [(2,), (2, 3)])
def test_points_and_weights_of_a_batch(leading):
    x, y = normal(*leading, 14, 3), normal(*leading, 17, 3, seed=1)
    weight = torch.rand(*leading, 4, generator=torch.Generator().manual_seed(0))
    factors, bias = squared_distance(x, y, weight), dense_distance(x, y, weight)
    assert_shapes(factors, (*leading, 4), 14, 17, 5)
    assert_true_error(bias, factors)
    assert_same_attention(bias, factors, torch.float32, leading)
    shared = squared_distance(x, y, weight.reshape(-1, 4)[0])
    first = (0,) * len(leading)
    torch.testing.assert_close(shared.bias()[first], factors.bias()[first])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_attention_with_distances(dtype):
    x = 3 * normal(45, 3)
    weight = torch.tensor([0.01, 0.1, 1.0])
    assert_same_attention(dense_distance(x, x, weight), squared_distance(x, x, weight), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_that_are_all_far_away_lose_nothing(dtype):
    """The digits of a place far from the origin are those of its distances."""
    here = 4.0 * torch.arange(-60, 60, dtype=dtype).reshape(40, 3)
    there = here + {torch.float32: 2.0**20, torch.float64: 2.0**40}[dtype]
    weight = torch.tensor([0.1])
    near, far = (squared_distance(points, points, weight) for points in (here, there))
    assert torch.equal(near.q, far.q)
    assert torch.equal(near.error, far.error)
    assert_same_attention(dense_distance(there, there, weight), far, torch.float32)


def test_points_far_from_each_other_say_what_is_lost():
    """Two crowds: float32 has the distance between them, and not the steps within them."""
    x = normal(40, 3)
    errors = []
    for distance in (0.0, 1e2, 1e4, 1e6):
        crowds = x + distance * (torch.arange(40) % 2)[:, None]
        factors, bias = (
            squared_distance(crowds, crowds, torch.ones(1)),
            dense_distance(crowds, crowds, torch.ones(1)),
        )
        assert_true_error(bias, factors)
        errors.append(factors.error.item())
    assert errors == sorted(errors)
    assert errors[0] < 1e-5
    assert errors[-1] > 1e3


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_the_error_of_distances_is_true(data):
    some = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731
    queries, keys, dim, seed = some(1, 2, 19), some(1, 2, 23), some(1, 3), data.draw(st.integers(0, 99))
    dtype = some(torch.float32, torch.float64, torch.bfloat16)
    x = (some(1e-6, 1.0, 1e5) * normal(queries, dim, seed=seed) + some(0.0, -300.0)).to(dtype)
    y = (some(0.0, 1.0, 1e5) * normal(keys, dim, seed=seed + 1) + some(0.0, 1e7)).to(dtype)
    weight = normal(2, seed=seed + 2) * some(0.0, 1e-3, 1e3)
    factors, bias = squared_distance(x, y, weight), dense_distance(x, y, weight)
    said, true = factors.error.double(), lacking(bias, factors)
    # What float64 itself takes from numbers as large as the parts of the bias.
    size = float(weight.abs().max()) * (
        float((x.double() - y.double().mean(0)).square().sum(-1).max()) + 1e-9
    )
    floor = 1e-14 * (size + float(bias.abs().max()))
    torch.testing.assert_close(said, true, rtol=0.05, atol=floor + 1e-30)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), shift=st.sampled_from([0.0, 1.0, -1e3]))
def test_distances_do_not_depend_on_order_or_place(seed, shift):
    x, weight = normal(30, 3, seed=seed, dtype=torch.float32), torch.tensor([0.3, 1.0])
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    there = squared_distance(x, x, weight).bias()[:, order][:, :, order]
    moved = squared_distance((x + shift)[order], (x + shift)[order], weight).bias()
    assert (there - moved).abs().max() <= 1e-4 * (1 + abs(shift))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e25])
def test_what_float32_has_no_room_for_says_so(value):
    x = normal(6, 3)
    x[2, 1] = value
    assert squared_distance(x, x, torch.ones(2)).error.isinf().all()
    assert alibi(torch.tensor([1.0, value * 1e20]), 4, 4).error.isinf().tolist() == [False, True]


# Tables


def best(bias, rank):
    """What the best product of a rank lacks, by head."""
    values = torch.linalg.svdvals(bias.double() - bias.double().mean(-1, keepdim=True))
    return values[..., rank:].square().sum(-1).sqrt() / math.sqrt(bias.shape[-1] * bias.shape[-2])


def falling(heads, queries, keys, seed=0):
    """A table whose singular values fall by a third each."""
    count = min(queries, keys)
    left, right = normal(heads, queries, count, seed=seed), normal(heads, keys, count, seed=seed + 1)
    values = (2 / 3) ** torch.arange(count).double()
    return torch.linalg.qr(left)[0] * values @ torch.linalg.qr(right)[0].transpose(-1, -2)


@pytest.mark.parametrize(("queries", "keys"), [(16, 16), (37, 20), (20, 37)])
@pytest.mark.parametrize("rank", [1, 4, 15])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_table_of_a_rank_is_the_best_there_is(queries, keys, rank, dtype):
    bias = (falling(3, queries, keys) + 5 * normal(3, queries, 1)).to(dtype)
    factors = constant(bias, rank)
    assert_shapes(factors, (3,), queries, keys, rank)
    assert factors.ranks is None
    assert_true_error(bias, factors, rtol=1e-3)
    torch.testing.assert_close(factors.error.double(), best(bias, rank), rtol=1e-3, atol=1e-7)


def test_by_default_nothing_is_lost():
    bias = normal(2, 30, 24)
    factors = constant(bias)
    assert factors.rank == 23  # around the rows' means there are no more
    assert_true_error(bias, factors)
    assert (factors.error <= 1e-6).all()
    assert_same_attention(bias, factors, torch.float32)
    few = constant(normal(2, 30, 4) @ normal(2, 4, 24, seed=1))
    assert few.ranks.tolist() == [4, 4]


def test_more_channels_than_there_are_change_nothing():
    bias = normal(2, 9, 7)
    assert_shapes(constant(bias, 100), (2,), 9, 7, 7)


@pytest.mark.parametrize("tolerance", [0.5, 0.1, 1e-2, 1e-4])
def test_a_tolerance_takes_the_least_that_is_enough(tolerance):
    bias = torch.cat([falling(2, 40, 40), normal(1, 40, 40, seed=3), falling(1, 40, 40, seed=5) ** 3])
    factors = constant(bias, tolerance=tolerance)
    norm = rms_of_rows(bias)
    assert (factors.error <= tolerance * norm * (1 + 1e-6)).all()
    assert factors.rank == factors.ranks.max()
    for head, rank in enumerate(factors.ranks.tolist()):
        assert best(bias[head], rank) <= tolerance * norm[head] * (1 + 1e-9)
        assert rank == 1 or best(bias[head], rank - 1) > tolerance * norm[head]
        assert (factors.q[head, :, rank:] == 0).all()
    assert_true_error(bias, factors, rtol=1e-3)


def rms_of_rows(bias):
    return best(bias, 0)


def test_a_rank_bounds_what_a_tolerance_takes():
    bias = torch.cat([normal(1, 40, 40), falling(1, 40, 40)])
    factors = constant(bias, rank=8, tolerance=0.2)
    assert factors.ranks[0] == 8
    assert factors.ranks[1] < 8
    assert_true_error(bias, factors, rtol=1e-3)


def test_tables_that_share_a_head_share_its_rank():
    bias = torch.stack([normal(2, 20, 3) @ normal(2, 3, 20, seed=1), normal(2, 20, 20)])
    factors = constant(bias)
    assert factors.ranks.tolist() == [19, 19]
    assert_shapes(factors, (2, 2), 20, 20, 19)
    assert_true_error(bias, factors)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_attention_with_a_window_s_table(dtype):
    """As in Swin-V2: a bias for each offset within a window of 6 x 6, the same for all windows."""
    window, heads = 6, 3
    place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    offset = place[:, None] - place + window - 1
    learnt = normal(heads, 2 * window - 1, 2 * window - 1)
    bias = learnt[:, offset[..., 0], offset[..., 1]]
    assert_same_attention(bias, constant(bias), dtype, leading=(4,))
    ranks = constant(bias, tolerance=0.01).ranks
    q, k, v = (normal(heads, 36, 16, seed=seed, dtype=torch.float32) for seed in range(3))
    few = constant(bias, tolerance=0.01)
    counted = biased_attention(q, k, v, q_factor=few.q, k_factor=few.k, ranks=ranks)
    torch.testing.assert_close(counted, biased_attention(q, k, v, q_factor=few.q, k_factor=few.k))


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_table_has_factors(data):
    some = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731
    heads, queries, keys = some(1, 3), some(1, 2, 7, 30), some(1, 2, 7, 30)
    noise = normal(heads, queries, keys, seed=data.draw(st.integers(0, 99)))
    kind = some("zero", "constant", "of rows", "of columns", "rank 1", "one entry", "noise")
    bias = {
        "zero": torch.zeros_like(noise),
        "constant": torch.full_like(noise, -3.7),
        "of rows": noise[..., :1].expand_as(noise),
        "of columns": noise[..., :1, :].expand_as(noise),
        "rank 1": noise[..., :1] * noise[..., :1, :],
        "one entry": torch.zeros_like(noise).index_put_((torch.tensor(0),) * 3, torch.tensor(1.0).double()),
        "noise": noise,
    }[kind]
    bias = bias * some(1e-30, 1.0, 1e4, 1e30)
    if some(True, False):
        bias = bias.float()
    factors = constant(bias, some(None, 1, 5), some(None, 0.3, 1e-3))
    for tensor in (factors.q, factors.k, factors.error):
        assert tensor.isfinite().all()
    assert_true_error(bias, factors, rtol=1e-3)
    if kind in ("zero", "constant", "of rows", "of columns", "rank 1", "one entry"):
        assert factors.rank == 1 or factors.ranks is None
        assert (factors.error <= 1e-6 * bias.abs().max()).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_head_that_is_not_finite_says_so(value):
    bias = normal(3, 8, 8)
    bias[1, 2, 3] = value
    factors = constant(bias)
    assert factors.error.isinf().tolist() == [False, True, False]
    assert factors.q.isfinite().all()
    torch.testing.assert_close(factors.bias()[2].double(), constant(bias[2:]).bias()[0].double())


def test_autocast_takes_no_digits():
    bias, points, weight = normal(2, 20, 20), normal(20, 3), torch.ones(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = constant(bias, 4), squared_distance(points, points, weight), alibi(weight, 9, 9)
    outside = constant(bias, 4), squared_distance(points, points, weight), alibi(weight, 9, 9)
    for one, other in zip(inside, outside, strict=True):
        assert torch.equal(one.q, other.q)
        assert torch.equal(one.k, other.k)
        assert torch.equal(one.error, other.error)
