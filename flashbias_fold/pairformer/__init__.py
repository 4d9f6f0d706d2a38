"""The replacement layers and the plan that chooses a way for each layer."""

from flashbias_fold.pairformer.block import PairformerBlock
from flashbias_fold.pairformer.keep import Keep
from flashbias_fold.pairformer.multiplication import TriangleMultiplication
from flashbias_fold.pairformer.pair_bias import PairBiasAttention
from flashbias_fold.pairformer.plan import Plan, Rule
from flashbias_fold.pairformer.transition import Transition
from flashbias_fold.pairformer.triangle import TriangleAttention

__all__ = [
    "Keep",
    "PairBiasAttention",
    "PairformerBlock",
    "Plan",
    "Rule",
    "Transition",
    "TriangleAttention",
    "TriangleMultiplication",
]
