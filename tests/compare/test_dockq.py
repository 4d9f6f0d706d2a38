"""Against DockQ 2.1.3, on 7wux: two copies each of two proteins, six interfaces.

DockQ needs NumPy 1, beside which Protenix does not run. So its values stand here: of these very models,
written as PDB files, by `DockQ MODEL NATIVE --n_cpu 1 --json FILE`.
"""

from functools import cache

import numpy as np
import pytest
from biotite import structure as struc
from conftest import ROOT
from lengths import at_length, only_in_full

from flashbias_fold.compare.assembly import read_assembly
from flashbias_fold.compare.structures import compared

# Noise and the shift of the first chain in Angstroms, which native chain each of the model's A to D is; then
# DockQ's pairing (the model's names of A to D) and its score over all interfaces.
MODELS = [
    (0.0, 0.0, (0, 1, 2, 3), "ABCD", 1.0),
    (0.3, 0.0, (1, 0, 2, 3), "BACD", 0.9488),
    (0.6, 0.0, (0, 1, 3, 2), "ABDC", 0.8622),
    (1.0, 0.0, (1, 0, 3, 2), "BADC", 0.7799),
    (1.5, 0.0, (2, 3, 0, 1), "CDAB", 0.7056),
    (0.3, 3.0, (3, 2, 1, 0), "DCBA", 0.8445),
    (0.3, 6.0, (1, 0, 2, 3), "BACD", 0.7262),
    (0.6, 9.0, (0, 1, 3, 2), "ABDC", 0.6073),
    (0.3, 15.0, (1, 0, 3, 2), "BADC", 0.5302),
    (2.0, 0.0, (3, 2, 0, 1), "CDBA", 0.6446),
    (0.5, 2.0, (2, 3, 1, 0), "DCAB", 0.8582),
]
TOWARDS = np.array([0.6, 0.0, 0.8], dtype=np.float32)


@cache
def native():
    atoms = read_assembly(ROOT / "data" / "complexes" / "7wux" / "7wux.cif.gz")
    return atoms[struc.filter_amino_acids(atoms)]


def model(noise, shift, order, seed):
    rng = np.random.default_rng(seed)
    chains = []
    for name, index in zip("ABCD", order, strict=True):
        chain = native()[native().chain_id == "ABCD"[index]].copy()
        chain.coord += noise * rng.normal(size=chain.coord.shape).astype(np.float32)
        if index == 0:
            chain.coord += np.float32(shift) * TOWARDS
        chain.chain_id[:] = name
        chains.append(chain)
    return struc.concatenate(chains)


@cache
def found(index):
    return compared(model(*MODELS[index][:3], index), native())


def test_the_assembly_is_two_and_two():
    lengths = [int((native().atom_name[native().chain_id == name] == "CA").sum()) for name in "ABCD"]
    assert lengths == [198, 198, 330, 330]


@pytest.mark.parametrize("index", at_length([1, 3], range(len(MODELS))))
def test_chains_are_paired_as_dockq_pairs_them(index):
    assert found(index).chains == tuple(zip("ABCD", MODELS[index][3], strict=True))


@only_in_full
def test_interfaces_are_ranked_as_by_dockq():
    ours = np.array([found(index).interface_lddt for index in range(len(MODELS))])
    theirs = np.array([case[4] for case in MODELS])
    assert ours[0] == theirs[0] == 1.0
    ranks = [np.argsort(np.argsort(scores)) for scores in (ours, theirs)]
    assert np.corrcoef(*ranks)[0, 1] > 0.95


def test_of_one_kind_of_error_both_say_the_same_order():
    """Noise alone, and the shift of a chain by more and more."""
    for kind in at_length(([1, 3], [1, 6]), ([0, 1, 2, 3, 4, 9], [1, 5, 6, 8])):
        scores = [(found(index).interface_lddt, MODELS[index][4]) for index in kind]
        assert scores == sorted(scores, reverse=True)
        assert [theirs for _, theirs in scores] == sorted((theirs for _, theirs in scores), reverse=True)
