"""Names of jobs. Each becomes a folder of the output, so it must be safe as one."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

from flashbias_fold.errors import InputError
from flashbias_fold.inputs.place import Place, as_text, shown

# A file system allows 255 bytes; the longest file name of a job adds `_summary_confidence_sample_K.json`.
_MOST_BYTES = 200
# Files that the output folder itself holds.
_RESERVED = frozenset(
    {"summary.csv", "run.json", "report.json", "report.csv", "report.html", "campaign.html"}
)


def read_name(value: object, place: Place) -> str:
    """The name of a job, checked."""
    name = as_text(value, place, what="the job's name, a string")
    if name != value:
        place.warn("spaces at the ends of the name are dropped")
    for broken, expected in _rules(name):
        if broken:
            raise place.error(f"expected {expected}, found {shown(name)}")
    return name


def safe_name_of(document: Any) -> str | None:
    """The name of a job that may otherwise be wrong, if it has one that is safe."""
    if not isinstance(document, dict):
        return None
    try:
        return read_name(document.get("name"), Place(Path()))
    except InputError:
        return None


def made_safe(text: str) -> str:
    """A name out of any text, such as the identifier of a FASTA record; may be empty."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip("-.")[:_MOST_BYTES]


def same_folder_key(name: str) -> str:
    """Names with the same key are one folder on some file system."""
    return unicodedata.normalize("NFC", name).casefold()


def _rules(name: str) -> list[tuple[bool, str]]:
    return [
        ("/" in name or "\\" in name, "a name without '/' and '\\', as it becomes a folder"),
        (not name.isprintable(), "a name without control characters and invisible ones"),
        (name[0] in "-.", "a name that does not begin with '-' or '.'"),
        (len(name.encode(errors="replace")) > _MOST_BYTES, f"a name of at most {_MOST_BYTES} bytes"),
        (name.casefold() in _RESERVED, "a name that is not one of the output's own files"),
    ]
