"""A job from an experimental structure: what to predict so that the structure is the truth of it.

The chains are those of the biological assembly, each with its whole sequence where the file has one, so that
residues that no experiment resolved are predicted too. Whatever the assembly has and the job has not, and
what the job says otherwise, is among the job's warnings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gemmi
from biotite.structure import info

from flashbias_fold.compare.assembly import Assembly, Chain, open_assembly
from flashbias_fold.compare.assembly_file import name_of
from flashbias_fold.errors import InputError
from flashbias_fold.inputs.entities import check_component
from flashbias_fold.inputs.job import read_job
from flashbias_fold.inputs.jobs import ComponentCatalog, Job
from flashbias_fold.inputs.names import made_safe
from flashbias_fold.inputs.place import Place, listed
from flashbias_fold.inputs.residues import can_be_bonded
from flashbias_fold.inputs.sequences import COMPONENTS

# What crystals are grown, frozen and purified with: alcohols and glycols, the shorter polyethylene glycols,
# cryoprotectants, buffers, polyatomic ions of salts and reducing agents, and what nobody could identify.
# Single atoms are not among them: a name does not tell whether a sodium or chloride ion belongs there.
_ADDITIVE_CODES = """
    GOL EDO EGL PGO PGR MPD MRD IPA EOH MOH BU1 BU3 HEZ PDO DIO
    PEG PGE PG4 PG5 PG6 1PE 2PE P6G 15P 12P PE3 PE4 PE5 PE8 7PE XPE 33O
    SO4 PO4 PI NO3 CO3 BCT SCN AZI NH4 CAC
    ACT ACY FMT CIT FLC TAR TLA MLI MLA SIN OXL
    TRS EPE MES BTB BCN NHE CXS PIN MPO IMD
    DMS DMF ACN BME DTT DTU TCE UNK UNL UNX
"""
_ADDITIVES = frozenset(_ADDITIVE_CODES.split())
_KINDS = {
    gemmi.PolymerType.PeptideL: "proteinChain",
    gemmi.PolymerType.PeptideD: "proteinChain",
    gemmi.PolymerType.Dna: "dnaSequence",
    gemmi.PolymerType.Rna: "rnaSequence",
}
_MODIFICATION_FIELDS = {
    "proteinChain": ("ptmType", "ptmPosition"),
    "dnaSequence": ("modificationType", "basePosition"),
    "rnaSequence": ("modificationType", "basePosition"),
}
_PARTS = {"proteinChain": ("protein",), "dnaSequence": ("dna", "rna"), "rnaSequence": ("dna", "rna")}
_UNKNOWN = {"proteinChain": "X", "dnaSequence": "N", "rnaSequence": "N"}
# Protenix bonds these two to the ends of a protein, and no other component that is no amino acid.
_CAPS = ("ACE", "NME")
# The letter of a component; of those that share one, the last: N and not X for an unknown base.
_LETTERS = {
    kind: {code: letter for letter, code in components.items()} for kind, components in COMPONENTS.items()
}


def read_entry(path: Path, catalog: ComponentCatalog) -> Job:
    """The job that predicts the assembly of a file; its truth is `read_assembly` of the same.

    Raises:
        InputError: The file cannot be read, or its assembly cannot be predicted.
    """
    return job_of(open_assembly(path), catalog)


def job_of(assembly: Assembly, catalog: ComponentCatalog) -> Job:
    """The job of an assembly that has been read."""
    name = made_safe(name_of(assembly.path)) or "structure"
    place = Place(assembly.path, name)
    notes = _Notes()
    polymers = _polymers(assembly, catalog, notes)
    if not polymers:
        raise place.error(f"expected a chain of protein, DNA or RNA, found none; {'; '.join(notes.lines())}")
    sequences = polymers + _ligands(assembly, catalog, notes)
    for note in notes.lines():
        place.warn(note)
    return read_job({"name": name, "sequences": sequences}, place, catalog)


@dataclass
class _Notes:
    """How the job differs from the structure, gathered over its chains."""

    left_out: Counter[str] = field(default_factory=Counter)
    misnamed: Counter[str] = field(default_factory=Counter)
    bonded: Counter[str] = field(default_factory=Counter)
    exchanged: Counter[str] = field(default_factory=Counter)
    resolved_only: list[str] = field(default_factory=list)
    hybrids: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """One line for each kind of remark that there is."""
        remarks = (
            ("left out", _counts(self.left_out)),
            ("left out, as the component of that name has other atoms", _counts(self.misnamed)),
            ("bonded to something else in the structure, but not in the job", _counts(self.bonded)),
            ("modified residues that cannot be predicted as such", _counts(self.exchanged)),
            (
                "the file has no sequence that fits, so what is resolved is predicted, of chain",
                self.resolved_only,
            ),
            ("both DNA and RNA, the rarer of the two as modifications, in chain", self.hybrids),
        )
        return [f"{title}: {listed(items)}" for title, items in remarks if items]


def _counts(counter: Counter[str]) -> list[str]:
    return [f"{number} {label}" for label, number in counter.items()]


@dataclass(frozen=True)
class _Polymer:
    """What makes two chains copies of each other."""

    kind: str
    sequence: str
    modified: tuple[tuple[int, str], ...]

    def entry(self, count: int) -> dict[str, Any]:
        """As a job lists it."""
        fields: dict[str, Any] = {"sequence": self.sequence, "count": count}
        if self.modified:
            type_field, position_field = _MODIFICATION_FIELDS[self.kind]
            fields["modifications"] = [
                {type_field: f"CCD_{code}", position_field: position} for position, code in self.modified
            ]
        return {self.kind: fields}


def _polymers(assembly: Assembly, catalog: ComponentCatalog, notes: _Notes) -> list[dict[str, Any]]:
    found: Counter[_Polymer] = Counter()
    for chain in assembly.chains:
        if not chain.is_polymer:
            continue
        codes = chain.sequence or tuple(residue.name for residue in chain.residues)
        kind = _kind_of(chain, codes, catalog, notes)
        if kind is None:
            notes.left_out["chain that is neither protein nor DNA nor RNA"] += len(chain.places)
            continue
        if not chain.sequence:
            notes.resolved_only.append(chain.name)
        found[_polymer(kind, codes, len(chain.places), catalog, notes)] += len(chain.places)
    return [polymer.entry(count) for polymer, count in found.items()]


def _kind_of(chain: Chain, codes: Sequence[str], catalog: ComponentCatalog, notes: _Notes) -> str | None:
    """What jobs call the kind of a polymer; None where they have no name for it."""
    if chain.polymer_type != gemmi.PolymerType.DnaRnaHybrid:
        return _KINDS.get(chain.polymer_type)
    notes.hybrids.append(chain.name)
    kinds = [catalog.kind(code) for code in codes]
    return "rnaSequence" if kinds.count("rna") > kinds.count("dna") else "dnaSequence"


def _polymer(
    kind: str, codes: Sequence[str], copies: int, catalog: ComponentCatalog, notes: _Notes
) -> _Polymer:
    codes = list(codes)
    for end in (0, -1):
        while len(codes) > 1 and _is_lost_cap(codes[end], catalog):
            notes.left_out[codes.pop(end)] += copies
    letters, modified = [], []
    for position, code in enumerate(codes, start=1):
        letters.append(_LETTERS[kind].get(code) or _parent(kind, code))
        if code in _LETTERS[kind]:
            continue
        if _can_modify(kind, code, catalog) or (code in _CAPS and position in (1, len(codes))):
            modified.append((position, code))
        else:
            notes.exchanged[code] += copies
    return _Polymer(kind, "".join(letters), tuple(modified))


def _is_lost_cap(code: str, catalog: ComponentCatalog) -> bool:
    return catalog.kind(code) == "ligand" and code in catalog and code not in _CAPS


def _parent(kind: str, code: str) -> str:
    """The letter of the residue that a modified one was made from."""
    letter = info.one_letter_code(code)
    if kind == "rnaSequence" and letter == "T":
        letter = "U"
    return letter if letter in COMPONENTS[kind] else _UNKNOWN[kind]


def _can_modify(kind: str, code: str, catalog: ComponentCatalog) -> bool:
    return (
        _can_be_built(code, catalog) and catalog.kind(code) in _PARTS[kind] and can_be_bonded(code, catalog)
    )


def _can_be_built(code: str, catalog: ComponentCatalog) -> bool:
    try:
        check_component(code, Place(Path()), catalog)
    except InputError:
        return False
    return True


def _ligands(assembly: Assembly, catalog: ComponentCatalog, notes: _Notes) -> list[dict[str, Any]]:
    bonds = _bonds(assembly.structure)
    found: Counter[str] = Counter()
    for chain in assembly.chains:
        for residue in () if chain.is_polymer else chain.residues:
            code, copies = residue.name, len(chain.places)
            partners = bonds.get(_key(residue), ())
            if chain.entity_type == gemmi.EntityType.Branched or _is_branched(residue, chain, partners):
                notes.left_out[f"{code} of a branched sugar"] += copies
            elif code in _ADDITIVES or not _can_be_built(code, catalog):
                notes.left_out[code] += copies
            elif not _heavy_atoms(residue) <= set(catalog.heavy_atoms(code)):
                notes.misnamed[code] += copies
            else:
                found[code] += copies
                notes.bonded.update({code: copies} if partners else {})
    return [_ligand(code, count, catalog) for code, count in found.items()]


def _ligand(code: str, count: int, catalog: ComponentCatalog) -> dict[str, Any]:
    if len(catalog.heavy_atoms(code)) == 1:
        return {"ion": {"ion": code, "count": count}}
    return {"ligand": {"ligand": f"CCD_{code}", "count": count}}


def _heavy_atoms(residue: gemmi.Residue) -> set[str]:
    return {atom.name for atom in residue if not atom.element.is_hydrogen}


def _bonds(structure: gemmi.Structure) -> dict[tuple[float, ...], list[str]]:
    """The names of what each residue is covalently bonded to, other than its neighbours in a chain."""
    partners: dict[tuple[float, ...], list[str]] = {}
    for connection in structure.connections:
        ends = [structure[0].find_cra(end).residue for end in (connection.partner1, connection.partner2)]
        if connection.type == gemmi.ConnectionType.Covale and all(ends):
            for this, other in (ends, reversed(ends)):
                partners.setdefault(_key(this), []).append(other.name)
    return partners


def _key(residue: gemmi.Residue) -> tuple[float, ...]:
    """What no other residue of the file has: where its first atom stands."""
    return tuple(residue[0].pos.tolist())


def _is_branched(residue: gemmi.Residue, chain: Chain, partners: Sequence[str]) -> bool:
    """Whether it is a sugar that is bonded to another one; files of the PDB alone say it outright."""
    neighbours = [other.name for other in chain.residues if _key(other) != _key(residue)]
    return _is_sugar(residue.name) and any(_is_sugar(other) for other in (*partners, *neighbours))


def _is_sugar(code: str) -> bool:
    return "SACCHARIDE" in (info.link_type(code) or "").upper()
