"""From a prediction to the files of its structures, each complete whenever it is seen."""

from __future__ import annotations

import tempfile
from pathlib import Path

from flashbias_fold.predict.folder import JobFolder
from flashbias_fold.predict.settings import Settings
from flashbias_fold.protenix_adapter.engine import Prediction
from flashbias_fold.protenix_adapter.writer import Written, write_prediction

_FORMATS = {"cif": ("cif",), "pdb": ("pdb",), "both": ("cif", "pdb")}


def publish(
    prediction: Prediction, name: str, seed: int, settings: Settings, folder: JobFolder
) -> tuple[Written, list[str]]:
    """Write every structure of a seed; return these, and all files as seen from the folder."""
    formats = _FORMATS[str(settings.format)]
    with tempfile.TemporaryDirectory(prefix="flashbias-fold-") as scratch:
        written = write_prediction(
            prediction, name, seed, Path(scratch), formats=formats, pae=settings.write_pae
        )
        return written, folder.publish_seed(seed, Path(scratch, "predictions"))
