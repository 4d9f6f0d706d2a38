"""What reading an input gives: jobs that can run, and the reasons why others cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flashbias_fold.errors import InputError
from flashbias_fold.inputs.place import listed

# So many names that were given again are said in one line.
_MANY = 3
_MOST_NAMED = 5


class ComponentCatalog(Protocol):
    """What this room asks of the Chemical Component Dictionary."""

    def __contains__(self, code: str) -> bool:
        """Whether there is such a component."""
        ...

    def heavy_atoms(self, code: str) -> tuple[str, ...]:
        """The names of its atoms other than hydrogen and deuterium, leaving atoms included."""
        ...

    def leaving_atoms(self, code: str) -> frozenset[str]:
        """The names of the atoms that may go when the component is bonded to another."""
        ...

    def leaving_groups(self, code: str) -> Mapping[str, tuple[tuple[str, ...], ...]] | None:
        """For each atom that can be bonded, the groups of heavy atoms of which one goes with each bond.

        None where a group hangs on more than one atom: Protenix cannot bond such a component.
        """
        ...

    def can_be_built(self, code: str) -> bool:
        """Whether the dictionary tells enough of it, atoms and coordinates, for Protenix to build it."""
        ...

    def kind(self, code: str) -> str:
        """'protein', 'dna', 'rna' or 'ligand', by the component's type."""
        ...


class ReadingWatch(Protocol):
    """Who is told how far the reading of an input is."""

    def reading(self, what: str) -> None:
        """Note that reading begins, of what."""
        ...

    def checked(self, done: int, total: int) -> None:
        """Note that so many jobs of all, or files of a folder, have been checked."""
        ...

    def end_reading(self, jobs: int) -> None:
        """Note that everything has been read, with so many jobs to do."""
        ...


@dataclass(frozen=True)
class Job:
    """One prediction, checked and complete.

    ``document`` is the job in Protenix's JSON form: counts filled in, paths absolute, sequences in
    upper case, old spellings turned into new ones, and nothing in it that Protenix does not read.
    """

    name: str
    source: Path
    document: dict[str, Any]
    n_token: int
    n_atom: int
    n_chain: int
    seeds: tuple[int, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Rejected:
    """A job, or a whole file of a folder, that cannot run.

    ``name`` is the job's name where that is safe as a folder name and no other job's, else None.
    """

    error: InputError
    name: str | None


class DuplicateNameError(InputError):
    """A job has the name of an earlier one."""


@dataclass(frozen=True)
class InputSet:
    """All jobs of one input, in the order in which they were given."""

    jobs: tuple[Job, ...]
    rejected: tuple[Rejected, ...]

    def error_lines(self) -> list[str]:
        """Say why jobs were rejected: a line for each, but one for all names that were given again."""
        errors = [rejected.error for rejected in self.rejected]
        repeated = [error for error in errors if isinstance(error, DuplicateNameError)]
        if len(repeated) < _MANY:
            return [str(error) for error in errors]
        lines = [str(error) for error in errors if not isinstance(error, DuplicateNameError)]
        files = ", ".join(dict.fromkeys(str(error.file) for error in repeated[:_MOST_NAMED]))
        names = listed(dict.fromkeys(str(error.job) for error in repeated), most=_MOST_NAMED)
        message = (
            f"{files}: name: expected a name of its own for each job, found {len(repeated):,} more jobs with "
            f"the name of an earlier one: {names}; they are left out"
        )
        return [*lines, message]
