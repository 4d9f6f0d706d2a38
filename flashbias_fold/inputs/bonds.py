"""Covalent bonds and distance constraints: which atoms of which residues they speak of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flashbias_fold.inputs.jobs import ComponentCatalog
from flashbias_fold.inputs.place import (
    Place,
    as_distance,
    as_integer,
    as_list,
    as_object,
    as_text,
    listed,
    refuse_unknown,
    required,
    shown,
    warn_of_unknown,
)
from flashbias_fold.inputs.residues import Entity, Residue, Site, can_be_bonded

_SIDES = (1, 2)
_OLD_SIDES = {1: "left", 2: "right"}
_PARTS = ("entity", "copy", "position", "atom")
_BOND_FIELDS = [f"{part}{side}" for part in _PARTS for side in _SIDES]
_OLD_BOND_FIELDS = [f"{_OLD_SIDES[side]}_{part}" for part in _PARTS for side in _SIDES]
_RESIDUE = "the number of a residue, counted from 1"
_ENTITY = "the number of an entity in sequences, counted from 1"
_COPY = "the number of a copy, counted from 1"

End = tuple[Site, str]


def read_bonds(
    value: object, place: Place, entities: Sequence[Entity], catalog: ComponentCatalog
) -> tuple[list[dict[str, Any]], list[End]]:
    """The bonds of a job in Protenix's present spelling, and all their ends."""
    documents: list[dict[str, Any]] = []
    ends: list[End] = []
    seen: set[frozenset[End]] = set()
    if not value:
        return documents, ends
    for index, entry in enumerate(as_list(value, place, of="bonds")):
        here = place.at(index)
        bond = as_object(entry, here)
        left, right = (_read_end(bond, side, here, entities, catalog) for side in _SIDES)
        refuse_unknown(bond, (*_BOND_FIELDS, *_OLD_BOND_FIELDS), here)
        _check_pair(left, right, here, entities)
        if frozenset((left, right)) in seen:
            here.warn("the same bond was given before")
            continue
        seen.add(frozenset((left, right)))
        documents.append(_end_document(left, 1) | _end_document(right, 2))
        ends += [left, right]
    return documents, ends


def read_constraint(
    value: object, place: Place, entities: Sequence[Entity]
) -> tuple[dict[str, Any], list[Site]]:
    """The constraints of a job, and the residues of which Protenix will make a token for each atom."""
    if not value:
        return {}, []
    info = as_object(value, place)
    warn_of_unknown(info, ("contact", "pocket"), place)
    document: dict[str, Any] = {}
    split: list[Site] = []
    if info.get("contact"):
        contacts = as_list(info["contact"], place.at("contact"), of="contacts")
        document["contact"] = []
        for index, entry in enumerate(contacts):
            contact, sites = _read_contact(entry, place.at("contact", index), entities)
            document["contact"].append(contact)
            split += sites
    if info.get("pocket"):
        document["pocket"] = _read_pocket(info["pocket"], place.at("pocket"), entities)
    return document, split


def _read_end(
    bond: Mapping[str, Any], side: int, place: Place, entities: Sequence[Entity], catalog: ComponentCatalog
) -> End:
    # The old spelling wins where both are given, as in Protenix.
    old = {part: f"{_OLD_SIDES[side]}_{part}" for part in _PARTS}
    names = {part: old[part] if old[part] in bond else f"{part}{side}" for part in _PARTS}
    copy_given = bond.get(names["copy"]) is not None
    site, residue = _read_site(bond, names, place, entities, copy_given=copy_given)
    if not can_be_bonded(residue.code, catalog):
        raise place.at(names["position"]).error(
            f"expected a component that can be bonded, but Protenix cannot bond {residue.code}"
        )
    given = required(bond, names["atom"], place, what="the name or number of an atom")
    return site, _read_atom(given, place.at(names["atom"]), entities[site.entity - 1], residue)


def _read_site(
    info: Mapping[str, Any],
    names: Mapping[str, str],
    place: Place,
    entities: Sequence[Entity],
    *,
    copy_given: bool = True,
) -> tuple[Site, Residue]:
    """The residue that an entity's number, a copy's and a position point at."""
    number = _read_number(info, names["entity"], place, _ENTITY, high=len(entities))
    entity = entities[number - 1]
    copy = _read_number(info, names["copy"], place, _COPY, high=entity.count) if copy_given else None
    position = _read_number(info, names["position"], place, _RESIDUE, high=len(entity.residues))
    return Site(number, copy, position), entity.residues[position - 1]


def _read_number(info: Mapping[str, Any], name: str, place: Place, what: str, *, high: int) -> int:
    value = required(info, name, place, what=what)
    return as_integer(value, place.at(name), low=1, high=high, digits=True)


def _read_atom(value: object, place: Place, entity: Entity, residue: Residue) -> str:
    """The name of an atom that is given by name, or by number in a ligand that is no component."""
    named = isinstance(value, str) and not value.strip().isdigit()
    if named:
        name = as_text(value, place, what="the name or number of an atom")
        if name not in residue.atoms:
            raise place.error(f"expected one of the atoms {listed(residue.atoms)}, found {shown(name)}")
        return name
    if not entity.atom_numbers:
        what = f"the name of an atom ({listed(residue.atoms)})"
        raise place.error(f"expected {what}, found {shown(value)}; numbers are for SMILES and files")
    number = as_integer(value, place, low=0, high=max(entity.atom_numbers), digits=True)
    if number not in entity.atom_numbers:
        numbers = listed(str(known) for known in entity.atom_numbers)
        raise place.error(f"expected the number of an atom other than hydrogen ({numbers}), found {number}")
    return entity.atom_numbers[number]


def _check_pair(left: End, right: End, place: Place, entities: Sequence[Entity]) -> None:
    if left == right:
        raise place.error("expected a bond between two atoms, found one of an atom with itself")
    n_left, n_right = (
        1 if site.copy is not None else entities[site.entity - 1].count for site, _ in (left, right)
    )
    if n_left != n_right:
        raise place.error(
            f"expected copy1 and copy2, or as many copies of both entities, found {n_left} and {n_right}"
        )


def _end_document(end: End, side: int) -> dict[str, Any]:
    site, atom = end
    copy = {} if site.copy is None else {f"copy{side}": site.copy}
    return {f"entity{side}": site.entity, **copy, f"position{side}": site.position, f"atom{side}": atom}


def _read_contact(
    value: object, place: Place, entities: Sequence[Entity]
) -> tuple[dict[str, Any], list[Site]]:
    info = as_object(value, place)
    warn_of_unknown(info, (*_BOND_FIELDS, "min_distance", "max_distance"), place)
    document: dict[str, Any] = {}
    sites: list[Site] = []
    for side in _SIDES:
        site, residue = _read_site(info, {part: f"{part}{side}" for part in _PARTS}, place, entities)
        sites.append(site)
        document |= {f"entity{side}": site.entity, f"copy{side}": site.copy, f"position{side}": site.position}
        atom = info.get(f"atom{side}")
        if atom is not None:
            here = place.at(f"atom{side}")
            document[f"atom{side}"] = _read_atom(atom, here, entities[site.entity - 1], residue)
    _check_other_chain(sites[0], sites[1], place)
    low = 0.0 if info.get("min_distance") is None else info["min_distance"]
    document["min_distance"] = as_distance(low, place.at("min_distance"), low=0)
    document["max_distance"] = _read_max_distance(info, place, low=document["min_distance"])
    between_atoms = "atom1" in document and "atom2" in document
    return document, sites if between_atoms else []


def _read_pocket(value: object, place: Place, entities: Sequence[Entity]) -> dict[str, Any]:
    info = as_object(value, place)
    warn_of_unknown(info, ("binder_chain", "contact_residues", "max_distance"), place)
    here = place.at("binder_chain")
    chain = as_object(required(info, "binder_chain", place, what="the entity and copy of a chain"), here)
    warn_of_unknown(chain, ("entity", "copy"), here)
    number = _read_number(chain, "entity", here, _ENTITY, high=len(entities))
    copy = _read_number(chain, "copy", here, _COPY, high=entities[number - 1].count)
    residues = required(info, "contact_residues", place, what="a list of residues")
    here = place.at("contact_residues")
    document: dict[str, Any] = {"binder_chain": {"entity": number, "copy": copy}, "contact_residues": []}
    for index, entry in enumerate(as_list(residues, here, of="residues")):
        residue = as_object(entry, here.at(index))
        warn_of_unknown(residue, ("entity", "copy", "position"), here.at(index))
        site, _ = _read_site(residue, {part: part for part in _PARTS}, here.at(index), entities)
        _check_other_chain(Site(number, copy, 0), site, here.at(index))
        document["contact_residues"].append(
            {"entity": site.entity, "copy": site.copy, "position": site.position}
        )
    document["max_distance"] = _read_max_distance(info, place, low=0)
    return document


def _check_other_chain(one: Site, other: Site, place: Place) -> None:
    if (one.entity, one.copy) == (other.entity, other.copy):
        raise place.error("expected residues of two different chains, found both in the same chain")


def _read_max_distance(info: Mapping[str, Any], place: Place, *, low: float) -> float:
    value = required(info, "max_distance", place, what="a distance in angstroms")
    return as_distance(value, place.at("max_distance"), low=low)
