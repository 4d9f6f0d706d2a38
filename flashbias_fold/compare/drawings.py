"""What the page draws of an entry: chains as lines, superposed, and maps of predicted errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from biotite import structure as struc
from biotite.structure import AtomArray
from numpy.typing import NDArray

from flashbias_fold.compare.matching import joined, matched
from flashbias_fold.compare.measure import Structure
from flashbias_fold.compare.parts import parts_of
from flashbias_fold.report import pae_map, trace

EXPERIMENT = "experiment"
_LINE_ATOMS = ("CA", "P")
# Neighbours in sequence are no farther apart than this, of amino acids and of nucleotides.
_FARTHEST = {"CA": 4.5, "P": 9.0}
_FEWEST_PAIRS = 3  # that fix a rotation

Coordinates = NDArray[np.float32]


def traces(
    structures: Mapping[str, Structure], baseline: str, truth: AtomArray | None
) -> list[dict[str, Any]]:
    """Every structure as lines, laid over that of the baseline."""
    first = structures[baseline].atoms
    on_line = _on_line(first)
    if on_line.sum() < _FEWEST_PAIRS:
        return []
    centre = first.coord[on_line].mean(axis=0)
    drawn = []
    for key, structure in structures.items():
        # The same features give the same atoms in the same order.
        atoms = structure.atoms[on_line]
        fitted, _ = struc.superimpose(first.coord[on_line], atoms.coord)
        drawn.append(_trace(key, atoms, fitted - centre))
    if truth is not None:
        laid = _laid_over(truth, first)
        if laid is not None:
            kept = _on_line(laid)
            drawn.append(_trace(EXPERIMENT, laid[kept], laid.coord[kept] - centre))
    return drawn


def maps(structures: Mapping[str, Structure]) -> list[dict[str, Any]]:
    """The predicted errors of every structure."""
    return [pae_map(key, structure.pae) for key, structure in structures.items()]


def _on_line(atoms: AtomArray) -> NDArray[np.bool_]:
    polymer = struc.filter_amino_acids(atoms) & (atoms.atom_name == _LINE_ATOMS[0])
    return polymer | (struc.filter_nucleotides(atoms) & (atoms.atom_name == _LINE_ATOMS[1]))


def _laid_over(truth: AtomArray, model: AtomArray) -> AtomArray | None:
    """The experimental structure where the model is; nothing where too little of both is the same."""
    residues, placed = joined(matched(parts_of(model), parts_of(truth)))
    common = np.isfinite(placed).all(axis=-1)
    if common.sum() < _FEWEST_PAIRS:
        return None
    _, motion = struc.superimpose(placed[common], residues.coord[common])
    return motion.apply(truth)


def _trace(key: str, atoms: AtomArray, coord: Coordinates) -> dict[str, Any]:
    chains = {}
    for chain in dict.fromkeys(atoms.chain_id.tolist()):
        mine = atoms.chain_id == chain
        chains[chain] = _unbroken(coord[mine], atoms.atom_name[mine])
    return trace(key, chains)


def _unbroken(coord: Coordinates, names: NDArray[np.str_]) -> list[Coordinates]:
    farthest = np.where(names[1:] == _LINE_ATOMS[0], *(_FARTHEST[name] for name in _LINE_ATOMS))
    steps = np.linalg.norm(np.diff(coord, axis=0), axis=1)
    return np.split(coord, np.flatnonzero((steps > farthest) | (names[1:] != names[:-1])) + 1)
