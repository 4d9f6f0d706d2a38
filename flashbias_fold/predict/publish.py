"""From a prediction to the files of its structures, each complete whenever it is seen."""

from __future__ import annotations

import tempfile
from pathlib import Path

from flashbias_fold.files import write_atomic
from flashbias_fold.predict.settings import Settings
from flashbias_fold.protenix_adapter.engine import Prediction
from flashbias_fold.protenix_adapter.writer import Written, write_prediction

_FORMATS = {"cif": ("cif",), "pdb": ("pdb",), "both": ("cif", "pdb")}


def publish(
    prediction: Prediction, name: str, seed: int, settings: Settings, folder: Path
) -> tuple[Written, list[str]]:
    """Write every structure of a seed below `folder`; return these, and all files as seen from it.

    Protenix's writer works elsewhere: a file must not be seen half-written under its final name.
    """
    formats = _FORMATS[str(settings.format)]
    place = Path(f"seed_{seed}", "predictions")
    (folder / place).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="flashbias-fold-") as scratch:
        written = write_prediction(
            prediction, name, seed, Path(scratch), formats=formats, pae=settings.write_pae
        )
        sources = sorted(Path(scratch, "predictions").iterdir())
        for source in sources:
            write_atomic(folder / place / source.name, source.read_bytes())
    return written, [str(place / source.name) for source in sources]
