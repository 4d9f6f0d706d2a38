"""Finding and reading the files that an input names."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from flashbias_fold.inputs.place import Place, shown


def find(text: str, place: Place) -> Path:
    """The absolute path of a file or folder named in an input.

    A relative path is tried beside the input file, then in the working directory.
    """
    # Not resolve(), which fails on a loop of links.
    beside = Path(os.path.abspath(place.file)).parent  # noqa: PTH100
    folders = dict.fromkeys([beside, *_working_directory()])
    candidates = [folder / text for folder in folders]
    for candidate in candidates:
        if exists(candidate):
            return candidate
    looked = " and ".join(str(folder) for folder in dict.fromkeys(path.parent for path in candidates))
    raise place.error(f"expected an existing file or folder, found no {shown(text)} (looked in {looked})")


def find_file(text: str, place: Place) -> Path:
    """Like ``find``, and what is found must be a file that can be read."""
    path = find(text, place)
    if not is_file(path):
        raise place.error(f"expected a file, but {path} is a folder or no ordinary file")
    if not os.access(path, os.R_OK):
        raise place.error(f"expected a readable file, but reading {path} is not permitted")
    return path


def read_text(path: Path, place: Place) -> str:
    """The text of a file in UTF-8."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise place.error(f"expected text in UTF-8, but byte {error.start} of {path} is not") from None
    except OSError as error:
        raise place.error(f"expected a readable file: {path}: {error.strerror or error}") from None


def _working_directory() -> list[Path]:
    try:
        return [Path.cwd()]
    except OSError:  # it was deleted
        return []


def exists(path: Path) -> bool:
    """Whether there is such a path."""
    return _mode(path) != 0


def is_file(path: Path) -> bool:
    """Whether it is a file with a content, not a pipe or a device that would never end."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Whether it is a folder."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):  # ValueError: a name that no file system takes
        return 0
