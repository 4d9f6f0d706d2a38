"""Assemblies to compare, made of real structures."""

import gzip
from functools import cache

import numpy as np
from biotite import structure as struc
from biotite.structure.io import pdbx
from conftest import ROOT

from flashbias_fold.accuracy import read_structure

TRUTH = ROOT / "data" / "truth"


@cache
def _complex():
    text = gzip.decompress((ROOT / "data" / "complexes" / "7r6r" / "7r6r.cif.gz").read_bytes()).decode()
    return pdbx.get_structure(pdbx.CIFFile.deserialize(text), model=1, use_author_fields=False)


@cache
def _protein(name):
    return read_structure(TRUTH / f"{name}.pdb.gz")


def protein_with_dna():
    """The experimental structure 7r6r: a protein A and two strands of DNA, B and C."""
    return _complex().copy()


def protein(name, chain="A"):
    return named(_protein(name), chain)


def named(structure, chain):
    copy = structure.copy()
    copy.chain_id[:] = chain
    return copy


def turned(structure):
    return struc.rotate(struc.translate(structure, [7, -30, 12]), [0.4, 2.0, -1.1])


def noised(structure, sigma, seed=5):
    copy = structure.copy()
    copy.coord += sigma * np.random.default_rng(seed).normal(size=copy.coord.shape).astype(np.float32)
    return copy


def copies(structure, n):
    """Copies along a bent line, each a little noised: turned as a whole, they are never the same again."""
    placed = []
    for index in range(n):
        turn = struc.rotate_about_axis(structure, [1, 2, 3], 0.9 * index, structure.coord.mean(axis=0))
        shifted = struc.translate(turn, [22.0 * index, 3.0 * index**2, 5.0 * (index % 2)])
        placed.append(named(noised(shifted, 0.1, seed=index), "ABCDEFGHIJ"[index]))
    return struc.concatenate(placed)


def relabelled(structure, order):
    """The same chains in another order in the file, and named anew in that order."""
    names = sorted(set(structure.chain_id))
    chains = [structure[structure.chain_id == names[index]] for index in order]
    return struc.concatenate([named(chain, name) for chain, name in zip(chains, names, strict=True)])


def component(name, chain, atoms):
    """A ligand or an ion: its atoms' names and where they are."""
    return struc.array(
        [
            struc.Atom(
                coord,
                chain_id=chain,
                res_id=1,
                res_name=name,
                hetero=True,
                atom_name=atom,
                element=atom[0],
            )
            for atom, coord in atoms.items()
        ]
    )


def traces(*chains):
    """Chains of alanines of which C-alphas alone are known, at the places given."""
    atoms = []
    for name, coords in zip("ABCDEFGHIJ", chains, strict=False):
        for number, coord in enumerate(coords, start=1):
            atoms.append(
                struc.Atom(coord, chain_id=name, res_id=number, res_name="ALA", atom_name="CA", element="C")
            )
    return struc.array(atoms)
