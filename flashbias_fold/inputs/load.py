"""From a path to the jobs in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from flashbias_fold.errors import InputError
from flashbias_fold.inputs.catalog_cache import CatalogCache
from flashbias_fold.inputs.document import read_documents
from flashbias_fold.inputs.fasta import read_records, split_records
from flashbias_fold.inputs.files import is_file, is_folder
from flashbias_fold.inputs.job import read_job
from flashbias_fold.inputs.jobs import (
    ComponentCatalog,
    DuplicateNameError,
    InputSet,
    Job,
    ReadingWatch,
    Rejected,
)
from flashbias_fold.inputs.names import safe_name_of, same_folder_key
from flashbias_fold.inputs.place import Place, shown

_JSON = ".json"
_FASTA = (".fasta", ".fa", ".faa", ".fas")
_KINDS = f"a {_JSON} file or FASTA ({', '.join(_FASTA)})"


def load_inputs(path: Path, catalog: ComponentCatalog, watch: ReadingWatch | None = None) -> InputSet:
    """Read and check all jobs of a JSON file, a FASTA file, or a folder of these.

    A job that cannot run is in ``rejected`` and stops no other; so is a file of a folder that cannot be
    read. Raises InputError where there is nothing to go on with: the path is missing, a single file cannot
    be read at all, or a folder holds no input.
    """
    path = Path(path)
    watch = watch or _NobodyWatches()
    catalog = CatalogCache(catalog)
    read = _read_folder if is_folder(path) else _read_file
    inputs = _keep_distinct(read(path, catalog, watch))
    watch.end_reading(len(inputs.jobs))
    return inputs


class _NobodyWatches:
    def reading(self, what: str) -> None:
        pass

    def checked(self, done: int, total: int) -> None:
        pass

    def end_reading(self, jobs: int) -> None:
        pass


def _read_folder(folder: Path, catalog: ComponentCatalog, watch: ReadingWatch) -> list[Job | Rejected]:
    files = _files_of(folder)
    watch.reading(f"{len(files):,} {'file' if len(files) == 1 else 'files'} of {folder}")
    outcomes: list[Job | Rejected] = []
    for number, file in enumerate(files, start=1):
        try:
            outcomes += _read_file(file, catalog, _NobodyWatches())
        except InputError as error:
            outcomes.append(Rejected(error, None))
        watch.checked(number, len(files))
    return outcomes


def _files_of(folder: Path) -> list[Path]:
    """The inputs of a folder by name. Not those of its folders: one of them may hold results."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"expected a readable folder: {error.strerror or error}", file=folder) from None
    files = [entry for entry in entries if _is_input(entry) and not is_folder(entry)]
    if not files:
        raise InputError(f"expected a folder with {_KINDS}, found none in it", file=folder)
    return files


def _is_input(path: Path) -> bool:
    return path.suffix.lower() in (_JSON, *_FASTA) and not path.name.startswith(".")


def _read_file(path: Path, catalog: ComponentCatalog, watch: ReadingWatch) -> list[Job | Rejected]:
    if not is_file(path):
        raise InputError(f"expected {_KINDS}, or a folder of these; no such file", file=path)
    if path.suffix.lower() in _FASTA:
        return list(_read_fasta_file(path, catalog, watch))
    if path.suffix.lower() == _JSON:
        return list(_read_json_file(path, catalog, watch))
    raise InputError(f"expected {_KINDS}, found a name that ends otherwise", file=path)


def _read_json_file(path: Path, catalog: ComponentCatalog, watch: ReadingWatch) -> Iterator[Job | Rejected]:
    watch.reading(str(path))  # how many jobs there are is known when it has been parsed
    documents = read_documents(path)
    for number, document in enumerate(documents, start=1):
        yield _outcome(document, Place(path, f"#{number}"), catalog)
        watch.checked(number, len(documents))


def _read_fasta_file(path: Path, catalog: ComponentCatalog, watch: ReadingWatch) -> Iterator[Job | Rejected]:
    watch.reading(str(path))
    records = split_records(path)
    watch.reading(f"{len(records):,} {'record' if len(records) == 1 else 'records'} of {path}")
    for number, record in enumerate(read_records(path, records), start=1):
        if record.error:
            yield Rejected(record.error, safe_name_of({"name": record.name}))
        else:
            yield _outcome(record.document, record.place, catalog)
        watch.checked(number, len(records))


def _outcome(document: object, place: Place, catalog: ComponentCatalog) -> Job | Rejected:
    try:
        return read_job(document, place, catalog)
    except InputError as error:
        return Rejected(error, safe_name_of(document))


def _keep_distinct(outcomes: Iterable[Job | Rejected]) -> InputSet:
    """Sort the outcomes; of jobs that would share a folder the first keeps it."""
    jobs: list[Job] = []
    rejected: list[Rejected] = []
    owners: dict[str, Path] = {}
    for outcome in outcomes:
        key = same_folder_key(outcome.name) if outcome.name is not None else None
        taken = key is not None and key in owners
        if isinstance(outcome, Rejected):
            rejected.append(Rejected(outcome.error, None) if taken else outcome)
        elif taken:
            first = owners[key or ""]
            message = f"expected a name of its own, found {shown(outcome.name)} again (first in {first.name})"
            error = DuplicateNameError(message, file=outcome.source, job=outcome.name, field="name")
            rejected.append(Rejected(error, None))
        else:
            jobs.append(outcome)
        if key is not None and not taken:
            owners[key] = outcome.source if isinstance(outcome, Job) else Path(outcome.error.file or "")
    return InputSet(tuple(jobs), tuple(rejected))
