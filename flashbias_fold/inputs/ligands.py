"""Ligands given as SMILES or as a file: read with RDKit as Protenix reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flashbias_fold.inputs.files import find_file
from flashbias_fold.inputs.place import Place, shown

if TYPE_CHECKING:
    from rdkit.Chem import Mol

# Longer than any molecule of which a conformer could be made; the parser itself is not safe for megabytes.
_LONGEST_SMILES = 5000


@dataclass(frozen=True)
class Molecule:
    """The atoms of a ligand that is no component.

    ``numbers`` are what a bond may call its atoms instead of their names: the atom maps of a SMILES that
    has any, otherwise the places of the atoms in the SMILES or file, counted from 0.
    """

    atoms: tuple[str, ...]
    numbers: Mapping[int, str]


def read_smiles(smiles: str, place: Place) -> Molecule:
    """The molecule that a SMILES describes."""
    from rdkit import Chem, rdBase

    if len(smiles) > _LONGEST_SMILES:
        raise place.error(f"expected a SMILES of at most {_LONGEST_SMILES} characters, found {len(smiles)}")
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise place.error(
            f"expected CCD_ and a code, FILE_ and a path, or a valid SMILES, found {shown(smiles)}"
        )
    return _checked(molecule, place)


def read_ligand_file(text: str, place: Place) -> tuple[Path, Molecule]:
    """The path and the first molecule of a file."""
    from rdkit import rdBase

    path = find_file(text, place)
    with rdBase.BlockLogs():
        try:
            molecule = _read_first(path, place)
        except (OSError, RuntimeError, ValueError) as error:
            raise place.error(f"expected a molecule in {path}: {error}") from None
    if molecule is None:
        raise place.error(f"expected a molecule that RDKit can read in {path}")
    if molecule.GetNumConformers() == 0 or not molecule.GetConformer().Is3D():
        raise place.error(f"expected three-dimensional coordinates in {path}")
    return path, _checked(molecule, place)


def _read_first(path: Path, place: Place) -> Mol | None:
    from rdkit import Chem

    match path.suffix:
        case ".mol":
            return Chem.MolFromMolFile(str(path))
        case ".mol2":
            return Chem.MolFromMol2File(str(path))
        case ".pdb":
            return Chem.MolFromPDBFile(str(path))
        case ".sdf":
            molecules = Chem.SDMolSupplier(str(path))
            first = None if molecules.atEnd() else next(molecules)
            if not molecules.atEnd():
                place.warn(f"only the first molecule of {path} is used")
            return first
    raise place.error(f"expected a file that ends with .mol, .mol2, .pdb or .sdf, found {shown(path.name)}")


def _checked(molecule: Mol, place: Place) -> Molecule:
    """Names the atoms as Protenix does: the element and a count."""
    counts: Counter[str] = Counter()
    heavy: dict[int, str] = {}
    for atom in molecule.GetAtoms():
        if atom.GetAtomicNum() == 0:
            raise place.error("expected atoms of known elements, found a placeholder atom ('*')")
        symbol = atom.GetSymbol().upper()
        counts[symbol] += 1
        if symbol != "H":
            heavy[atom.GetIdx()] = f"{symbol}{counts[symbol]}"
    if not heavy:
        raise place.error("expected a molecule with at least one atom other than hydrogen")
    maps = {molecule.GetAtomWithIdx(i).GetAtomMapNum(): name for i, name in heavy.items()}
    maps.pop(0, None)
    mapped = any(atom.GetAtomMapNum() for atom in molecule.GetAtoms())
    return Molecule(tuple(heavy.values()), maps if mapped else heavy)
