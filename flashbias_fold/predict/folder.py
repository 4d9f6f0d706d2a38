"""The output folder: one run at a time, no torn file, and what is complete is recognised."""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import io
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from flashbias_fold.errors import UsageError
from flashbias_fold.files import PARTIAL, read_json, write_atomic, write_json
from flashbias_fold.predict.ending import note_end, note_holder
from flashbias_fold.predict.ranking import rank_between_jobs
from flashbias_fold.predict.replacement import (
    WORK,
    Replacement,
    interrupted_names,
    interrupted_place,
    is_result,
    settle_all,
)

REPORT = "report.json"
ERROR = "error.json"
RUN = "run.json"
SUMMARY = "summary.csv"
LOCK = ".flashbias-fold.lock"
# There while results are being replaced; left by a run that was cut off, for the one that goes on.
OVERWRITING = ".flashbias-fold.overwriting"
# The files of ours that are written beside and then renamed.
_WRITTEN = (
    OVERWRITING, RUN, SUMMARY, f"*/{REPORT}", f"*/{ERROR}", "*/msa/*.json", f"*/seed_*/{REPORT}",
    "*/seed_*/predictions/*_sample_*",
    "report.*", "*/entry.json", "*/*/seed_*/predictions/*_sample_*",  # of a comparison
    "campaign.html",
)  # fmt: skip
_SUMMARY_COLUMNS = (
    "name", "seed", "sample", "ptm", "iptm", "plddt", "ranking_score", "has_clash",
    "plausible", "problems", "n_token", "model", "demo_model", "bias", "wall_s", "cif",
)  # fmt: skip


class FolderGoneError(FileNotFoundError):
    """The output folder was removed, or moved, while a run used it."""


class OutputFolder:
    """`--out`, held by one run at a time.

    The lock is the kernel's: it goes with the process, however that ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: io.TextIOWrapper | None = None
        self._reports: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> OutputFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Not emptied: another run's note of who holds the lock must survive the attempt.
            self._lock = os.fdopen(os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        except OSError as error:
            raise UsageError(f"--out: cannot write to {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another process"
            self._lock.close()
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise UsageError(f"--out: cannot lock {self.path}: {error.strerror}") from error
            raise UsageError(
                f"--out: {self.path} is in use by {holder}; wait for it or choose another"
            ) from error
        try:
            note_holder(self._lock.fileno())
        except OSError as error:
            self._lock.close()
            raise UsageError(f"--out: cannot write to {self.path / LOCK}: {error.strerror}") from error
        self._sweep()
        for report in completed_reports(self.path):
            self.note(report)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lock is not None
        with contextlib.suppress(OSError):
            (self.path / WORK).rmdir()
        with contextlib.suppress(OSError):
            if error is None:
                self._lock.truncate(0)
            else:
                note_end(self._lock.fileno(), error)
        self._lock.close()

    def check(self) -> None:
        """Raise FolderGoneError unless the folder is still the one that was taken."""
        assert self._lock is not None
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._lock.fileno()), (self.path / LOCK).stat()):
                return
        reason = "it was removed or moved during the run, which writes no more"
        raise FolderGoneError(errno.ENOENT, reason, str(self.path))

    def _sweep(self) -> None:
        """End what a killed run left half-done, and touch nothing that is the user's."""
        settle_all(self.path)
        for pattern in _WRITTEN:
            for partial in self.path.glob(f"{pattern}{PARTIAL}"):
                partial.unlink(missing_ok=True)

    def job(self, name: str) -> JobFolder:
        """The folder of one job."""
        return JobFolder(self.path / name)

    def note(self, report: dict[str, Any]) -> None:
        """A job is complete; the summary will have it."""
        # Thousands of them are kept, so only what the summary says.
        small = {key: report[key] for key in (*_SUMMARY_COLUMNS, "samples", "seeds") if key in report}
        self._reports[report["name"]] = small

    def forget(self, name: str) -> bool:
        """Leave a job out of the summary; return whether it was there."""
        return self._reports.pop(name, None) is not None

    def put_in_place(self, new: Replacement, name: str) -> None:
        """Replace a job's folder, so that the summary never lists what the replacement takes away."""
        # A worker of a campaign keeps no summary; its driver leaves out what is being replaced.
        if self._lock is not None and self.forget(name):
            self.write_summary()
        try:
            new.put_in_place()
        finally:
            report = self.job(name).report()
            if report is not None:
                self.note(report)
        if self._lock is not None and report is not None:
            self.write_summary()

    def begin_overwriting(self, request: str) -> str:
        """Return what names this pass over the results: the same again after it was cut off.

        Args:
            request: What is asked for; a pass that was asked for otherwise is not gone on with.
        """
        note = read_json(self.path / OVERWRITING)
        if isinstance(note, dict) and note.get("request") == request and isinstance(note.get("id"), str):
            return note["id"]
        name = uuid.uuid4().hex
        write_json(self.path / OVERWRITING, {"id": name, "request": request})
        return name

    def end_overwriting(self) -> None:
        """Note that a pass has come to its end: the next one replaces everything again."""
        (self.path / OVERWRITING).unlink(missing_ok=True)

    def write_summary(self, *, best_first: bool = False) -> None:
        """`summary.csv`: a row for each sample of every complete job in the folder, by name or by score."""
        text = io.StringIO()
        table = csv.DictWriter(text, _SUMMARY_COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        rows = [
            {
                **report,
                **_own(report, sample),
                **sample,
                "problems": "; ".join(sample.get("problems", ())),
                "cif": f"{name}/{sample['cif']}",
            }
            for name, report in sorted(self._reports.items())
            for sample in report["samples"]
        ]
        table.writerows(sorted(rows, key=rank_between_jobs, reverse=True) if best_first else rows)
        write_atomic(self.path / SUMMARY, text.getvalue())


def _own(report: Mapping[str, Any], sample: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what holds for a sample's seed and not for the others of its job."""
    return next((seed for seed in report.get("seeds", ()) if seed["seed"] == sample["seed"]), {})


def completed_reports(out: Path) -> Iterator[dict[str, Any]]:
    """Yield the reports of all complete jobs in a folder, wherever a run that was killed left them."""
    places = [path.parent for path in out.glob(f"*/{REPORT}")]
    places += [place for name in interrupted_names(out) if (place := interrupted_place(out, name))]
    for place in places:
        report = JobFolder(place).report()
        if report is not None and report.get("name") == place.name:
            yield report


class JobFolder:
    """`DIR/NAME`: the files of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def report(self) -> dict[str, Any] | None:
        """The job's report, if it is there and every file that it lists is too."""
        return self._complete(read_json(self.path / REPORT))

    def seed_record(self, seed: int) -> dict[str, Any] | None:
        """What an earlier run noted of a seed that it finished."""
        return self._complete(read_json(self.path / f"seed_{seed}" / REPORT))

    def seed_records(self) -> Iterator[dict[str, Any]]:
        """The records of every finished seed, in order."""
        seeds = [folder.name.removeprefix("seed_") for folder in self.path.glob("seed_*")]
        for seed in sorted(int(seed) for seed in seeds if seed.isdigit()):
            record = self.seed_record(seed)
            if record is not None:
                yield record

    def _complete(self, report: Any) -> dict[str, Any] | None:
        """A report of ours whose files are all there; somebody else's lists none."""
        files = report.get("files") if isinstance(report, dict) else None
        if not isinstance(files, list) or not files:
            return None
        return report if all((self.path / str(file)).is_file() for file in files) else None

    def write_seed_record(
        self, seed: int, new: Replacement, record: dict[str, Any], report_of: Callable[..., dict[str, Any]]
    ) -> None:
        """Complete what will replace this folder: a seed that was written into it, and all that stays.

        Args:
            seed: Which.
            new: Where its structures are.
            record: What is noted of the seed.
            report_of: Makes the job's report from the records of all seeds, where there was one before.
        """
        write_json(new.folder / f"seed_{seed}" / REPORT, record)
        if self.report() is not None:
            others = [other for other in self.seed_records() if _seed_of(other) != seed]
            records = sorted([*others, record], key=_seed_of)
            write_json(new.folder / REPORT, report_of(records, record))
        replaced = (f"seed_{seed}/", REPORT, ERROR)
        new.keep(lambda path: not (path.startswith(replaced) and is_result(path)))

    def write_report(self, report: dict[str, Any]) -> None:
        """Note that the job is done; written last."""
        self.forget_error()  # first: it must not be seen beside the report
        write_json(self.path / REPORT, report)

    def forget_error(self) -> None:
        """The job is complete, whatever happened to it before."""
        (self.path / ERROR).unlink(missing_ok=True)

    def write_error(self, error: dict[str, Any]) -> None:
        """Say why the job failed."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / ERROR, error)


def _seed_of(record: dict[str, Any]) -> int:
    return int(record["samples"][0]["seed"])
