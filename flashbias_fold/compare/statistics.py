"""What a comparison comes to over all entries: means with their intervals, ratios, and same or not.

Entries are compared in pairs: each is predicted by both methods, so that what makes one target harder than
another says nothing about the methods. Intervals are bootstrapped over entries, which are what a user has
chosen; seeds and samples of one entry are not independent of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
_DRAWS = 4000
_SEED = 20250512
_FEWEST = 3  # entries, below which an interval is no more than their range


@dataclass(frozen=True)
class Interval:
    """A mean over entries, and between which numbers it would be for other entries like them.

    Attributes:
        mean: Over the entries.
        low: Of a bootstrap interval of LEVEL.
        high: Its other end.
        n: How many entries.
    """

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Judgement:
    """Whether a method changes a measure by no more than noise does.

    Attributes:
        change: What the method changes, over the entries.
        noise: What a second seed changes; nothing where there was none.
        negligible: A change below which nobody cares, whatever the noise.
        same: Nothing where the entries do not tell.
    """

    change: Interval
    noise: Interval | None
    negligible: float
    same: bool | None


def interval(values: Sequence[float]) -> Interval:
    """The mean of finite numbers, one for each entry.

    Raises:
        ValueError: There is none, or one is not finite.
    """
    found = _finite(values)
    means = _drawn(len(found)) @ found / len(found)
    return Interval(float(found.mean()), *_ends(means, float(found.mean())), len(found))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """The geometric mean of the ratios of pairs of positive numbers, so that either may be the baseline.

    Raises:
        ValueError: There is none, they are not pairs, or a number is not positive.
    """
    above, below = _finite(numerators), _finite(denominators)
    if len(above) != len(below) or min(above.min(), below.min()) <= 0:
        raise ValueError("a ratio is of pairs of positive numbers")
    found = interval(list(np.log(above / below)))
    mean, low, high = (float(np.exp(end)) for end in (found.mean, found.low, found.high))
    return Interval(mean, low, high, found.n)


def judged(changes: Sequence[float], noise: Sequence[float] | None, negligible: float = 0.0) -> Judgement:
    """Whether what a method changes, without sign, is what a second seed changes, or less.

    It is the same where the mean is not above that of noise, different where it is above for nearly all sets
    of entries like these, and open in between. A model that is as sure as one which has memorised its targets
    has next to no noise, and any other arithmetic changes more: hence what is negligible.

    Args:
        changes: For each entry, of a method to the first.
        noise: For the same entries, of a second seed to the first.
        negligible: A mean change up to which it is the same, whatever the noise.
    """
    change = interval(changes)
    if noise is None:
        return Judgement(change, None, negligible, True if change.mean <= negligible else None)
    excess = interval(list(_finite(changes) - _finite(noise)))
    same = (
        True
        if excess.mean <= 0 or change.mean <= negligible
        else False
        if excess.low > 0 and excess.n >= _FEWEST
        else None
    )
    return Judgement(change, interval(noise), negligible, same)


def _finite(values: Sequence[float]) -> NDArray[np.float64]:
    found = np.asarray(values, dtype=np.float64)
    if not found.size or not np.isfinite(found).all():
        raise ValueError("expected finite numbers, one for each entry")
    return found


def _drawn(n: int) -> NDArray[np.float64]:
    """How often each of `n` entries is in each of many sets of as many, drawn with replacement."""
    share = np.full(n, 1.0 / n)
    return np.random.default_rng(_SEED).multinomial(n, share, size=_DRAWS).astype(np.float64)


def _ends(means: NDArray[np.float64], mean: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return min(float(low), mean), max(float(high), mean)
