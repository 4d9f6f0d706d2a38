"""The replacement layers and the plan that chooses a way for each layer."""

from flashbias_fold.pairformer.plan import BUILT_WAYS, Plan
from flashbias_fold.pairformer.triangle import TriangleAttention

__all__ = ["BUILT_WAYS", "Plan", "TriangleAttention"]
