"""As much of JSON Schema as `docs/compare.schema.json` uses; a keyword that is not known here is an error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "compare.schema.json").read_text())
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_LIMITS: dict[str, Callable[[Any, Any], bool]] = {
    "const": lambda value, limit: value == limit and type(value) is type(limit),
    "enum": lambda value, limit: value in limit,
    "minimum": lambda value, limit: not _is_number(value) or value >= limit,
    "maximum": lambda value, limit: not _is_number(value) or value <= limit,
    "exclusiveMinimum": lambda value, limit: not _is_number(value) or value > limit,
    "exclusiveMaximum": lambda value, limit: not _is_number(value) or value < limit,
    "minLength": lambda value, limit: not isinstance(value, str) or len(value) >= limit,
    "minItems": lambda value, limit: not isinstance(value, list) or len(value) >= limit,
    "maxItems": lambda value, limit: not isinstance(value, list) or len(value) <= limit,
    "pattern": lambda value, limit: not isinstance(value, str) or re.search(limit, value) is not None,
    "required": lambda value, limit: not isinstance(value, dict) or set(limit) <= set(value),
}
_NOTES = {"$schema", "$defs", "title", "description"}


def faults(value: Any, schema: Any = SCHEMA, place: str = "report") -> list[str]:
    """Where a value is not as the schema says."""
    return list(_faults(value, schema, place))


def _faults(value: Any, schema: Any, place: str) -> Iterator[str]:
    if schema is False:
        yield f"{place}: not known"
        return
    for keyword, limit in schema.items():
        if keyword in _NOTES:
            continue
        if keyword in _LIMITS:
            if not _LIMITS[keyword](value, limit):
                yield f"{place}: {keyword} {limit}"
        elif keyword == "type":
            if not any(_is(value, name) for name in ([limit] if isinstance(limit, str) else limit)):
                yield f"{place}: not {limit}"
        elif keyword == "$ref":
            yield from _faults(value, SCHEMA["$defs"][limit.removeprefix("#/$defs/")], place)
        elif keyword == "anyOf":
            if all(faults(value, choice, place) for choice in limit):
                yield f"{place}: none of the choices"
        elif keyword in _INSIDE:
            yield from _INSIDE[keyword](value, limit, place, schema)
        else:
            raise NotImplementedError(keyword)


def _properties(value: Any, limit: Any, place: str, _schema: Any) -> Iterator[str]:
    for key in limit.keys() & value.keys() if isinstance(value, dict) else ():
        yield from _faults(value[key], limit[key], f"{place}.{key}")


def _others(value: Any, limit: Any, place: str, schema: Any) -> Iterator[str]:
    known = schema.get("properties", {}).keys()
    for key in value.keys() - known if isinstance(value, dict) else ():
        yield from _faults(value[key], limit, f"{place}.{key}")


def _names(value: Any, limit: Any, place: str, _schema: Any) -> Iterator[str]:
    for key in value if isinstance(value, dict) else ():
        yield from _faults(key, limit, f"{place}: the name {key}")


def _items(value: Any, limit: Any, place: str, _schema: Any) -> Iterator[str]:
    for index, item in enumerate(value if isinstance(value, list) else ()):
        yield from _faults(item, limit, f"{place}[{index}]")


_INSIDE = {
    "properties": _properties,
    "additionalProperties": _others,
    "propertyNames": _names,
    "items": _items,
}


def _is(value: Any, name: str) -> bool:
    # In Python a boolean is an integer; in JSON it is not.
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _is_number(value: Any) -> bool:
    return _is(value, "number")
