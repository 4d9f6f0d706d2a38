"""What a run shows while it works: a live display on a terminal, plain lines elsewhere, nothing if asked."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TextIO

_PLAIN_INTERVAL_S = 30.0  # a log file wants a sign of life, not every step
_MOMENT_S = 0.5
_CHECKING_INTERVAL_S = 10.0  # nothing has been said of any job by then


class Reporter:
    """Progress of a run, on standard error.

    Args:
        quiet: Say nothing but errors.
        stream: Where to, standard error by default.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._display = _Live(self._stream) if not quiet and self._stream.isatty() else None
        self._jobs = 0
        self._done = 0
        self._job = ""
        self._stage = ""
        self._stage_start = time.monotonic()
        self._last_line = time.monotonic()
        self._last_tally = time.monotonic()
        self._reading = ""
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Reporter:
        if self._display:
            self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_timer()
        if self._display:
            self._display.stop()

    def line(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._write(text)

    def warn(self, warnings: Iterable[str]) -> None:
        """Say warnings that concern the whole run, a line each."""
        for warning in warnings:
            self.line(f"warning: {warning}")

    def error(self, text: str) -> None:
        """A line that is shown also when quiet."""
        self._write(text)

    def reading(self, what: str) -> None:
        """Say what is being read if that takes more than a moment; `end_reading` says it where it did not."""
        self._stop_timer()
        self._reading = f"reading {what}"
        self._timer = threading.Timer(_MOMENT_S, self._say_reading)
        self._timer.daemon = True
        self._timer.start()

    def end_reading(self, jobs: int) -> None:
        """Say what was read before anything else takes long; of an input without a job its errors say all."""
        self._stop_timer()
        if jobs:
            self._say_reading()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()

    def _say_reading(self) -> None:
        if self._reading:
            self.line(self._reading)
        self._reading = ""

    def checked(self, done: int, total: int) -> None:
        """Show how many jobs of an input have been checked, where that takes long."""
        if self._display:
            self._display.checked(done, total)
        elif time.monotonic() - self._last_line >= _CHECKING_INTERVAL_S:
            self.line(f"    checked {done:,} of {total:,}")

    def begin(self, jobs: int) -> None:
        """So many jobs are to be done."""
        self._jobs = jobs
        if self._display:
            self._display.begin(jobs)

    def job(self, name: str, detail: str) -> None:
        """A job begins."""
        self._job = name
        if self._display:
            self._display.job(name)
        self.line(f"[{self._done + 1}/{self._jobs}] {name}: {detail}")

    def job_done(self, text: str) -> None:
        """A job is over, one way or the other."""
        self._done += 1
        if self._display:
            self._display.job_done()
        self.line(f"[{self._done}/{self._jobs}] {self._job}: {text}")

    def tally(self, text: str, done: int) -> None:
        """How jobs that are done side by side go: so many are over, and a line on all of them.

        On a terminal it is always there, elsewhere it comes now and then.
        """
        self._done = done
        if self._display:
            self._display.tally(text, done)
        elif time.monotonic() - self._last_tally >= _PLAIN_INTERVAL_S:
            self._last_tally = time.monotonic()
            self.line(f"[{done:,}/{self._jobs:,}] {text}")

    def stage(self, name: str) -> None:
        """A stage of the current job begins."""
        self._stage, self._stage_start = name, time.monotonic()
        if self._display:
            self._display.stage(name)

    def step(self, done: int, total: int) -> None:
        """A step of the current stage is done."""
        if self._display:
            self._display.step(done, total)
            return
        now = time.monotonic()
        if now - self._last_line >= _PLAIN_INTERVAL_S:
            elapsed = now - self._stage_start
            self.line(f"    {self._job}: {self._stage} {done}/{total}, {elapsed:.0f} s")

    def _write(self, text: str) -> None:
        self._last_line = time.monotonic()
        if self._display:
            self._display.write(text)
            return
        with contextlib.suppress(OSError):  # whoever read this has gone; the results count, not this
            print(text, file=self._stream, flush=True)


class _Live:
    """Two bars: jobs, and the stage of the current one."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(file=stream)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._all = self._progress.add_task("jobs", visible=False)
        self._now = self._progress.add_task("", visible=False)
        self._name = ""

    def start(self) -> None:
        self._progress.start()

    def stop(self) -> None:
        self._progress.stop()

    def checked(self, done: int, total: int) -> None:
        self._progress.update(
            self._now, description="checking", completed=done, total=total, visible=done < total
        )

    def begin(self, jobs: int) -> None:
        self._progress.update(self._all, total=jobs, visible=jobs > 1)

    def job(self, name: str) -> None:
        self._name = name

    def job_done(self) -> None:
        self._progress.update(self._all, advance=1)
        self._progress.update(self._now, visible=False)

    def tally(self, text: str, done: int) -> None:
        self._progress.update(self._all, description=text, completed=done, visible=True)

    def stage(self, name: str) -> None:
        self._progress.reset(self._now, description=f"{self._name}: {name}", total=None, visible=True)

    def step(self, done: int, total: int) -> None:
        self._progress.update(self._now, completed=done, total=total)

    def write(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
