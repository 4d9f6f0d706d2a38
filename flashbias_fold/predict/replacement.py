"""A folder of results that is built beside its place and put there in one step.

Until that step a reader finds the old results, afterwards the new ones, and what belongs to neither (notes of
the user, logs, alignments) all the time. The new folder is built on the file system of its place, in
`DIR/.flashbias-fold.new/TOKEN/new/NAME`, from new files and from hard links to what stays. Then the two are
exchanged. Where a file system cannot do that, the old folder is moved to `TOKEN/old/NAME` first: for an
instant there is none, and `settle` puts one back if the run was killed in that instant.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from flashbias_fold.files import PARTIAL, exchange, link_or_copy, sync_folder

WORK = ".flashbias-fold.new"
# In a folder that is being built; the old one, which the exchange puts where that was, has none.
_MARK = ".flashbias-fold.built"
_NEW, _OLD = "new", "old"
# The files of a result, from the folder of its job or entry: nobody else's are ever removed.
_RESULT = re.compile(
    r"(report|error|entry)\.json"
    r"|([^/]+/)?seed_\d+/(report\.json|predictions/[^/]+_sample_\d+\.\w+)"
)


def is_result(path: str) -> bool:
    """Tell whether a file belongs to a result, by its path from the folder of the job or entry."""
    return _RESULT.fullmatch(path.removesuffix(PARTIAL)) is not None


class Replacement:
    """The next state of a folder of results, which is removed again unless it was put in place.

    Args:
        place: The folder, `DIR/NAME`; there may be none yet.

    Attributes:
        folder: Where the next state is built.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._work = place.parent / WORK / uuid.uuid4().hex
        self.folder = self._work / _NEW / place.name

    def __enter__(self) -> Replacement:
        # Not its parents: an output folder that has gone must not come back.
        for folder in (self._work.parent, self._work, self.folder.parent, self.folder):
            folder.mkdir(exist_ok=True)
        (self.folder / _MARK).touch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        settle(self._work)
        (self.place / _MARK).unlink(missing_ok=True)

    def keep(self, stays: Callable[[str], bool]) -> None:
        """Take over the files of the present state that stay; those that were built before come first.

        Args:
            stays: Of a file's path from the folder.
        """
        for path, source in _walk(self.place):
            target = self.folder / path
            if not stays(path) or os.path.lexists(target):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                if source.is_dir() and not source.is_symlink():
                    target.mkdir()
                else:
                    link_or_copy(source, target)
        with contextlib.suppress(OSError):
            shutil.copystat(self.place, self.folder)

    def put_in_place(self) -> None:
        """Replace the folder by what was built."""
        for folder, _, _ in os.walk(self.folder, topdown=False):
            sync_folder(Path(folder))
        if not os.path.lexists(self.place):
            self.folder.rename(self.place)
        elif not exchange(self.folder, self.place):
            self._move_both()
        sync_folder(self.place.parent)

    def _move_both(self) -> None:
        """Do in two steps what the file system cannot do in one."""
        old = self._work / _OLD / self.place.name
        old.parent.mkdir()
        self.place.rename(old)
        self.folder.rename(self.place)


def settle_all(out: Path) -> None:
    """Bring an output folder to a whole state, whatever runs that were killed left there.

    Only for who holds the folder: another's replacement may be under way.
    """
    for work in _entries(out / WORK):
        settle(work)
    with contextlib.suppress(OSError):
        (out / WORK).rmdir()
    for mark in out.glob(f"*/{_MARK}"):
        mark.unlink(missing_ok=True)


def settle(work: Path) -> None:
    """End one replacement wherever it stands: finish what was begun of the exchange, remove what is left."""
    out = work.parent.parent
    for old in _entries(work / _OLD):
        if not os.path.lexists(out / old.name):
            _put_back(old, work / _NEW / old.name, out / old.name)
    for old in (*_entries(work / _OLD), *_entries(work / _NEW)):
        if not (old / _MARK).exists():
            _give_back(old, out / old.name)
    shutil.rmtree(work, ignore_errors=True)


def finish_interrupted(out: Path, name: str) -> None:
    """Fill the place of a job's folder of which another worker died before it could put one there.

    Only for who has the job now, and before anything makes a folder in that place: the results would be lost.
    """
    old = interrupted_place(out, name)
    if old is not None:
        settle(old.parent.parent)
        (out / name / _MARK).unlink(missing_ok=True)


def interrupted_place(out: Path, name: str) -> Path | None:
    """Return where a job's folder is, of which a run was killed before it could put one back; for readers."""
    for work in _entries(out / WORK):
        if (work / _OLD / name).is_dir() and not os.path.lexists(out / name):
            return work / _OLD / name
    return None


def interrupted_names(out: Path) -> list[str]:
    """Return the jobs of which a run was killed between the two steps of a replacement."""
    names = {old.name for work in _entries(out / WORK) for old in _entries(work / _OLD)}
    return sorted(name for name in names if not os.path.lexists(out / name))


def _put_back(old: Path, new: Path, place: Path) -> None:
    """Fill the place of a folder: the new one is whole, or it would not have been moved away."""
    try:
        new.rename(place)
    except OSError:
        old.rename(place)


def _give_back(old: Path, place: Path) -> None:
    """Move what is not ours, and came or changed while the exchange was prepared, to where it was."""
    if old.is_symlink():
        old.unlink()  # what it leads to is the user's
        return
    for path, source in _walk(old):
        target = place / path
        if is_result(path) or _same_file(source, target):
            continue
        with contextlib.suppress(OSError):
            if source.is_dir() and not source.is_symlink():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield all files below a folder, and the folders that hold nothing, by their paths from it."""
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in (*files, *links):
            path = Path(parent, name)
            if name != _MARK:
                yield path.relative_to(folder).as_posix(), path
        if not folders and not files and Path(parent) != folder:
            yield Path(parent).relative_to(folder).as_posix(), Path(parent)


def _same_file(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(one.lstat(), other.lstat())
    return False


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
