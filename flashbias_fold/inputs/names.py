"""Names of jobs. Each becomes a folder of the output, so it must be safe as one."""

from __future__ import annotations

import hashlib
import os
import re
import sys
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
    """Make a name out of any text, such as the identifier of a FASTA record; it may be empty.

    Letters and digits of every script stay. Where anything else of a text that is not ASCII is lost, a digest
    of it keeps the name apart from others.
    """
    letters = "".join(letter if _is_safe(letter) else " " for letter in text)
    name = re.sub(" +", "_", letters).lstrip("-.")
    if text.isascii():
        return name[:_MOST_BYTES]
    if name == text and len(name.encode()) <= _MOST_BYTES:
        return name
    digest = "_" + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return name.encode()[: _MOST_BYTES - len(digest)].decode(errors="ignore") + digest


def _is_safe(letter: str) -> bool:
    """Tell a letter, mark or digit, or one of `._-`, from what may mean something in a path or a shell."""
    if letter.isascii():
        return letter.isalnum() or letter in "._-"
    return unicodedata.category(letter)[0] in "LMN"


def same_folder_key(name: str) -> str:
    """Names with the same key are one folder on some file system."""
    return unicodedata.normalize("NFC", name).casefold()


def _rules(name: str) -> list[tuple[bool, str]]:
    return [
        ("/" in name or "\\" in name, "a name without '/' and '\\', as it becomes a folder"),
        (not name.isprintable(), "a name without control characters and invisible ones"),
        (name[0] in "-.", "a name that does not begin with '-' or '.'"),
        (len(name.encode(errors="replace")) > _MOST_BYTES, f"a name of at most {_MOST_BYTES} bytes"),
        (not _can_be_stored(name), f"a name in {sys.getfilesystemencoding()}, as this Python names files"),
        (name.casefold() in _RESERVED, "a name that is not one of the output's own files"),
    ]


def _can_be_stored(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True
