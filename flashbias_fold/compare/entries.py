"""From a path to the entries of a comparison: what is predicted, and the experimental structure of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flashbias_fold.compare.assembly_file import STRUCTURE_SUFFIXES, is_structure, name_of
from flashbias_fold.compare.from_structure import read_entry
from flashbias_fold.errors import InputError, UsageError
from flashbias_fold.inputs import ComponentCatalog, InputSet, Job, ReadingWatch, Rejected, load_inputs
from flashbias_fold.inputs.names import same_folder_key

_KINDS = ", ".join(STRUCTURE_SUFFIXES)


def read_jobs(
    path: Path, catalog: ComponentCatalog, watch: ReadingWatch | None = None
) -> tuple[InputSet, dict[str, Path]]:
    """The jobs of an input, and the experimental structures that came with it, by the name of the job.

    An experimental structure is an input too: its sequences are predicted and it is their truth. In a folder,
    one that has the name of a job is that job's.

    Raises:
        InputError: There is nothing to go on with.
    """
    if not path.is_dir():
        if not is_structure(path):
            return load_inputs(path, catalog, watch), {}
        if watch is not None:
            watch.reading(str(path))
        job = read_entry(path, catalog)
        if watch is not None:
            watch.end_reading(1)
        return InputSet((job,), ()), {job.name: path}
    files = _structures_in(path)
    try:
        inputs = load_inputs(path, catalog, watch)
    except InputError:
        if not files:
            raise
        inputs = InputSet((), ())
    if watch is not None and files:
        watch.reading(f"{len(files):,} experimental structure{'' if len(files) == 1 else 's'} of {path}")
    inputs, truths = _with_structures(inputs, files, catalog)
    if watch is not None:
        watch.end_reading(len(inputs.jobs))
    return inputs, truths


def _with_structures(
    inputs: InputSet, files: Iterable[Path], catalog: ComponentCatalog
) -> tuple[InputSet, dict[str, Path]]:
    jobs, rejected = list(inputs.jobs), list(inputs.rejected)
    truths: dict[str, Path] = {}
    named = {same_folder_key(job.name): job.name for job in jobs}
    for file in files:
        if (owner := named.get(same_folder_key(name_of(file)))) is not None:
            truths.setdefault(owner, file)
            continue
        try:
            job = read_entry(file, catalog)
        except InputError as error:
            rejected.append(Rejected(error, None))
            continue
        if same_folder_key(job.name) in named:  # once what a folder's name cannot have is gone
            message = f"expected a name that no other entry has, found '{job.name}' again"
            rejected.append(Rejected(InputError(message, file=file), None))
            continue
        jobs.append(job)
        named[same_folder_key(job.name)] = job.name
        truths[job.name] = file
    return InputSet(tuple(jobs), tuple(rejected)), truths


def _structures_in(folder: Path) -> list[Path]:
    """By name; not those of its folders, nor hidden ones."""
    files = (file for file in folder.iterdir() if is_structure(file) and not file.name.startswith("."))
    return sorted(file for file in files if file.is_file())


@dataclass(frozen=True)
class Truths:
    """The experimental structures that were given with `--truth`.

    Attributes:
        path: What was given.
        files: Name, in lower case, -> file.
        single: The one file that was given, whatever its name.
    """

    path: Path
    files: dict[str, Path]
    single: Path | None = None

    @classmethod
    def find(cls, path: Path) -> Truths:
        """Those of a folder, or one.

        Raises:
            UsageError: There is none.
        """
        if path.is_file():
            if not is_structure(path):
                raise UsageError(f"--truth: {path}: expected a structure ({_KINDS}), or a folder of these")
            return cls(path, {name_of(path).lower(): path}, path)
        if not path.is_dir():
            raise UsageError(f"--truth: {path}: no such file or folder")
        try:
            files = _structures_in(path)
        except OSError as error:
            raise UsageError(f"--truth: {path}: {error.strerror}") from error
        if not files:
            raise UsageError(f"--truth: {path} has no experimental structure ({_KINDS}) in it")
        return cls(path, {name_of(file).lower(): file for file in reversed(files)})

    def of(self, jobs: Iterable[Job]) -> dict[str, Path]:
        """By the name of the job.

        Raises:
            UsageError: There is none for any of them.
        """
        names = [job.name for job in jobs]
        if self.single is not None and len(names) == 1:
            return {names[0]: self.single}
        found = {name: self.files[name.lower()] for name in names if name.lower() in self.files}
        if names and not found:
            raise UsageError(
                f"--truth: {self.path} has no structure that is named after an entry, such as "
                f"{names[0]}{STRUCTURE_SUFFIXES[0]}"
            )
        return found
