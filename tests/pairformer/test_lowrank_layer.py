"""Triangle attention by factors: near the exact bias, honest about how near, and exact where it is not."""

import pytest
import torch

from flashbias_fold.pairformer import Rule, TriangleAttention
from flashbias_fold.protenix_adapter import environment

DENSE = Rule("*", "dense")


@pytest.fixture(scope="module", params=[True, False], ids=["starting", "ending"])
def stock(request):
    environment.prepare()
    from protenix.model.triangular.triangular import TriangleAttention as Stock

    torch.manual_seed(0)
    layer = Stock(c_in=24, c_hidden=32, no_heads=4, starting=request.param).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return layer


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def pair(n, seed=0, rank=6):
    """A pair representation as a model has it: of few directions, and a little of everything."""
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    smooth = torch.einsum("iac,jac->ijc", normal(n, rank, 24), normal(n, rank, 24))
    return smooth / rank**0.5 + 0.1 * normal(n, n, 24)


def lowrank(stock, rank=16, tolerance=1.0, reach=0):
    return TriangleAttention(stock, Rule("*", "lowrank", rank, tolerance, reach))


def relative(a, b):
    return float((a - b).norm() / b.norm())


def test_more_channels_are_nearer(stock):
    x = pair(60)
    exact = TriangleAttention(stock, DENSE)(x)
    errors = [relative(lowrank(stock, rank)(x), exact) for rank in (2, 8, 24, 60)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("n", [2, 3, 15, 16, 17, 33, 61, 90])
@pytest.mark.parametrize(("rank", "reach"), [(1, 0), (16, 0), (40, 0), (4, 3), (16, 16)])
def test_the_error_that_it_states_is_that_of_its_output(stock, n, rank, reach):
    x, layer = pair(n), lowrank(stock, rank, reach=reach)
    error = relative(layer(x), TriangleAttention(stock, DENSE)(x))
    said = layer.report()["certified_error"]
    assert said == pytest.approx(error, rel=0.5, abs=1e-3)
    assert layer.report() == {
        "way": "lowrank", "rank": rank, "reach": reach, "certified_error": said, "fallbacks": 0,
    }  # fmt: skip


def test_more_neighbours_are_nearer(stock):
    x = pair(60)
    exact = TriangleAttention(stock, DENSE)(x)
    errors = [relative(lowrank(stock, 8, reach=reach)(x), exact) for reach in (0, 3, 16, 60)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5


def test_beyond_the_tolerance_the_call_is_exact(stock):
    x = pair(50)
    for tolerance, fallbacks in ((1.0, 0), (1e-6, 3)):
        layer = lowrank(stock, 4, tolerance)
        outputs = [layer(x) for _ in range(3)]
        assert layer.report()["fallbacks"] == fallbacks
        exact = TriangleAttention(stock, DENSE)(x)
        assert all(torch.equal(output, exact) == bool(fallbacks) for output in outputs)
    assert layer.report()["certified_error"] == 0.0


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e6])
def test_no_nan_of_its_own(stock, scale):
    x = pair(40) * scale
    assert torch.isfinite(lowrank(stock)(x)).all()
    same = torch.ones(40, 40, 24)
    assert relative(lowrank(stock)(same), stock(same)) < 1e-4  # a bias that is a constant


def test_a_bias_that_is_not_finite_is_left_to_the_exact_kernel(stock):
    layer, x = lowrank(stock), pair(40)
    x[3, 5] = float("inf")
    layer(x)
    assert layer.report()["fallbacks"] == 1


@pytest.mark.parametrize("reach", [0, 8])
def test_padding_changes_nothing(stock, reach):
    """Rows and keys of padding, in which anything may stand, neither take channels nor count as samples."""
    x, real = pair(64), 41
    mask = torch.zeros(64, 64)
    mask[:real, :real] = 1
    layer, alone = lowrank(stock, reach=reach), lowrank(stock, reach=reach)
    padded = layer(torch.where(mask.bool()[..., None], x, 100 * pair(64, 1)), mask=mask)[:real, :real]
    exact = TriangleAttention(stock, DENSE)(x[:real, :real])
    assert relative(padded, exact) < 1.3 * relative(alone(x[:real, :real]), exact)
    assert layer.report()["certified_error"] == pytest.approx(alone.report()["certified_error"], rel=0.5)


def test_a_mask_of_ones_is_none(stock):
    x = pair(48)
    assert relative(lowrank(stock)(x, mask=torch.ones(48, 48)), lowrank(stock)(x)) < 1e-5


@pytest.mark.parametrize("reach", [0, 8])
def test_later_cycles_start_from_the_last_and_are_as_near(stock, reach):
    layer, drift = lowrank(stock, reach=reach), pair(70, 1)
    for cycle in range(5):
        x = pair(70) + 0.1 * cycle * drift
        exact = TriangleAttention(stock, DENSE)(x)
        cold = relative(lowrank(stock, reach=reach)(x), exact)
        assert relative(layer(x), exact) < 1.1 * cold + 1e-3


def test_nothing_is_left_of_the_last_prediction(stock):
    layer, x = lowrank(stock), pair(50)
    first = layer(x)
    report = layer.report()
    layer(pair(50, 1))
    layer(pair(30, 2))  # of another length
    layer.begin()
    assert torch.equal(layer(x), first)
    assert layer.report() == report


@pytest.mark.parametrize("chunk_size", [7, 33])
def test_chunks_change_nothing(stock, chunk_size):
    x = pair(45)
    layer = lowrank(stock, reach=5)
    assert relative(layer(x, chunk_size=chunk_size), lowrank(stock, reach=5)(x)) < 1e-5


def test_leading_dimensions_have_factors_of_their_own(stock):
    x = torch.stack([pair(30, seed) for seed in range(2)])
    found = lowrank(stock)(x)
    for one in range(2):
        assert relative(found[one], lowrank(stock)(x[one])) < 1e-4


def test_no_random_number_is_drawn(stock):
    before = torch.get_rng_state()
    lowrank(stock)(pair(40))
    assert torch.equal(before, torch.get_rng_state())
