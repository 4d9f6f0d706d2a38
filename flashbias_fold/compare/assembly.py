"""An experimental structure as its biological assembly: all copies of its chains, where they stand.

What a file lists is the part that a crystal repeats. The assembly, by the `pdbx_struct_assembly` categories
of an mmCIF file or REMARK 350 of a PDB file, is the molecule that was found to be there, of which a model
can be right or wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from biotite import structure as struc
from biotite.structure import AtomArray

from flashbias_fold.compare.assembly_file import STRUCTURE_SUFFIXES, is_structure, read_file
from flashbias_fold.errors import InputError

__all__ = ["STRUCTURE_SUFFIXES", "Assembly", "Chain", "is_structure", "open_assembly", "read_assembly"]

_ASSEMBLY = "1"
# The capsid of a virus has a thousand or so; no model of one fits any memory.
_MOST_CHAINS = 300


@dataclass(frozen=True)
class Chain:
    """A polymer, or what a file lists together of ligands and ions.

    Attributes:
        name: What the file calls the chain.
        entity_type: Whether it is a polymer, a branched sugar or neither, as gemmi says it.
        polymer_type: Of what kind a polymer is.
        residues: Those that are resolved, without water; of alternatives at one place the first.
        sequence: The components of the whole polymer, resolved or not; none where the file does not have
            them, or has others than its residues are.
        places: For each copy in the assembly, how it is moved there.
    """

    name: str
    entity_type: gemmi.EntityType
    polymer_type: gemmi.PolymerType
    residues: tuple[gemmi.Residue, ...]
    sequence: tuple[str, ...]
    places: tuple[gemmi.Transform, ...]

    @property
    def is_polymer(self) -> bool:
        """Whether its residues are bonded in a row, as in proteins and nucleic acids."""
        return self.entity_type == gemmi.EntityType.Polymer


@dataclass(frozen=True)
class Assembly:
    """The chains of an assembly in the order of their file, and the structure that they are part of."""

    path: Path
    structure: gemmi.Structure
    chains: tuple[Chain, ...]

    def atoms(self) -> AtomArray:
        """All atoms but hydrogens and those of water; copies of chain A are called A, A-2, A-3.

        Residues have their numbers in the sequence where the file has one, else the author's.
        """
        names = _Names({chain.name for chain in self.chains})
        each = [(chain, _atoms_of(chain)) for chain in self.chains]
        most = max(len(chain.places) for chain in self.chains)
        placed = [
            _moved(atoms, chain.places[copy], names.of(chain.name, copy))
            for copy in range(most)
            for chain, atoms in each
            if copy < len(chain.places) and len(atoms)
        ]
        whole = struc.concatenate(placed) if placed else AtomArray(0)
        if not np.isfinite(whole.coord).all():
            raise InputError("expected finite coordinates", file=self.path)
        return whole


def read_assembly(path: Path) -> AtomArray:
    """The first biological assembly of a file, or all of the file where it names none: its first model.

    Raises:
        InputError: The file cannot be read, holds no structure with a polymer, or too large a one.
    """
    return open_assembly(path).atoms()


def open_assembly(path: Path) -> Assembly:
    """The same with what the file tells beyond the atoms. Raises the same."""
    structure, labelled = read_file(path)
    chains = tuple(_chains(structure, labelled))
    polymers = [chain for chain in chains if chain.is_polymer]
    if not polymers:
        raise InputError("expected a structure with a protein or nucleic acid, found none", file=path)
    copies = sum(len(chain.places) for chain in polymers)
    if copies > _MOST_CHAINS:
        found = f"expected an assembly of at most {_MOST_CHAINS} chains, found one of {copies}"
        raise InputError(found, file=path)
    return Assembly(path, structure, chains)


def _chains(structure: gemmi.Structure, labelled: bool) -> Iterator[Chain]:
    """What the assembly has of the structure, in the order of the file."""
    assembly = _chosen(structure)
    for chain in structure[0]:
        residues = list(_first_of_each_place(chain))
        for label in dict.fromkeys(residue.subchain for residue in residues):
            mine = tuple(residue for residue in residues if residue.subchain == label)
            name = label if labelled else chain.name
            places = _places(assembly, name, chain.name)
            if places:
                entity = structure.get_entity_of(chain.get_subchain(label))
                sequence = _sequence(entity, mine)
                yield Chain(name, entity.entity_type, entity.polymer_type, mine, sequence, places)


def _chosen(structure: gemmi.Structure) -> gemmi.Assembly | None:
    assemblies = [
        assembly
        for assembly in structure.assemblies
        if any(len(generator.operators) for generator in assembly.generators)
    ]
    named = [assembly for assembly in assemblies if assembly.name == _ASSEMBLY]
    return next(iter(named + assemblies), None)


def _places(assembly: gemmi.Assembly | None, name: str, chain: str) -> tuple[gemmi.Transform, ...]:
    if assembly is None:
        return (gemmi.Transform(),)
    return tuple(
        operator.transform
        for generator in assembly.generators
        if name in generator.subchains or chain in generator.chains
        for operator in generator.operators
    )


def _first_of_each_place(chain: gemmi.Chain) -> Iterator[gemmi.Residue]:
    """The residues but water; of residues that are alternatives to each other the first."""
    first: dict[str, str] = {}
    for residue in chain:
        if residue.is_water():
            continue
        is_alternative = all(atom.has_altloc() for atom in residue)
        name = first.setdefault(str(residue.seqid), residue.name)
        if name == residue.name or not is_alternative:
            yield residue


def _sequence(entity: gemmi.Entity, residues: Sequence[gemmi.Residue]) -> tuple[str, ...]:
    codes = tuple(gemmi.Entity.first_mon(code) for code in entity.full_sequence)
    fits = all(
        residue.label_seq is not None
        and residue.label_seq <= len(codes)
        and codes[residue.label_seq - 1] == residue.name
        for residue in residues
    )
    return codes if fits else ()


def _atoms_of(chain: Chain) -> AtomArray:
    """The heavy atoms of a chain where its file has them; of alternatives the first."""
    found = [
        (residue, atom) for residue in chain.residues for atom in residue if not atom.element.is_hydrogen
    ]
    numbers = [_number(residue, chain) for residue, _ in found]
    atoms = AtomArray(len(found))
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
        atoms.coord = np.array([atom.pos.tolist() for _, atom in found], dtype=np.float32).reshape(-1, 3)
    atoms.res_id = np.array([number for number, _ in numbers], dtype=int)
    atoms.ins_code = np.array([insertion for _, insertion in numbers], dtype="U1")
    atoms.res_name = np.array([residue.name for residue, _ in found], dtype="U5")
    atoms.hetero = np.array([residue.het_flag == "H" for residue, _ in found], dtype=bool)
    atoms.atom_name = np.array([atom.name for _, atom in found], dtype="U6")
    atoms.element = np.array([atom.element.name.upper() for _, atom in found], dtype="U2")
    alternatives = np.array([atom.altloc.strip("\0") for _, atom in found], dtype="U1")
    return atoms[struc.filter_first_altloc(atoms, alternatives)] if len(atoms) else atoms


def _number(residue: gemmi.Residue, chain: Chain) -> tuple[int, str]:
    if residue.label_seq is not None and chain.sequence:
        return residue.label_seq, ""
    return residue.seqid.num or 0, residue.seqid.icode.strip()


def _moved(atoms: AtomArray, place: gemmi.Transform, name: str) -> AtomArray:
    copy = atoms.copy()
    with np.errstate(invalid="ignore", over="ignore"):  # refused once all is there
        copy.coord = (atoms.coord @ np.array(place.mat.tolist()).T + place.vec.tolist()).astype(np.float32)
    copy.chain_id = np.full(len(atoms), name)
    return copy


class _Names:
    """Names of copies that no other chain has."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self._given: dict[tuple[str, int], str] = {}

    def of(self, chain: str, copy: int) -> str:
        """The name of a copy of a chain, counted from 0; the first is called as the file calls it."""
        if copy == 0:
            return chain
        key = (chain, copy)
        if key not in self._given:
            number = copy + 1
            while f"{chain}-{number}" in self._taken:
                number += 1
            self._given[key] = f"{chain}-{number}"
            self._taken.add(self._given[key])
        return self._given[key]
