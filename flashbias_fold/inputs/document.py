"""From a JSON file to jobs as plain values, with everything refused that Python's reader lets pass."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from flashbias_fold.inputs.files import read_text
from flashbias_fold.inputs.place import Place, shown

# A job of Protenix's format is six levels deep.
_DEEPEST = 32
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Object(dict[str, Any]):
    """A JSON object that remembers the names which stood in it more than once."""

    repeated: tuple[str, ...] = ()


def read_documents(path: Path) -> list[Any]:
    """The jobs of a JSON file as they were written: a list of jobs, or one job object."""
    place = Place(path)
    content = parse(read_text(path, place).removeprefix("\ufeff"), place)
    documents = [content] if isinstance(content, dict) else content
    if not isinstance(documents, list):
        raise place.error(f"expected a list of jobs or one job object, found {shown(content)}")
    if not documents:
        raise place.error("expected at least one job, found an empty list")
    return documents


def parse(text: str, place: Place) -> Any:
    """The values of a JSON text."""
    try:
        return json.loads(text, object_pairs_hook=_as_object)
    except json.JSONDecodeError as error:
        message = f"expected JSON, but line {error.lineno}, column {error.colno}: {error.msg}"
        raise place.error(message) from None
    except RecursionError:
        raise place.error("expected a list of jobs, found JSON that is nested too deeply") from None
    except ValueError:  # Python refuses to turn thousands of digits into a number.
        raise place.error("expected JSON with numbers of ordinary size, found one that is too long") from None


def check_values(document: object, place: Place) -> None:
    """Refuse what no field of a job may hold: repeated names, NaN, broken Unicode, endless nesting.

    A loop, not a recursion: the depth of the document is what is being checked.
    """
    pending: list[tuple[object, Place, int]] = [(document, place, 1)]
    while pending:
        value, where, depth = pending.pop()
        if depth > _DEEPEST:
            raise place.error(f"expected a job object, found one nested more than {_DEEPEST} levels deep")
        if isinstance(value, dict):
            _check_names(value, where)
            pending += [(member, where.at(name), depth + 1) for name, member in value.items()]
        elif isinstance(value, list):
            pending += [(member, where.at(index), depth + 1) for index, member in enumerate(value)]
        elif isinstance(value, str):
            _check_unicode(value, where)
        elif isinstance(value, float) and not math.isfinite(value):
            raise where.error(f"expected a finite number, found {value}")


def _as_object(members: list[tuple[str, Any]]) -> _Object:
    result = _Object(members)
    if len(result) < len(members):
        counts = Counter(name for name, _ in members)
        result.repeated = tuple(name for name, count in counts.items() if count > 1)
    return result


def _check_names(members: dict[str, Any], place: Place) -> None:
    for name in members:
        _check_unicode(name, place)
    if isinstance(members, _Object) and members.repeated:
        raise place.error(f"expected each field once, found {shown(members.repeated[0])} repeated")


def _check_unicode(text: str, place: Place) -> None:
    # JSON can spell half of a surrogate pair, which no file name and no terminal takes.
    if _SURROGATE.search(text):
        raise place.error(f"expected Unicode text, found an unpaired surrogate in {shown(text)}")
