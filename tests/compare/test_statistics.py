"""Intervals, ratios and judgements: against what is known of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbias_fold.compare.statistics import interval, judged, ratio

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)
POSITIVE = st.floats(1e-3, 1e6)
PAIRS = st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=30)


@settings(deadline=None)
@given(NUMBERS, st.floats(-1e3, 1e3))
def test_an_interval_holds_its_mean_and_moves_with_its_numbers(numbers, shift):
    found = interval(numbers)
    assert min(numbers) - 1e-6 <= found.low <= found.mean <= found.high <= max(numbers) + 1e-6
    assert found.n == len(numbers)
    assert interval(numbers) == found  # drawn the same each time
    moved = interval([number + shift for number in numbers])
    close = 1e-9 * (abs(shift) + max(map(abs, numbers)) + 1)
    for end in ("mean", "low", "high"):
        assert getattr(moved, end) == pytest.approx(getattr(found, end) + shift, abs=close)


def test_one_number_is_its_own_interval():
    found = interval([2.5])
    assert (found.mean, found.low, found.high, found.n) == (2.5, 2.5, 2.5, 1)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [interval(rng.normal(3.0, 2.0, size=40)) for _ in range(300)]
    covered = np.mean([one.low <= 3.0 <= one.high for one in found])
    assert 0.90 < covered < 0.99  # of 300; a bootstrap of 40 is a little too narrow


@settings(deadline=None)
@given(PAIRS)
def test_a_ratio_is_one_over_that_of_the_other_way(pairs):
    above, below = zip(*pairs, strict=True)
    found, other = ratio(above, below), ratio(below, above)
    assert found.mean == pytest.approx(1 / other.mean)
    assert found.low == pytest.approx(1 / other.high) and found.high == pytest.approx(1 / other.low)
    assert ratio(above, above).mean == pytest.approx(1.0)
    assert ratio([7 * number for number in above], below).mean == pytest.approx(7 * found.mean)


def test_what_hardly_changes_is_the_same():
    rng = np.random.default_rng(1)
    noise = np.abs(rng.normal(0, 1e-3, size=20))
    found = judged(0.3 * noise, noise)
    assert found.same is True
    assert found.change.mean == pytest.approx(0.3 * found.noise.mean)
    assert judged([0.0] * 4, [0.0] * 4).same is True  # nothing at all


def test_what_changes_much_is_not():
    rng = np.random.default_rng(2)
    noise = np.abs(rng.normal(0, 1e-3, size=20))
    assert judged(0.1 + noise, noise).same is False
    assert judged([0.3, 0.2, 0.25], [0.01, 0.02, 0.01]).same is False


def test_what_the_entries_do_not_tell_is_open():
    assert judged([0.3, 0.2], [0.01, 0.02]).same is None  # too few to be sure
    assert judged([0.0, 0.0, 0.0, 0.5], [0.01, 0.01, 0.01, 0.01]).same is None  # one of them decides
    assert judged([0.1, 0.2], None).same is None  # no noise was measured


def test_what_is_negligible_is_the_same_whatever_the_noise():
    changes, silence = [0.02, 0.03, 0.025, 0.02], [0.0] * 4
    assert judged(changes, silence).same is False
    found = judged(changes, silence, negligible=0.03)
    assert found.same is True and found.negligible == 0.03
    assert found.change == interval(changes) and found.noise == interval(silence), "shown as they are"
    assert judged(changes, silence, negligible=0.0237).same is False  # the mean is 0.02375
    assert judged([0.5] * 4, silence, negligible=0.5).same is True  # up to it
    assert judged([0.3, 0.2], [0.01, 0.02], negligible=0.26).same is True  # few as they are
    # It is about the mean: one entry may be above it.
    assert judged([0.0, 0.0, 0.0, 0.1], silence, negligible=0.03).same is True


def test_without_noise_only_what_is_negligible_is_the_same():
    found = judged([0.1, 0.2, 0.3, 0.2], None, negligible=0.2)
    assert found.same is True and found.noise is None
    assert judged([0.1, 0.2, 0.3, 0.3], None, negligible=0.2).same is None


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8), st.floats(0, 1))
def test_negligible_opens_and_closes_nothing_else(pairs, negligible):
    changes, noise = (list(each) for each in zip(*pairs, strict=True))
    strict, lenient = judged(changes, noise), judged(changes, noise, negligible)
    assert (lenient.change, lenient.noise) == (strict.change, strict.noise)
    expected = True if lenient.change.mean <= negligible else strict.same
    assert lenient.same is expected


def test_a_judgement_is_of_as_many_changes_as_noise():
    with pytest.raises(ValueError):
        judged([0.1, 0.2, 0.3], [0.1, 0.2])


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_numbers_that_are_none_are_refused(values):
    with pytest.raises(ValueError, match="finite numbers, one for each entry"):
        interval(values)


@pytest.mark.parametrize("pairs", [([1.0], [0.0]), ([1.0, 2.0], [1.0]), ([-1.0], [1.0])])
def test_a_ratio_is_of_positive_pairs(pairs):
    with pytest.raises(ValueError, match="pairs of positive numbers"):
        ratio(*pairs)
