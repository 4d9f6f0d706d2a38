"""Files that are complete whenever they are seen under their name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

PARTIAL = ".partial"


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write beside the file, then rename: a reader, or a run after a crash, sees all of it or nothing."""
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2, default=str) + "\n")


def read_json(path: Path) -> Any | None:
    """The value of a JSON file, or None where there is none that can be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
