"""Download one file so that no interruption costs what was already received.

The content goes to `NAME.partial` and gets its own name only when it is complete and on the disk. What is
there after an interruption is continued with a Range request, guarded twice against a file that changed on
the server meanwhile: by If-Range, and by comparing the answer with what `NAME.partial.json` remembers.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path

import requests

from flashbias_fold import checksum
from flashbias_fold.errors import SetupError
from flashbias_fold.files import read_json, write_json

# What the connection had delivered of an unfinished chunk is lost when it breaks, hence not larger.
_CHUNK = 64 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)$")

_PROXY_ERRORS = (requests.exceptions.ProxyError, requests.exceptions.InvalidProxyURL)

Progress = Callable[[int, int | None], None]
Note = Callable[[str], None]


def download(
    url: str,
    destination: Path,
    *,
    progress: Progress | None = None,
    note: Note | None = None,
    retries: int = 5,
    timeout: float = 60.0,
    backoff: float = 1.0,
    longest_wait: float = 120.0,
) -> Path:
    """Download ``url`` to ``destination`` and keep its checksum beside it.

    A file that already has its final name is complete and is left alone. ``progress`` is called with the
    bytes that are there and the total, if known; ``note`` with a sentence when there is something to say.
    An attempt fails when nothing arrives for ``timeout`` seconds; ``retries`` counts failures in a row
    that brought no further byte, with waits of ``backoff`` seconds, doubled each time.
    """
    note = note or (lambda message: None)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(destination, note):
            if not destination.exists():
                transfer = _Transfer(url, destination, timeout, progress or (lambda done, total: None))
                _persist(transfer, note, retries, backoff, longest_wait)
                transfer.finish()
    except OSError as error:
        raise SetupError(f"cannot write {destination}: {error.strerror or error}") from error
    return destination


class _RetryableError(Exception):
    """An attempt failed in a way that the next one may not. ``wait`` is what the server asked for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def _persist(transfer: _Transfer, note: Note, retries: int, backoff: float, longest_wait: float) -> None:
    """Attempt the transfer until it is complete, or until it failed ``retries`` times without progress."""
    failures, furthest = 0, transfer.received()
    while True:
        try:
            transfer.attempt()
            return
        except _RetryableError as failure:
            if transfer.received() > furthest:
                failures, furthest = 0, transfer.received()
            failures += 1
            if failures > retries:
                raise transfer.error(f"{failure} ({failures} attempts)") from failure
            wait = backoff * 2 ** (failures - 1) if failure.wait is None else failure.wait
            wait = min(wait, longest_wait)
            note(f"{transfer.destination.name}: {failure}; trying again in {wait:.0f} s")
            time.sleep(wait)


@dataclass(frozen=True)
class _Remembered:
    """What a partial file is the beginning of."""

    url: str
    etag: str | None
    last_modified: str | None
    total: int | None

    @property
    def validator(self) -> str | None:
        """What If-Range may carry: a strong entity tag, or else the date."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified

    def agrees(self, response: requests.Response) -> bool:
        """Whether ``response`` speaks of the same content, as far as it says."""
        etag = response.headers.get("ETag", self.etag)
        last_modified = response.headers.get("Last-Modified", self.last_modified)
        return (etag, last_modified) == (self.etag, self.last_modified)


class _Transfer:
    """One file on its way: the partial file, what is remembered of it, and a single attempt."""

    def __init__(self, url: str, destination: Path, timeout: float, progress: Progress) -> None:
        self.url = url
        self.destination = destination
        self.partial = destination.with_name(destination.name + ".partial")
        self.memory = destination.with_name(destination.name + ".partial.json")
        self.timeout = timeout
        self.progress = progress
        self.arrived = False  # anything, in this run

    def received(self) -> int:
        """How many bytes the partial file holds."""
        return self.partial.stat().st_size if self.partial.exists() else 0

    def attempt(self) -> None:
        """Ask for what is missing and append it. Returns only if the partial file is then complete."""
        # Lengths and ranges count the bytes of the file only if the server does not compress it.
        headers = {"Accept-Encoding": "identity"}
        remembered, offset = self._recall(), self.received()
        if remembered and remembered.validator and offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": remembered.validator}
        else:
            remembered = None
        try:
            with requests.get(self.url, headers=headers, stream=True, timeout=self.timeout) as response:
                if remembered:
                    self._continue(response, offset, remembered)
                else:
                    self._begin(response)
        except requests.RequestException as error:
            if isinstance(error, _PROXY_ERRORS) and not self.arrived:  # the same would be said each time
                raise SetupError(f"cannot download {self.url}: {_proxy_reason(error, self.url)}") from error
            # requests marks its errors about the address itself as ValueError: no attempt will mend those.
            if isinstance(error, ValueError):
                raise self.error(str(error)) from error
            raise _RetryableError(_reason(error)) from error

    def finish(self) -> None:
        """Give the complete partial file its final name."""
        _sync(self.partial)
        checksum.keep(self.destination, content=self.partial)
        self.partial.replace(self.destination)
        with contextlib.suppress(OSError):  # not every file system can
            _sync(self.destination.parent)
        self.memory.unlink(missing_ok=True)

    def error(self, reason: str) -> SetupError:
        """The error for the user: what, why, and how to do it without this program."""
        by_hand = f"curl -fL -C - -o {shlex.quote(str(self.destination))} {shlex.quote(self.url)}"
        return SetupError(f"cannot download {self.url}: {reason}; by hand: {by_hand}")

    def _recall(self) -> _Remembered | None:
        """What the partial file is the beginning of; None if that is not known well enough to go on."""
        content = read_json(self.memory)
        return _Remembered(**content) if content and content["url"] == self.url else None

    def _start_over(self) -> None:
        # The bytes go before what is remembered of them, so that a crash between leaves nothing to mix up.
        self.partial.unlink(missing_ok=True)
        self.memory.unlink(missing_ok=True)

    def _begin(self, response: requests.Response) -> None:
        """The whole file, from its first byte."""
        self._check(response, HTTPStatus.OK)
        self._start_over()
        total = _content_length(response)
        etag, last_modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
        write_json(self.memory, asdict(_Remembered(self.url, etag, last_modified, total)))
        self._append(response, 0, total)

    def _continue(self, response: requests.Response, offset: int, remembered: _Remembered) -> None:
        """The answer to a request for what follows ``offset``."""
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self._judge_unsatisfiable(response, offset, remembered)
        elif response.status_code == HTTPStatus.OK:
            # The server knows no ranges, or the file changed.
            self._begin(response)
        else:
            self._check(response, HTTPStatus.PARTIAL_CONTENT)
            total = self._check_range(response, offset, remembered)
            self._append(response, offset, total)

    def _judge_unsatisfiable(self, response: requests.Response, offset: int, remembered: _Remembered) -> None:
        """416: nothing follows what is there. Complete, if the lengths say so; else it is not a beginning."""
        stated = response.headers.get("Content-Range", "").removeprefix("bytes */")
        total = int(stated) if stated.isdigit() else remembered.total
        if offset != total or not remembered.agrees(response):
            raise self._other_file()
        self.progress(offset, total)

    def _other_file(self) -> _RetryableError:
        self._start_over()
        return _RetryableError("the file on the server is not the one begun with")

    def _check(self, response: requests.Response, expected: HTTPStatus) -> None:
        """Whether this answer carries the content, or which error it is."""
        status = response.status_code
        if status >= 500 or status == HTTPStatus.TOO_MANY_REQUESTS:
            raise _RetryableError(f"HTTP {status} {response.reason}", wait=_retry_after(response))
        if status != expected:
            raise self.error(f"HTTP {status} {response.reason}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise self.error("the server sends it compressed only")
        # A proxy's login page comes with status 200; kept as weights it would fail much later.
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise self.error("the answer is a web page, such as a proxy's login")

    def _check_range(self, response: requests.Response, offset: int, remembered: _Remembered) -> int | None:
        """The total of a 206 answer, if it continues exactly what is there."""
        stated = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if stated and int(stated[1]) == offset and remembered.agrees(response):
            total = int(stated[2]) if stated[2] != "*" else remembered.total
            if remembered.total in (None, total):
                return total
        raise self._other_file()

    def _check_space(self, offset: int, total: int | None) -> None:
        free = shutil.disk_usage(self.destination.parent).free
        if total is not None and total - offset > free:
            raise SetupError(
                f"{self.destination.parent} has {free / 1e9:.1f} GB free, and {self.destination.name} "
                f"needs {(total - offset) / 1e9:.1f} GB more"
            )

    def _append(self, response: requests.Response, offset: int, total: int | None) -> None:
        self._check_space(offset, total)
        done = offset
        with self.partial.open("ab") as handle:
            self.progress(done, total)
            for chunk in response.iter_content(_CHUNK):
                handle.write(chunk)
                self.arrived = True
                done += len(chunk)
                self.progress(done, total)
        if total is not None and done != total:
            raise _RetryableError(f"the connection closed after {done} of {total} bytes")


def _content_length(response: requests.Response) -> int | None:
    stated = response.headers.get("Content-Length", "")
    return int(stated) if stated.isdigit() else None


def _retry_after(response: requests.Response) -> float | None:
    """The seconds that a Retry-After header asks for, which may also hold a date."""
    stated = response.headers.get("Retry-After", "")
    if stated.isdigit():
        return float(stated)
    try:
        return max(0.0, (parsedate_to_datetime(stated) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _reason(error: requests.RequestException) -> str:
    """In a few words what requests says in nested brackets."""
    if isinstance(error, requests.Timeout) or "Read timed out" in str(error):
        return "nothing arrived any more"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    return f"no connection: {_cause(error)}"


def _cause(error: requests.RequestException) -> str:
    """Return the innermost of what requests says in nested brackets."""
    cause = getattr(error.args[0], "reason", error) if error.args else error
    cause = getattr(cause, "original_error", cause)
    return re.sub(r"^\[Errno -?\d+\] ", "", str(cause).rpartition(": ")[2])


def _proxy_reason(error: requests.RequestException, url: str) -> str:
    """Return why there is no way through the proxy, which it is and what makes it the one."""
    address = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url)) or ""
    variables = [name for name, value in os.environ.items() if value == address and "_proxy" in name.lower()]
    shown = re.sub(r"//.*@", "//", address)  # a password is nobody's business
    which = f"the proxy {shown}, which {variables[0]} names" if variables else "the proxy"
    return f"no way through {which}: {_cause(error)}; set it right, or unset it"


def _sync(path: Path) -> None:
    """Bring what was written to a file, or renamed in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _only_one(destination: Path, note: Note) -> Iterator[None]:
    """Hold `NAME.lock`, so that of several processes one downloads and the others wait for it."""
    path = destination.with_name(destination.name + ".lock")
    while True:
        handle = path.open("a")
        _lock(handle.fileno(), destination, note)
        # Whoever held the lock before removed its file, so this lock may be on a file that is no more.
        if _is_at(path, handle.fileno()):
            break
        handle.close()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        handle.close()


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lock(descriptor: int, destination: Path, note: Note) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note(f"{destination.name}: another process is downloading it; waiting for it")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        # Some cluster file systems know no locks; the download works there, for one process at a time.
        note(f"{destination.parent} cannot lock files: start no second download of {destination.name}")
