"""Files of experimental structures: which files are such, and what gemmi reads of them.

gemmi reads both formats into one form, finds out which residues are of a polymer where a file does not say
so, and infers elements that PDB files leave out from where the names of atoms stand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import gemmi
from biotite.structure import info

from flashbias_fold.accuracy import read_text
from flashbias_fold.errors import InputError
from flashbias_fold.inputs.files import is_file, is_folder
from flashbias_fold.inputs.place import shown

STRUCTURE_SUFFIXES = (".cif", ".mmcif", ".pdb", ".ent")
_MMCIF = (".cif", ".mmcif")
_KINDS = f"a structure ({', '.join(STRUCTURE_SUFFIXES)}, or one of these with .gz)"

_PDB_ATOM = re.compile(r"ATOM  |HETATM")
_PDB_COORDINATES = (slice(30, 38), slice(38, 46), slice(46, 54))
_GEMMIS_PLACE = re.compile(r"^string:(\d+)(:\d+\(\d+\))?")  # of an error, as in string:8:5(120)
_FEWEST_OF_A_POLYMER = 2  # an amino acid or a nucleotide by itself is a ligand
_CAPS = ("ACE", "FOR", "NH2", "NME")

# What gemmi asks of each atom, and other programmes do not write; label_seq_id stands in for auth_seq_id.
_NEEDED_OF_ATOMS = {"label_alt_id": ".", "occupancy": "1", "B_iso_or_equiv": "0", "auth_seq_id": "?"}


def is_structure(path: Path) -> bool:
    """Whether its name is that of a structure, in any case of letters, compressed or not."""
    return _suffix(path) in STRUCTURE_SUFFIXES


def name_of(path: Path) -> str:
    """The name of the file without its suffixes."""
    return path.name[: path.name.lower().rindex(_suffix(path))] if is_structure(path) else path.stem


def read_file(path: Path) -> tuple[gemmi.Structure, bool]:
    """What a file holds, its residues sorted into polymers and others, and whether its own names do that.

    The names do in an mmCIF file that gives each molecule a label of its own; in PDB files and in what many
    programmes write as mmCIF a chain is a polymer with all that is near it.

    Raises:
        InputError: It cannot be read, or holds no structure.
    """
    text = _read_text(path)
    suffix = _suffix(path)
    try:
        structure = _parse_cif(text, path) if suffix in _MMCIF else _parse_pdb(text, path)
        labelled = _sort_residues(structure) if len(structure) else False
    except InputError:
        raise
    except Exception as error:  # there is no telling what garbage makes of a parser
        problem = _GEMMIS_PLACE.sub(r"line \1", str(error))
        raise InputError(f"expected a structure in the format {suffix}: {problem}", file=path) from error
    if not len(structure) or not structure[0].count_atom_sites():
        raise InputError("expected a structure, found no atoms", file=path)
    return structure, labelled


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _read_text(path: Path) -> str:
    if is_folder(path):
        raise InputError(f"expected {_KINDS}, found a folder", file=path)
    if not is_file(path):
        raise InputError(f"expected {_KINDS}; no such file", file=path)
    if not is_structure(path):
        raise InputError(f"expected {_KINDS}, found a name that ends otherwise", file=path)
    return read_text(path)


def _parse_cif(text: str, path: Path) -> gemmi.Structure:
    blocks = gemmi.cif.read_string(text)
    for block in blocks:
        if block.find_values("_atom_site.Cartn_x"):
            _complete(block)
            return gemmi.make_structure_from_block(block)
    raise InputError(f"expected a structure, found {_other_content(blocks)}", file=path)


def _complete(block: gemmi.cif.Block) -> None:
    loop = block.find_loop("_atom_site.Cartn_x").get_loop()
    for name, value in _NEEDED_OF_ATOMS.items():
        tag = f"_atom_site.{name}"
        if loop is None or tag in loop.tags:
            continue
        loop.add_columns([tag], value)
        if name == "auth_seq_id":
            column = block.find_values(tag)
            for row, number in enumerate(block.find_values("_atom_site.label_seq_id")):
                column[row] = number


def _other_content(blocks: Iterable[gemmi.cif.Block]) -> str:
    categories = {name for block in blocks for name in block.get_mmcif_category_names()}
    if categories & {"_chem_comp.", "_chem_comp_atom."}:
        return "definitions of chemical components"
    if categories & {"_refln.", "_diffrn_refln."}:
        return "reflections (structure factors)"
    return "no atoms"


def _parse_pdb(text: str, path: Path) -> gemmi.Structure:
    lines = text.splitlines()
    # gemmi takes what is no number for 0.
    for number, line in enumerate(lines, start=1):
        atom = _PDB_ATOM.match(line)
        for field in _PDB_COORDINATES if atom else ():
            if not _is_finite(line[field]):
                found = shown(line[field].strip())
                raise InputError(f"expected finite coordinates, found {found} in line {number}", file=path)
    # Where a line is short, gemmi goes on in the one before.
    return gemmi.read_pdb_string("\n".join(line.ljust(80) for line in lines))


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _sort_residues(structure: gemmi.Structure) -> bool:
    """Say of each residue whether it is of a polymer; returns whether the file's own names did."""
    named = {name for entity in structure.entities for name in entity.subchains}
    labelled = structure.input_format != gemmi.CoorFormat.Pdb and all(
        residue.subchain in named for chain in structure[0] for residue in chain
    )
    if not labelled:
        structure.merge_chain_parts()
        listed = {code for entity in structure.entities for code in entity.full_sequence}
        for chain in structure[0]:
            _sort_by_name(chain, _parts_of_polymers() | listed)
        structure.assign_subchains(force=True)
    structure.setup_entities()
    structure.assign_label_seq_id()
    return labelled


def _sort_by_name(chain: gemmi.Chain, names: frozenset[str]) -> None:
    """What has one of these names is of the polymer, up to the TER record where a PDB file has one."""
    is_ended = any(residue.entity_type == gemmi.EntityType.Polymer for residue in chain)
    parts = [
        residue
        for residue in chain
        if residue.name in names and (residue.entity_type == gemmi.EntityType.Polymer or not is_ended)
    ]
    for residue in chain:
        residue.entity_id = ""
        is_water = residue.is_water()
        residue.entity_type = gemmi.EntityType.Water if is_water else gemmi.EntityType.NonPolymer
    for residue in parts if len(parts) >= _FEWEST_OF_A_POLYMER else ():
        residue.entity_type = gemmi.EntityType.Polymer


@cache
def _parts_of_polymers() -> frozenset[str]:
    return frozenset({*info.amino_acid_names(), *info.nucleotide_names(), *_CAPS})
