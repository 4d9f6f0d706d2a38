"""The floor against the figures that were worked out for an H200 by hand."""

import pytest

from flashbias_fold.bench.kernels.floor import Gpu, floor

H200 = Gpu((9, 0), 132, 1.98e9)


def elements_per_second(name, **changes):
    problem = {"tokens": 1000, "heads": 1, "dim": 32, "rank": 0, "backward": False, "bias_bytes": 2} | changes
    return problem["tokens"] ** 3 / (getattr(floor(H200, **problem), name) * 1e-3)


def test_exponentials_are_the_same_for_every_method_and_pass():
    for changes in ({}, {"rank": 96}, {"backward": True}, {"dim": 128}):
        assert elements_per_second("exponential_ms", **changes) == pytest.approx(4.2e12, rel=0.01)


@pytest.mark.parametrize(("rank", "rate"), [(0, 6.2e12), (32, 4.1e12), (96, 2.5e12)])
def test_matrix_work_grows_with_the_rank(rank, rate):
    assert elements_per_second("matrix_ms", rank=rank) == pytest.approx(rate, rel=0.015)


def test_backward_is_five_products_instead_of_two():
    assert elements_per_second("matrix_ms", backward=True) == pytest.approx(6.2e12 * 2 / 5, rel=0.015)


@pytest.mark.parametrize(("width", "rate"), [(2, 2.7e12), (4, 1.4e12)])
def test_a_dense_bias_comes_from_the_cache(width, rate):
    assert elements_per_second("dense_bias_ms", bias_bytes=width) == pytest.approx(rate, rel=0.03)


@pytest.mark.parametrize(("rank", "ms"), [(0, 1.0), (32, 1.0), (96, 1.7)])
def test_the_size_that_all_figures_are_given_for(rank, ms):
    found = floor(H200, tokens=1024, heads=4, dim=32, rank=rank, backward=False, bias_bytes=2)
    assert found.ms == pytest.approx(ms, rel=0.05)
    assert found.ms == max(found.exponential_ms, found.matrix_ms)


@pytest.mark.parametrize("gpu", [None, Gpu((7, 5), 40, 1.6e9)], ids=["a CPU", "rates not known"])
def test_no_floor_is_invented(gpu):
    assert floor(gpu, tokens=64, heads=4, dim=32, rank=0, backward=False, bias_bytes=2) is None
