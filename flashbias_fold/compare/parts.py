"""The parts of an assembly that have to find their partners in another one: chains, and ligands and ions.

Every component that is no part of a polymer is a part of its own, whichever chain its file counts it to: PDB
files give a ligand the chain of its protein, mmCIF files give it one of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from biotite import structure as struc
from biotite.sequence import NucleotideSequence, ProteinSequence
from biotite.structure import AtomArray, info
from numpy.typing import NDArray

from flashbias_fold.accuracy import protein_sequence

PROTEIN, DNA, RNA, LIGAND, ION = "protein", "DNA", "RNA", "ligand", "ion"
POLYMERS = (PROTEIN, DNA, RNA)

# One atom stands for each residue. C1' of nucleotides, as their first phosphate is often missing.
_STAND_INS = {PROTEIN: "CA", DNA: "C1'", RNA: "C1'"}
_FEWEST_OF_A_POLYMER = 2  # an amino acid or a nucleotide by itself is a ligand

Ranks = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Part:
    """A chain, a ligand or an ion.

    Attributes:
        kind: One of `POLYMERS`, or `LIGAND` or `ION`.
        chain: What its file calls the chain.
        atoms: Its heavy atoms.
        ranks: For each atom, which residue of the part it is of.
        stand_ins: One atom for each residue of a polymer: CA or C1'; of ligands and ions, the first atom.
    """

    kind: str
    chain: str
    atoms: AtomArray
    ranks: Ranks
    stand_ins: AtomArray

    def __len__(self) -> int:
        """How many residues there are."""
        return len(self.stand_ins)

    @property
    def component(self) -> str:
        """The name of a ligand or ion."""
        return str(self.stand_ins.res_name[0])

    @property
    def label(self) -> str:
        """What a user would call it."""
        if self.kind in POLYMERS:
            return f"{self.kind} {self.chain} ({len(self)} residues)"
        return f"{self.kind} {self.component} in {self.chain}"

    @cached_property
    def sequence(self) -> ProteinSequence | NucleotideSequence:
        """The residues of a polymer; what has no letter is X in proteins and N in nucleic acids."""
        return protein_sequence(self.stand_ins) if self.kind == PROTEIN else _bases(self.stand_ins)


def parts_of(structure: AtomArray) -> list[Part]:
    """Split an assembly into its parts, in an order that its file and the names of chains do not decide.

    Hydrogens, water and alternative locations but the first are left out, as are residues of polymers without
    the atom that stands for them.
    """
    atoms = _heavy(structure)
    if not len(atoms):
        return []
    residues = _residues(atoms)
    kinds = _kinds(atoms, residues)
    parts = []
    for chain in np.unique(atoms.chain_id):
        for kind in POLYMERS:
            mine = (atoms.chain_id == chain) & (kinds == kind)
            parts += _polymer(kind, atoms[mine], residues[mine])
        parts += _components(atoms, residues, (atoms.chain_id == chain) & (kinds == LIGAND))
    return sorted(parts, key=_place)


def _heavy(structure: AtomArray) -> AtomArray:
    water = struc.filter_solvent(structure) | (structure.res_name == "DOD")
    atoms = structure[~np.isin(structure.element, ("H", "D")) & ~water]
    # biotite leaves alternatives out by itself unless it is asked for all.
    if "altloc_id" in atoms.get_annotation_categories() and len(atoms):
        atoms = atoms[struc.filter_first_altloc(atoms, atoms.altloc_id)]
    return atoms[np.isfinite(atoms.coord).all(axis=-1)]


def _residues(atoms: AtomArray) -> Ranks:
    """A number for each residue; of equal numbers in the file, a name that comes again begins a new one."""
    starts = struc.get_residue_starts(atoms, add_exclusive_stop=True)
    begins = np.zeros(len(atoms), dtype=bool)
    begins[starts[:-1]] = True
    for start, stop in pairwise(starts):
        names: set[str] = set()
        for index in range(start, stop):
            if atoms.atom_name[index] in names:
                begins[index] = True
                names.clear()
            names.add(atoms.atom_name[index])
    return np.cumsum(begins) - 1


def _kinds(atoms: AtomArray, residues: Ranks) -> NDArray[np.str_]:
    kinds = np.full(len(atoms), LIGAND, dtype="U8")
    amino_acids, nucleotides = struc.filter_amino_acids(atoms), struc.filter_nucleotides(atoms)
    for chain in np.unique(atoms.chain_id):
        for filtered in (amino_acids, nucleotides):
            mine = (atoms.chain_id == chain) & filtered
            if len(np.unique(residues[mine])) >= _FEWEST_OF_A_POLYMER:
                kinds[mine] = PROTEIN if filtered is amino_acids else _nucleic_kind(atoms[mine])
    return kinds


def _nucleic_kind(atoms: AtomArray) -> str:
    # The names of components do not tell: modified nucleotides have names of their own.
    return RNA if 2 * np.sum(atoms.atom_name == "O2'") > np.sum(atoms.atom_name == "C1'") else DNA


def _polymer(kind: str, atoms: AtomArray, residues: Ranks) -> list[Part]:
    stands_in = atoms.atom_name == _STAND_INS[kind]
    kept = np.isin(residues, residues[stands_in])
    if not kept.any():
        return []
    _, ranks = np.unique(residues[kept], return_inverse=True)
    return [Part(kind, str(atoms.chain_id[0]), atoms[kept], ranks, atoms[stands_in])]


def _components(atoms: AtomArray, residues: Ranks, which: NDArray[np.bool_]) -> list[Part]:
    parts = []
    for residue in np.unique(residues[which]):
        mine = atoms[which & (residues == residue)]
        kind = ION if len(mine) == 1 else LIGAND
        parts.append(Part(kind, str(mine.chain_id[0]), mine, np.zeros(len(mine), dtype=np.int64), mine[:1]))
    return parts


def _place(part: Part) -> tuple[bool, int, str, tuple[float, ...]]:
    """What parts are ordered by: long polymers first, and equal parts by where they are."""
    names = " ".join(part.stand_ins.res_name)
    return part.kind not in POLYMERS, -len(part), names, tuple(part.stand_ins.coord[0].tolist())


def _bases(stand_ins: AtomArray) -> NucleotideSequence:
    letters = [(info.one_letter_code(name) or "N").replace("U", "T") for name in stand_ins.res_name]
    known = [letter if letter in "ACGT" else "N" for letter in letters]
    return NucleotideSequence(known, ambiguous=True)
