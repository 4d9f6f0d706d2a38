"""Prediction end to end: inputs in, structures, confidences and an honest report out."""

from flashbias_fold.predict.run import RunResult, predict
from flashbias_fold.predict.settings import Settings

__all__ = ["RunResult", "Settings", "predict"]
