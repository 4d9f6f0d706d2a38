"""Training of factor networks for a model, on inputs like those that it will be used for."""

from flashbias_fold.calibrate.run import Result, calibrate
from flashbias_fold.calibrate.settings import Settings

__all__ = ["Result", "Settings", "calibrate"]
