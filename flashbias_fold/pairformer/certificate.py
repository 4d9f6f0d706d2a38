"""Whether factors are good enough, and what a layer says of that: one rule for all that replace a bias."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flashbias_fold.factorize import Factors
from flashbias_fold.pairformer.plan import Rule


def relative_error(found: Tensor, right: Tensor) -> Tensor:
    """By norm, on the device."""
    return (found - right).norm() / right.norm().clamp(min=torch.finfo(torch.float32).tiny)


class Certificate:
    """The errors of one prediction's calls, of a layer with a rule."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._error = 0.0
        self._fallbacks = 0

    def accepts(self, factors: Factors, error: Tensor) -> bool:
        """Whether a call may use these factors, which were measured to have this error; noted either way."""
        assert self._rule.tolerance is not None
        if factors.error is not None:
            error = torch.where(factors.error.isfinite().all(), error, torch.inf)
        worst = float(error)  # one number from the device: the attention waits for the decision anyway
        if not worst <= self._rule.tolerance:  # NaN is not
            self._fallbacks += 1
            return False
        self._error = max(self._error, worst)
        return True

    def report(self) -> dict[str, Any]:
        """What ran, for `report.json`; the error is the largest of all calls that used factors.

        The exact bias has none and needs no fallback.
        """
        rule = self._rule
        return {
            "way": rule.way,
            "rank": rule.rank,
            "reach": None if rule.rank is None else rule.reach,
            "certified_error": {"dense": 0.0, "none": None}.get(rule.way, self._error),
            "fallbacks": self._fallbacks,
        }
