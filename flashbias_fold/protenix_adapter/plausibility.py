"""Checks of a prediction's structures, by what the model was told of each residue."""

from __future__ import annotations

import numpy as np

from flashbias_fold.evaluate.plausibility import find_problems
from flashbias_fold.protenix_adapter.engine import Prediction


def find_problems_of(prediction: Prediction, drawn: int) -> list[str]:
    """Find what makes a structure of a prediction impossible, by the order in which they were drawn."""
    atoms = prediction.features.atom_array.copy()
    atoms.coord = prediction.output["coordinate"][drawn].float().cpu().numpy()
    # The conformers that the model was given have the chirality and the bond lengths of the components.
    known = atoms.ref_mask.astype(bool)[:, None]
    return find_problems(atoms, np.where(known, atoms.ref_pos, np.nan))
