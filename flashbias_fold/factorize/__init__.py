"""From a bias to factors, and how far off their product is."""

from flashbias_fold.factorize.exact import alibi, constant, squared_distance
from flashbias_fold.factorize.factors import Factors
from flashbias_fold.factorize.lowrank import Decomposition, decompose
from flashbias_fold.factorize.neural import NETWORKS, FactorNetwork, MeanNetwork, SketchNetwork
from flashbias_fold.factorize.weighted import computed, far_alone, refit

__all__ = [
    "NETWORKS",
    "Decomposition",
    "FactorNetwork",
    "Factors",
    "MeanNetwork",
    "SketchNetwork",
    "alibi",
    "computed",
    "constant",
    "decompose",
    "far_alone",
    "refit",
    "squared_distance",
]
