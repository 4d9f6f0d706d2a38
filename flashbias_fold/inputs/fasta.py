"""FASTA input, as ColabFold reads it: each record is one job, its chains separated by ':'.

A chain is protein. A prefix makes it another polymer: ``dna|ACGT``, ``rna|ACGU``; ``protein|MKV`` is
the same as ``MKV``. So a protein with a double strand of DNA is::

    >complex_1
    MKVLIT:dna|GATTACA:dna|TGTAATC

Equal chains become one entity with a count. The job's name is the record's identifier, in any script, with
whatever is unsafe in a folder's name replaced by ``_``. Ligands, modifications and alignments need JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from flashbias_fold.errors import InputError
from flashbias_fold.inputs.files import read_text
from flashbias_fold.inputs.names import made_safe
from flashbias_fold.inputs.place import Place, shown
from flashbias_fold.inputs.sequences import read_sequence

_PREFIXES = {"protein": "proteinChain", "dna": "dnaSequence", "rna": "rnaSequence"}


@dataclass(frozen=True)
class Record:
    """A record of a FASTA file, with the job that it stands for or what is wrong with it."""

    name: str | None
    place: Place
    document: dict[str, Any] | None = None
    error: InputError | None = None


def split_records(path: Path) -> list[tuple[str, str]]:
    """Return title and letters of every record of a FASTA file, unchecked."""
    from Bio.SeqIO.FastaIO import SimpleFastaParser

    text = read_text(path, Place(path)).removeprefix("\ufeff").lstrip()
    if not text.startswith(">"):
        raise Place(path).error("expected FASTA, found no '>' at its beginning")
    return list(SimpleFastaParser(StringIO(text)))


def read_records(path: Path, records: Sequence[tuple[str, str]]) -> Iterator[Record]:
    """Read the records of a FASTA file, which were split before."""
    for number, (title, letters) in enumerate(records, start=1):
        name = made_safe(title.split()[0]) if title.split() else ""
        place = Place(path, name or f"#{number}")
        try:
            yield Record(name or None, place, document=_read_record(name, letters, place))
        except InputError as error:
            yield Record(name or None, place, error=error)


def _read_record(name: str, letters: str, place: Place) -> dict[str, Any]:
    if not name:
        raise place.error("expected a name after '>'")
    counts: dict[tuple[str, str], int] = {}
    for number, chain in enumerate(letters.split(":"), start=1):
        key = _read_chain(chain, place.at(f"chain {number}"))
        counts[key] = counts.get(key, 0) + 1
    sequences = [{kind: {"sequence": chain, "count": count}} for (kind, chain), count in counts.items()]
    return {"name": name, "sequences": sequences}


def _read_chain(chain: str, place: Place) -> tuple[str, str]:
    prefix, bar, rest = chain.rpartition("|")
    kind = _PREFIXES.get(prefix.strip().lower()) if bar else "proteinChain"
    if kind is None:
        known = ", ".join(f"'{name}|'" for name in _PREFIXES)
        raise place.error(f"expected no prefix or one of {known}, found {shown(prefix + bar)}")
    return kind, read_sequence(rest, kind, place)
