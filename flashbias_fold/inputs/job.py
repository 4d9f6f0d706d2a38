"""One job: its fields read in order, each checked against the ones before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flashbias_fold.choices import MAX_SEED
from flashbias_fold.inputs.bonds import read_bonds, read_constraint
from flashbias_fold.inputs.document import check_values
from flashbias_fold.inputs.entities import read_entities
from flashbias_fold.inputs.jobs import ComponentCatalog, Job
from flashbias_fold.inputs.names import read_name
from flashbias_fold.inputs.place import (
    Place,
    as_integer,
    as_list,
    as_object,
    printable,
    refuse_other_molecules,
    required,
    warn_of_unknown,
)
from flashbias_fold.inputs.residues import count_tokens_and_atoms

_READ = ("name", "sequences", "covalent_bonds", "constraint", "modelSeeds")
_MOLECULE = ("sequences", "covalent_bonds")


def read_job(document: object, place: Place, catalog: ComponentCatalog) -> Job:
    """The job that a document describes. Raises InputError at the first field that is wrong."""
    members = as_object(document, place)
    if isinstance(members.get("name"), str) and members["name"].strip():
        place = replace(place, job=printable(members["name"].strip()))
    check_values(members, place)
    name = read_name(required(members, "name", place, what="the job's name"), place.at("name"))
    refuse_other_molecules(members, _MOLECULE, place)
    warn_of_unknown(members, _READ, place)
    seeds = _read_seeds(members.get("modelSeeds"), place.at("modelSeeds"))
    sequences = required(members, "sequences", place, what="a list of entities")
    entities = read_entities(sequences, place.at("sequences"), catalog)
    bonds, bonded = read_bonds(members.get("covalent_bonds"), place.at("covalent_bonds"), entities, catalog)
    constraint, split = read_constraint(members.get("constraint"), place.at("constraint"), entities)
    n_token, n_atom = count_tokens_and_atoms(entities, bonded, split, catalog)
    result: dict[str, Any] = {"name": name, "sequences": [entity.document for entity in entities]}
    optional = {"covalent_bonds": bonds, "constraint": constraint, "modelSeeds": seeds}
    result |= {field: value for field, value in optional.items() if value}
    return Job(
        name=name,
        source=place.file,
        document=result,
        n_token=n_token,
        n_atom=n_atom,
        n_chain=sum(entity.count for entity in entities),
        seeds=tuple(seeds),
        warnings=tuple(place.warnings),
    )


def _read_seeds(value: object, place: Place) -> list[int]:
    if value is None or value == []:
        return []
    values = as_list(value, place, of="seeds")
    # The AlphaFold server writes its seeds as strings.
    seeds = [
        as_integer(seed, place.at(index), low=0, high=MAX_SEED, digits=True)
        for index, seed in enumerate(values)
    ]
    distinct = list(dict.fromkeys(seeds))
    if len(distinct) < len(seeds):
        place.warn("a seed that is given twice is used once")
    return distinct
