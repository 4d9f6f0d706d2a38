"""``flashbias-fold fetch NAME``: a model's official weights, where Protenix itself looks for them."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from flashbias_fold.checksum import sidecar, verify
from flashbias_fold.download import download
from flashbias_fold.errors import UsageError
from flashbias_fold.protenix_adapter.models import (
    download_urls,
    language_model,
    official_names,
    protenix_root,
)

__all__ = ["download", "fetch", "names", "verify"]

MIRROR = "FLASHBIAS_FOLD_MIRROR"
COMPONENTS = "components"
_LINE_EVERY_S = 5.0

# The files of the language models that some checkpoints need, by Protenix's name for each.
_LANGUAGE_MODELS = {
    "esm2-3b": ("esm2_t36_3B_UR50D", "esm2_t36_3B_UR50D-contact-regression"),
    "esm2-3b-ism": ("esm2_t36_3B_UR50D_ism", "esm2_t36_3B_UR50D_ism-contact-regression"),
}
_COMPONENT_FILES = ("ccd_components_file", "ccd_components_rdkit_mol_file")


def fetch(
    name: str,
    *,
    root: Path | None = None,
    base_url: str | None = None,
    quiet: bool = False,
    console: Console | None = None,
    retries: int = 5,
    timeout: float = 60.0,
    backoff: float = 1.0,
) -> list[Path]:
    """Download what the model ``name`` needs below ``root``, and return the files.

    ``components`` stands for Protenix's own component files. A file that is already there is checked
    against its checksum and left alone. ``base_url`` (or the environment's FLASHBIAS_FOLD_MIRROR) names a
    mirror: a server, or a folder on one, that holds `checkpoint/NAME.pt` and `common/components.cif`.
    """
    reporter = _Reporter(console or Console(stderr=True), quiet)
    if name == "demo":
        reporter.say("demo is shipped with flashbias-fold: there is nothing to fetch")
        return []
    root = root or protenix_root()
    base_url = base_url or os.environ.get(MIRROR) or None
    paths = []
    for url in _urls(name):
        # Protenix keeps its files below its root in the same folders as its server does.
        location = urlsplit(url).path.lstrip("/")
        path = root / location
        paths.append(path)
        if path.exists():
            _check_present(path, reporter)
            continue
        source = f"{base_url.rstrip('/')}/{location}" if base_url else url
        with reporter.bar(path.name) as bar:
            download(
                source,
                path,
                progress=bar,
                note=reporter.say,
                retries=retries,
                timeout=timeout,
                backoff=backoff,
            )
        reporter.say(f"{path}: complete; its checksum is in {sidecar(path).name}")
    return paths


def names() -> list[str]:
    """What can be fetched, as a user calls it."""
    return [*official_names(), COMPONENTS]


def _urls(name: str) -> list[str]:
    """Where the files come from that the model ``name`` needs."""
    urls = download_urls()
    if name == COMPONENTS:
        return [urls[key] for key in _COMPONENT_FILES]
    # A language model can also be had by itself: what replaces a damaged one.
    language_files = [key for keys in _LANGUAGE_MODELS.values() for key in keys]
    if name in language_files:
        return [urls[name]]
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise UsageError(f"there is no model '{name}' to fetch{hint}; known are {', '.join(names())}")
    needed = _LANGUAGE_MODELS[reads] if (reads := language_model(name)) else ()
    return [urls[key] for key in [name, *needed]]


def _check_present(path: Path, reporter: _Reporter) -> None:
    verify(path)
    checked = "agrees with its checksum" if sidecar(path).exists() else "has no checksum to compare with"
    reporter.say(f"{path}: already there, and {checked}; not downloaded again")


class _Reporter:
    """Says how far a download is: a bar on a terminal, else a line now and then, or nothing."""

    def __init__(self, console: Console, quiet: bool) -> None:
        self.console = console
        self.quiet = quiet

    def say(self, message: str) -> None:
        """Print one line, however long it is."""
        if not self.quiet:
            self.console.print(message, soft_wrap=True, markup=False, highlight=False)

    @contextmanager
    def bar(self, name: str) -> Iterator[_Bar | _Lines]:
        """What to call with the bytes that are there and the total."""
        if self.quiet or not self.console.is_terminal:
            yield _Lines(name, self)
        else:
            with _Bar(name, self.console) as bar:
                yield bar


class _Lines:
    """A line every few seconds, for a log file."""

    def __init__(self, name: str, reporter: _Reporter) -> None:
        self.name = name
        self.reporter = reporter
        self.next_at = 0.0

    def __call__(self, done: int, total: int | None) -> None:
        if time.monotonic() < self.next_at:
            return
        self.next_at = time.monotonic() + _LINE_EVERY_S
        of = f" of {total / 1e6:.1f} MB ({done / total:.0%})" if total else " MB"
        self.reporter.say(f"{self.name}: {done / 1e6:.1f}{of}")


class _Bar:
    """A bar with bytes, speed and the time that is left."""

    def __init__(self, name: str, console: Console) -> None:
        self.name = name
        self.task: TaskID | None = None
        self.display = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
        )

    def __enter__(self) -> _Bar:
        self.display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.display.stop()

    def __call__(self, done: int, total: int | None) -> None:
        # Added at the first call: what an earlier run left counts as there, and not as speed.
        if self.task is None:
            self.task = self.display.add_task(self.name, total=total, completed=done)
        self.display.update(self.task, completed=done, total=total)
