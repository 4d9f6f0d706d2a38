"""One driver for an output folder, also where several machines see it and no lock can be relied on.

The driver holds a file in the folder: made by linking, which is atomic wherever files can be shared, and
touched every few seconds while the driver lives. A file that is not touched any longer is its holder's no
more: another driver moves it away and makes its own. Whoever writes for a driver looks first whether the file
is still its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from flashbias_fold.errors import SetupError, UsageError

LEASE = ".flashbias-fold.driver"
BEAT_S = 5.0
# A driver on another machine is given up after so long without a sign of life: caches of network file systems
# show a change after up to a minute, and a busy server holds the driver up.
STALE_S = 180.0
_LOOKS = 3  # at a file that is not there: it may be on its way from one name to another
_PAUSE_S = 0.2


class LeaseLostError(SetupError):
    """Another driver has taken the folder over, or somebody has removed the file."""


class Lease:
    """A folder, held by one driver at a time.

    Args:
        folder: Which.
        beat_s: How often to give a sign of life.
        stale_s: After how long without one a driver on another machine is given up.
    """

    def __init__(self, folder: Path, *, beat_s: float = BEAT_S, stale_s: float = STALE_S) -> None:
        self.folder = folder
        self.token = uuid.uuid4().hex
        self._path = folder / LEASE
        self._own = folder / f"{LEASE}.{self.token}"
        self._beat_s = beat_s
        self._stale_s = stale_s
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._own.write_text(json.dumps({"token": self.token, **this_process()}) + "\n")
        except OSError as error:
            raise UsageError(f"--out: cannot write to {self.folder}: {error.strerror}") from error
        try:
            self._take()
        finally:
            self._own.unlink(missing_ok=True)
        self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._beating.join(timeout=self._beat_s)
        with contextlib.suppress(OSError):
            if holder_of(self.folder).get("token") == self.token:
                self._path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise LeaseLostError if the folder is another driver's by now."""
        check(self.folder, self.token)

    def _take(self) -> None:
        """Put our file in the place, of a holder that has gone if need be."""
        if self._linked():
            return
        holder = holder_of(self.folder)
        if self._lives(holder):
            raise UsageError(
                f"--out: {self.folder} is in use by {_named(holder)}; wait for it or choose another"
            )
        self._move_away(holder)
        if not self._linked():
            raise UsageError(f"--out: {self.folder} has just been taken by another process")

    def _linked(self) -> bool:
        try:
            os.link(self._own, self._path)
        except FileExistsError:
            # Over a network the first answer may be lost, and the link is ours all the same.
            return holder_of(self.folder).get("token") == self.token
        except OSError:  # a file system without links
            return self._created()
        return True

    def _created(self) -> bool:
        try:
            with self._path.open("x") as file:
                file.write(self._own.read_text())
        except FileExistsError:
            return False
        return True

    def _move_away(self, holder: dict[str, Any]) -> None:
        """Take the file of a holder that has gone, and of no other, out of the way."""
        away = self.folder / f"{LEASE}.{self.token}.stale"
        try:
            self._path.rename(away)
        except FileNotFoundError:
            return
        if _read(away).get("token") != holder.get("token"):
            # A third driver was quicker: this is its file.
            with contextlib.suppress(OSError):
                os.link(away, self._path)
        away.unlink(missing_ok=True)

    def _lives(self, holder: dict[str, Any]) -> bool:
        """Whether the holder goes on: on its machine its process tells, elsewhere its last sign of life."""
        here = this_process()
        if all(holder.get(key) == here[key] for key in ("host", "boot", "pid_namespace")):
            return holder.get("started") == start_of(holder.get("pid"))
        try:
            with self._path.open() as file:  # opened, so that a network file system asks its server
                touched = os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return False
        # The server's own clock, by a file that it has just written: machines' clocks differ.
        return self._own.stat().st_mtime - touched < self._stale_s

    def _beat(self) -> None:
        while not self._ended.wait(self._beat_s):
            with contextlib.suppress(OSError):
                if holder_of(self.folder).get("token") == self.token:
                    os.utime(self._path)


def holder_of(folder: Path) -> dict[str, Any]:
    """What the file of a folder's driver says; nothing if there is none."""
    return _read(folder / LEASE)


def check(folder: Path, token: str) -> None:
    """Raise LeaseLostError unless the folder's driver is the one of this token."""
    for _ in range(_LOOKS):
        holder = holder_of(folder)
        if holder.get("token") == token:
            return
        if holder:
            break
        time.sleep(_PAUSE_S)
    how = f"taken over by {_named(holder)}" if holder else f"given up ({LEASE} in it is gone)"
    raise LeaseLostError(f"{folder} was {how}; this run writes no more")


def _named(holder: dict[str, Any]) -> str:
    return (
        f"process {holder['pid']} on {holder['host']}"
        if {"pid", "host"} <= holder.keys()
        else "another process"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def this_process() -> dict[str, Any]:
    """What tells this process from all others, here and elsewhere, before and after."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": start_of(os.getpid()),
        # Containers may share a host's name, and a host its name with the next one to have it.
        "boot": _text(Path("/proc/sys/kernel/random/boot_id")),
        "pid_namespace": _link("/proc/self/ns/pid"),
    }


def start_of(pid: object) -> int | None:
    """When a process was started, in ticks since the machine was; None if there is none."""
    fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return int(fields[19]) if len(fields) > 19 and fields[0] not in "ZX" else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
