"""From a bias to factors, and how far off their product is."""

from flashbias_fold.factorize.factors import Factors
from flashbias_fold.factorize.lowrank import decompose
from flashbias_fold.factorize.neural import NETWORKS, FactorNetwork, MeanNetwork, SketchNetwork
from flashbias_fold.factorize.weighted import computed, far_alone, refit

__all__ = [
    "NETWORKS",
    "FactorNetwork",
    "Factors",
    "MeanNetwork",
    "SketchNetwork",
    "computed",
    "decompose",
    "far_alone",
    "refit",
]
