"""Which components the featurisation of a job is going to ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def codes_in(text: str) -> frozenset[str]:
    """The codes in a text that separates them by blanks."""
    return frozenset(text.split())


AMINO_ACIDS = codes_in("ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL UNK")
RIBONUCLEOTIDES = codes_in("A C G U I N")
DEOXYRIBONUCLEOTIDES = codes_in("DA DC DG DT DU DI DN")

_RESIDUES = {
    "proteinChain": AMINO_ACIDS,
    "rnaSequence": RIBONUCLEOTIDES,
    "dnaSequence": DEOXYRIBONUCLEOTIDES,
}
_MODIFICATION_FIELDS = ("ptmType", "modificationType")
_PREFIX = "CCD_"


def job_codes(job: Mapping[str, Any]) -> set[str]:
    """The codes that a job of a Protenix JSON file names, and the residues of its kinds of polymer.

    The job need not be valid: what cannot be understood here is left to the checks that explain it.
    """
    codes: set[str] = set()
    for entry in _list(job.get("sequences")):
        for entity, fields in _dict(entry).items():
            codes |= _RESIDUES.get(entity, frozenset()) | _named_codes(_dict(fields))
    return codes


def _named_codes(fields: Mapping[str, Any]) -> set[str]:
    codes = {fields["ion"]} if isinstance(fields.get("ion"), str) else set()
    names = [fields.get("ligand")]
    for modification in _list(fields.get("modifications")):
        names += [_dict(modification).get(field) for field in _MODIFICATION_FIELDS]
    for name in names:
        if isinstance(name, str) and name.startswith(_PREFIX):
            # A ligand may be a chain of components, as in CCD_NAG_BMA.
            codes.update(name.removeprefix(_PREFIX).split("_"))
    return codes


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
