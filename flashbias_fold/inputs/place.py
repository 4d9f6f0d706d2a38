"""Where in an input a value stands, and the readers of plain values that say so when one is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from flashbias_fold.errors import InputError

_LONGEST_SHOWN = 60
_MOST_UNKNOWN_FIELDS_NAMED = 5
# What other writers of this format add, and what is for people: no prediction changes when it is left out.
_HARMLESS = (
    "assembly_id", "dialect", "version", "description", "comment", "comments", "note", "notes", "label",
)  # fmt: skip
_COMMENT_MARKS = ("_", "#", "//")
# Read of some entities only, or by AlphaFold 3: left out, the molecule stays the same. They are warned of.
_NOT_OF_THE_MOLECULE = (
    "msa", "pairedMsa", "pairedMsaPath", "unpairedMsa", "unpairedMsaPath", "templates", "templatesPath",
    "useStructureTemplate", "maxTemplateDate",
)  # fmt: skip
_INSTEAD = {
    "bondedAtomPairs": "give bonds as covalent_bonds",
    "glycans": "give glycans as ligands, bonded by covalent_bonds",
    "userCCD": "give the molecule as a ligand: a SMILES, or FILE_ and a path",
    "userCCDPath": "give the molecule as a ligand: a SMILES, or FILE_ and a path",
}


@dataclasses.dataclass(frozen=True)
class Place:
    """A field of a job of a file; the source of every error and warning about it."""

    file: Path
    job: str | None = None
    warnings: list[str] = dataclasses.field(default_factory=list, compare=False)
    field: str = ""

    def at(self, *steps: str | int) -> Place:
        """The place of a member: ``place.at("sequences", 1, "ion")`` is ``sequences[1].ion``."""
        path = self.field
        for step in steps:
            if isinstance(step, int):
                path += f"[{step}]"
            else:
                path += f".{printable(step)}" if path else printable(step)
        return dataclasses.replace(self, field=path)

    def error(self, message: str) -> InputError:
        """The error to raise about this place."""
        return InputError(message, file=self.file, job=self.job, field=self.field or None)

    def warn(self, message: str) -> None:
        """Keep a remark about this place for the job's ``warnings``."""
        # One line, as errors are: a path in it may hold anything.
        line = " ".join(message.split())
        self.warnings.append(f"{self.field}: {line}" if self.field else line)


def printable(text: str) -> str:
    """The text as it may stand in a message: short, and nothing in it that a terminal would obey."""
    start = "".join(letter if letter.isprintable() else "?" for letter in text[: _LONGEST_SHOWN + 1])
    return start if len(start) <= _LONGEST_SHOWN else start[: _LONGEST_SHOWN - 3] + "..."


def shown(value: object) -> str:
    """A value of the input as a message quotes it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f"'{printable(value)}'" if value else "an empty string"
        case dict():
            return "an object" if value else "an empty object"
        case list():
            return "a list" if value else "an empty list"
    return printable(str(value))


def listed(names: Iterable[str], most: int = 40) -> str:
    """Names in a row; a long row is cut and says how many are left out."""
    row = [printable(name) for name in names]
    return ", ".join(row[:most]) + (f" and {len(row) - most} more" if len(row) > most else "")


def as_object(value: object, place: Place) -> dict[str, Any]:
    """The value, which must be a JSON object."""
    if not isinstance(value, dict):
        raise place.error(f"expected an object, found {shown(value)}")
    return value


def as_list(value: object, place: Place, *, of: str) -> list[Any]:
    """The value, which must be a list with something in it."""
    if not isinstance(value, list) or not value:
        raise place.error(f"expected a list of {of}, found {shown(value)}")
    return value


def as_text(value: object, place: Place, *, what: str) -> str:
    """The value, which must be a string with something other than spaces in it."""
    if not isinstance(value, str) or not value.strip():
        raise place.error(f"expected {what}, found {shown(value)}")
    return value.strip()


def as_integer(value: object, place: Place, *, low: int, high: int, digits: bool = False) -> int:
    """The value, which must be an integer in ``low..high``; ``digits`` also takes it as a string."""
    number = value
    if digits and isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 10:
        number = int(value)
    # True is an int to Python, and no count or position to anybody.
    if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
        raise place.error(f"expected an integer from {low} to {high}, found {shown(value)}")
    return number


def as_distance(value: object, place: Place, *, low: float) -> float:
    """The value, which must be a finite number of angstroms, at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= 1e6:
        raise place.error(f"expected a distance in angstroms of at least {low:g}, found {shown(value)}")
    return float(value)


def required(members: Mapping[str, Any], key: str, place: Place, *, what: str) -> Any:
    """The member of that name; where it is missing, the error points at a name that looks like it."""
    if key in members:
        return members[key]
    similar = get_close_matches(key, [name for name in members if isinstance(name, str)], n=1)
    hint = f" (found {shown(similar[0])} instead)" if similar else ""
    raise place.at(key).error(f"missing; expected {what}{hint}")


def refuse_unknown(members: Mapping[str, Any], known: Iterable[str], place: Place) -> None:
    """Refuse a field that is not read and asks for something: another molecule would be predicted without it.

    What cannot change the molecule, or holds nothing, is passed over, with a warning if it is no comment.
    """
    names = list(known)
    for key, value in members.items():
        if key in names or key in _NOT_OF_THE_MOLECULE or _is_comment(key) or _is_empty(value):
            continue
        instead = _INSTEAD.get(key) or _meant(key, names)
        hint = f"; {instead}" if instead else f"; expected some of {listed(names)}"
        raise place.error(f"unknown field {shown(key)}: another molecule would be predicted without it{hint}")
    warn_of_unknown(members, names, place)


def refuse_other_molecules(members: Mapping[str, Any], molecule: Iterable[str], place: Place) -> None:
    """Refuse a field of the job itself that adds to the molecule, by its name elsewhere or spelled wrong.

    Args:
        members: The job.
        molecule: The fields of a job that its molecule depends on.
        place: Of the job.
    """
    names = list(molecule)
    for key, value in members.items():
        if key not in names and not _is_empty(value) and (instead := _INSTEAD.get(key) or _meant(key, names)):
            raise place.error(
                f"unknown field {shown(key)}: another molecule would be predicted without it; {instead}"
            )


def _meant(key: str, names: Iterable[str]) -> str:
    similar = get_close_matches(key, names, n=1)
    return f"did you mean '{similar[0]}'?" if similar else ""


def _is_comment(key: str) -> bool:
    return key.lower() in _HARMLESS or key.startswith(_COMMENT_MARKS)


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)


def warn_of_unknown(members: Mapping[str, Any], known: Iterable[str], place: Place) -> None:
    """Warn of each member that is not read, with the name that was probably meant."""
    names = list(known)
    unknown = [key for key in members if key not in names and not _is_comment(key)]
    for key in unknown[:_MOST_UNKNOWN_FIELDS_NAMED]:
        meant = _meant(key, names)
        hint = f"; {meant}" if meant else ""
        place.warn(f"unknown field {shown(key)} is ignored{hint}")
    if len(unknown) > _MOST_UNKNOWN_FIELDS_NAMED:
        place.warn(f"{len(unknown) - _MOST_UNKNOWN_FIELDS_NAMED} more unknown fields are ignored")
