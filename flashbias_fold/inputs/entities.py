"""The entries of a job's ``sequences``: chains, ligands and ions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from flashbias_fold.inputs.alignments import ALIGNMENT_FIELDS, read_alignments
from flashbias_fold.inputs.jobs import ComponentCatalog
from flashbias_fold.inputs.ligands import Molecule, read_ligand_file, read_smiles
from flashbias_fold.inputs.place import (
    Place,
    as_integer,
    as_list,
    as_object,
    as_text,
    listed,
    refuse_unknown,
    required,
    shown,
)
from flashbias_fold.inputs.residues import Entity, Residue, build_polymer, build_residue, can_be_bonded
from flashbias_fold.inputs.sequences import COMPONENTS, POLYMER, read_sequence

_KINDS = ("proteinChain", "dnaSequence", "rnaSequence", "ligand", "ion")
# AlphaFold 3's names for the same things.
_KINDS_ELSEWHERE = {"protein": "proteinChain", "dna": "dnaSequence", "rna": "rnaSequence"}
_MODIFICATION_FIELDS = {
    "proteinChain": ("ptmType", "ptmPosition"),
    "dnaSequence": ("modificationType", "basePosition"),
    "rnaSequence": ("modificationType", "basePosition"),
}
# Fields that Protenix's own converter from mmCIF writes and nothing reads.
_COMMON_FIELDS = ("count", "id", "label_entity_id", "label_asym_id")

_MOST_COPIES = 10_000
# Protenix names SMILES and file ligands l01 to l99.
_MOST_MOLECULES = 99
# Protenix keeps 16 characters of a chain's name; two that agree so far would become one chain.
_CHAIN_ID = re.compile(r"[A-Za-z0-9]{1,16}")
# Components with an atom of element X, for which Protenix has no token.
_WITHOUT_ELEMENT = frozenset({"ASX", "DUM", "GLX", "UNX"})


def read_entities(value: object, place: Place, catalog: ComponentCatalog) -> list[Entity]:
    """All entities of a job."""
    entries = as_list(value, place, of="entities")
    used_chains: set[str] = set()
    entities = [
        _read_entity(entry, place.at(index), catalog, used_chains) for index, entry in enumerate(entries)
    ]
    _check_number_of_molecules(entities, place)
    if all(entity.is_single_atoms for entity in entities):
        # Protenix's featurizer looks for the bonds of the job, and does not expect that there are none.
        raise place.error("expected at least one chain or ligand of more than one atom, found none")
    return entities


def _read_entity(value: object, place: Place, catalog: ComponentCatalog, used_chains: set[str]) -> Entity:
    entry = as_object(value, place)
    if len(entry) != 1:
        found = listed(entry) if entry else "none"
        raise place.error(f"expected exactly one of {', '.join(_KINDS)}, found {found}")
    kind, info = next(iter(entry.items()))
    if kind not in _KINDS:
        meant = [_KINDS_ELSEWHERE.get(kind.lower(), ""), *get_close_matches(kind, _KINDS, n=1)]
        hint = next((f"; did you mean '{name}'?" for name in meant if name), "")
        raise place.error(f"expected one of {', '.join(_KINDS)}, found {shown(kind)}{hint}")
    here = place.at(kind)
    members = as_object(info, here)
    copies = _read_copies(members, here, used_chains)
    if kind == "ion":
        return _read_ion(members, copies, here, catalog)
    if kind == "ligand":
        return _read_ligand(members, copies, here, catalog)
    return _read_polymer(kind, members, copies, here, catalog)


def _read_polymer(
    kind: str, info: Mapping[str, Any], copies: dict[str, Any], place: Place, catalog: ComponentCatalog
) -> Entity:
    value = required(info, "sequence", place, what=f"a {POLYMER[kind]} sequence")
    refuse_unknown(info, ("sequence", "modifications", *ALIGNMENT_FIELDS[kind], *_COMMON_FIELDS), place)
    sequence = read_sequence(value, kind, place.at("sequence"))
    modified = _read_modifications(kind, info.get("modifications"), sequence, place, catalog)
    alignments = read_alignments(info, kind, sequence, place)
    codes = [COMPONENTS[kind][letter] for letter in sequence]
    for position, code in modified.items():
        codes[position - 1] = code
    type_field, position_field = _MODIFICATION_FIELDS[kind]
    document: dict[str, Any] = {"sequence": sequence, **copies, **alignments}
    if modified:
        document["modifications"] = [
            {type_field: f"CCD_{code}", position_field: position} for position, code in modified.items()
        ]
    return Entity(kind, {kind: document}, copies["count"], build_polymer(codes, catalog), {})


def _read_modifications(
    kind: str, value: object, sequence: str, place: Place, catalog: ComponentCatalog
) -> dict[int, str]:
    """Position -> code of each modified residue."""
    modified: dict[int, str] = {}
    if not value:
        return modified
    type_field, position_field = _MODIFICATION_FIELDS[kind]
    here = place.at("modifications")
    for index, entry in enumerate(as_list(value, here, of="modifications")):
        one = here.at(index)
        info = as_object(entry, one)
        given = required(info, position_field, one, what="the position of the residue, counted from 1")
        position = as_integer(given, one.at(position_field), low=1, high=len(sequence))
        if position in modified:
            raise one.at(position_field).error(f"expected one modification of residue {position}, found two")
        given = required(info, type_field, one, what="CCD_ and the code of a component")
        refuse_unknown(info, _MODIFICATION_FIELDS[kind], one)
        at_end = position in (1, len(sequence))
        modified[position] = _read_modification_type(kind, given, at_end, one.at(type_field), catalog)
    return modified


def _read_modification_type(
    kind: str, value: object, at_end: bool, place: Place, catalog: ComponentCatalog
) -> str:
    text = as_text(value, place, what="CCD_ and the code of a component")
    if not text.startswith("CCD_"):
        raise place.error(f"expected CCD_ and the code of a component, such as CCD_SEP, found {shown(text)}")
    code = text.removeprefix("CCD_")
    check_component(code, place, catalog)
    fitting = ("protein",) if kind == "proteinChain" else ("dna", "rna")
    found = catalog.kind(code)
    # Caps such as ACE and NH2 are no amino acids, and stand at the ends of chains only.
    if found not in fitting and not (found == "ligand" and at_end):
        raise place.error(
            f"expected a component that is part of {POLYMER[kind]}, but {code} is a {found} one"
        )
    if found == "ligand" and code not in ("ACE", "NME"):
        place.warn(f"{code} is no residue of {POLYMER[kind]}: Protenix does not bond it to its neighbour")
    if not can_be_bonded(code, catalog):
        raise place.error(f"expected a component that can be bonded, but Protenix cannot bond {code}")
    return code


def _read_ligand(
    info: Mapping[str, Any], copies: dict[str, Any], place: Place, catalog: ComponentCatalog
) -> Entity:
    what = "CCD_ and a code, FILE_ and a path, or a SMILES"
    here = place.at("ligand")
    text = as_text(required(info, "ligand", place, what=what), here, what=what)
    refuse_unknown(info, ("ligand", *_COMMON_FIELDS), place)
    if text.startswith("CCD_"):
        return _component_ligand(text.removeprefix("CCD_").split("_"), copies, here, catalog)
    if text.startswith("FILE_"):
        path, molecule = read_ligand_file(text.removeprefix("FILE_"), here)
        return _molecule_ligand(f"FILE_{path}", molecule, copies)
    return _molecule_ligand(text, read_smiles(text, here), copies)


def _read_ion(
    info: Mapping[str, Any], copies: dict[str, Any], place: Place, catalog: ComponentCatalog
) -> Entity:
    """An ion, written as a ligand.

    Protenix forgets ions where it counts chains for alignments and templates, so with an ion each later
    chain gets the alignment of another one, and an ion that stands last gets the last residue's. As a
    ligand the same component is counted, and gives the same atoms and tokens.
    """
    what = "the code of a component, such as MG"
    here = place.at("ion")
    code = as_text(required(info, "ion", place, what=what), here, what=what).removeprefix("CCD_")
    refuse_unknown(info, ("ion", *_COMMON_FIELDS), place)
    return _component_ligand([code], copies, here, catalog)


def _component_ligand(
    codes: Sequence[str], copies: dict[str, Any], place: Place, catalog: ComponentCatalog
) -> Entity:
    for code in codes:
        check_component(code, place, catalog)
    document = {"ligand": {"ligand": "_".join(["CCD", *codes]), **copies}}
    residues = tuple(build_residue(code, catalog) for code in codes)
    return Entity("ligand", document, copies["count"], residues, {})


def _molecule_ligand(text: str, molecule: Molecule, copies: dict[str, Any]) -> Entity:
    document = {"ligand": {"ligand": text, **copies}}
    residue = Residue("", "ligand", molecule.atoms)
    return Entity("ligand", document, copies["count"], (residue,), molecule.numbers)


def check_component(code: str, place: Place, catalog: ComponentCatalog) -> None:
    """Refuse a code of which Protenix cannot build atoms."""
    if not code or code not in catalog:
        hint = f"; did you mean {code.upper()}?" if code != code.upper() and code.upper() in catalog else ""
        raise place.error(f"expected the code of a chemical component, found {shown(code)}{hint}")
    if not catalog.can_be_built(code) or code in _WITHOUT_ELEMENT:
        expected = "a component with known elements and coordinates, and atoms other than hydrogen"
        raise place.error(f"expected {expected}, found {code}")


def _read_copies(info: Mapping[str, Any], place: Place, used_chains: set[str]) -> dict[str, Any]:
    """The ``count`` of an entity, and the ``id`` list where one is given."""
    ids = info.get("id")
    ids = [ids] if isinstance(ids, str) else ids
    default = len(ids) if isinstance(ids, list) and ids else 1
    count = info.get("count")
    count = default if count is None else as_integer(count, place.at("count"), low=1, high=_MOST_COPIES)
    if not ids:
        return {"count": count}
    here = place.at("id")
    for index, chain in enumerate(as_list(ids, here, of="chain names")):
        if not isinstance(chain, str) or not _CHAIN_ID.fullmatch(chain):
            expected = "a chain name of 1 to 16 letters and digits"
            raise here.at(index).error(f"expected {expected}, found {shown(chain)}")
        if chain in used_chains:
            raise here.at(index).error(f"expected each chain name once in a job, found '{chain}' again")
        used_chains.add(chain)
    if len(ids) != count:
        raise here.error(f"expected as many chain names as copies ({count}), found {len(ids)}")
    return {"count": count, "id": list(ids)}


def _check_number_of_molecules(entities: Sequence[Entity], place: Place) -> None:
    molecules = [entity for entity in entities if entity.residues[0].code == ""]
    if len(molecules) > _MOST_MOLECULES:
        raise place.error(
            f"expected at most {_MOST_MOLECULES} ligands given as SMILES or file, found {len(molecules)}"
        )
