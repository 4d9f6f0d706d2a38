"""Alignments and templates of a chain: found, read, and compared with the chain's sequence.

Protenix looks only at the number of columns of the first row. A row of another length is cut or padded
there, and an alignment of another protein is used as if it were this one's; both are errors here.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from typing import Any

from flashbias_fold.inputs.files import find, find_file, is_file, read_text
from flashbias_fold.inputs.place import Place, as_object, as_text, printable, shown, warn_of_unknown

# Field with the text -> field with the path. Protenix reads the text where both are given.
_FIELDS = {
    "proteinChain": {"pairedMsa": "pairedMsaPath", "unpairedMsa": "unpairedMsaPath"},
    "rnaSequence": {"unpairedMsa": "unpairedMsaPath"},
}
ALIGNMENT_FIELDS = {
    "proteinChain": ("pairedMsa", "pairedMsaPath", "unpairedMsa", "unpairedMsaPath", "msa", "templatesPath"),
    "rnaSequence": ("unpairedMsa", "unpairedMsaPath"),
    "dnaSequence": (),
}
_OLD_FILES = {"pairedMsaPath": "pairing.a3m", "unpairedMsaPath": "non_pairing.a3m"}

NO_ALIGNMENT = "no alignment for this protein chain: predicted from its sequence alone"

_ROW = re.compile(r"[A-Za-z.-]*")
_INSERTIONS = str.maketrans("", "", string.ascii_lowercase + ".")
_UNKNOWN_RESIDUE = {"proteinChain": "X", "rnaSequence": "XN"}


def read_alignments(info: Mapping[str, Any], entity: str, sequence: str, place: Place) -> dict[str, str]:
    """The alignment and template fields of a chain in Protenix's present form, paths absolute."""
    given: dict[str, str] = {}
    for text_field, path_field in _FIELDS.get(entity, {}).items():
        if info.get(text_field) is not None:
            given[text_field] = _read_text_field(info[text_field], entity, sequence, place.at(text_field))
            if info.get(path_field):
                place.warn(f"{path_field} is ignored, as {text_field} is given")
        elif info.get(path_field):
            given[path_field] = _read_path_field(info[path_field], entity, sequence, place.at(path_field))
    if entity == "proteinChain":
        given |= _read_old_form(info.get("msa"), sequence, place, taken=bool(given))
        if not given:
            place.warn(NO_ALIGNMENT)
        if info.get("templatesPath"):
            given["templatesPath"] = _read_templates(info["templatesPath"], place.at("templatesPath"))
    return given


def _read_text_field(value: object, entity: str, sequence: str, place: Place) -> str:
    if value == "":  # AlphaFold 3's way to ask for no alignment on purpose.
        return ""
    text = as_text(value, place, what="an alignment in a3m format")
    _check_alignment(text, entity, sequence, place, "")
    return text


def _read_path_field(value: object, entity: str, sequence: str, place: Place) -> str:
    path = find_file(as_text(value, place, what="the path of an a3m file"), place)
    text = read_text(path, place)
    if not text.strip():
        place.warn(f"{path} is empty: nothing is taken from it")
    else:
        _check_alignment(text, entity, sequence, place, f"{path}: ")
    return str(path)


def _read_old_form(value: object, sequence: str, place: Place, *, taken: bool) -> dict[str, str]:
    """The older form: a folder with two files of fixed names."""
    if not value:  # Null and an empty object mean that there is no alignment yet.
        return {}
    here = place.at("msa")
    info = as_object(value, here)
    warn_of_unknown(info, ("precomputed_msa_dir", "pairing_db", "pairing_db_fpath", "search_tool"), here)
    if not info.get("precomputed_msa_dir"):
        return {}
    if taken:
        here.warn("ignored, as the chain's alignments are given in the present form too")
        return {}
    here = here.at("precomputed_msa_dir")
    folder = find(as_text(info["precomputed_msa_dir"], here, what="the path of a folder"), here)
    found = {field: folder / name for field, name in _OLD_FILES.items() if is_file(folder / name)}
    if not found:
        raise here.error(f"expected pairing.a3m or non_pairing.a3m in {folder}")
    return {
        field: _read_path_field(str(path), "proteinChain", sequence, here) for field, path in found.items()
    }


def _read_templates(value: object, place: Place) -> str:
    path = find_file(as_text(value, place, what="the path of a template search"), place)
    if path.suffix not in (".hhr", ".a3m"):
        raise place.error(f"expected the path of an .hhr or .a3m file, found {shown(value)}")
    first_line = read_text(path, place).lstrip().partition("\n")[0]
    if not first_line.startswith((">", "#") if path.suffix == ".a3m" else "Query"):
        raise place.error(f"expected {path} to be a result in {path.suffix[1:]} format")
    return str(path)


def _check_alignment(text: str, entity: str, sequence: str, place: Place, source: str) -> None:
    # MMseqs2 ends its files with a NUL, which Protenix takes for an insertion after the last column.
    for number, (title, row) in enumerate(_rows(text.rstrip("\0"), place, source), start=1):
        where = f"{source}row {number} ('{printable(title)}')"
        if not _ROW.fullmatch(row):
            letter = next(letter for letter in row if not _ROW.fullmatch(letter))
            raise place.error(f"{where}: expected letters, '-' and '.', found '{printable(letter)}'")
        columns = row.translate(_INSERTIONS)
        if number == 1:
            _check_query(columns, sequence, _UNKNOWN_RESIDUE[entity], place, where)
        elif len(columns) != len(sequence):
            raise place.error(f"{where}: expected {len(sequence)} aligned columns, found {len(columns)}")


def _rows(text: str, place: Place, source: str) -> Iterator[tuple[str, str]]:
    title: str | None = None
    parts: list[str] = []
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if line.startswith(">"):
            if title is not None:
                yield title, "".join(parts)
            title, parts = line[1:], []
        elif line and not line.startswith("#"):
            if title is None:
                raise place.error(f"{source}expected a3m or FASTA, but line {number} comes before any '>'")
            parts.append(line)
    if title is None:
        raise place.error(f"{source}expected a3m or FASTA, found no line that begins with '>'")
    yield title, "".join(parts)


def _check_query(query: str, sequence: str, unknown: str, place: Place, where: str) -> None:
    expected = f"{where}: expected the chain's own sequence ({len(sequence)} residues)"
    if len(query) != len(sequence):
        raise place.error(f"{expected}, found {len(query)}")
    for position, (letter, residue) in enumerate(zip(query, sequence, strict=True), start=1):
        if letter != residue and letter not in unknown and residue not in unknown:
            raise place.error(f"{expected}, found '{letter}' where the chain has '{residue}{position}'")
