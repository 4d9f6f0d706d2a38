"""The replacement layers and the plan that chooses a way for each layer."""

from flashbias_fold.pairformer.plan import Plan, Rule
from flashbias_fold.pairformer.triangle import TriangleAttention

__all__ = ["Plan", "Rule", "TriangleAttention"]
