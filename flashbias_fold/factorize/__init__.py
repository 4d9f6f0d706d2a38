"""From a bias to factors, and how far off their product is."""

from flashbias_fold.factorize.factors import Factors
from flashbias_fold.factorize.lowrank import Decomposition, decompose
from flashbias_fold.factorize.weighted import refit

__all__ = ["Decomposition", "Factors", "decompose", "refit"]
