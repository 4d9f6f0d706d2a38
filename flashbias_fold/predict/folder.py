"""The output folder: one run at a time, no torn file, and what is complete is recognised."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from flashbias_fold.errors import UsageError
from flashbias_fold.files import PARTIAL, read_json, write_atomic, write_json
from flashbias_fold.predict.ranking import rank_between_jobs

REPORT = "report.json"
ERROR = "error.json"
RUN = "run.json"
SUMMARY = "summary.csv"
LOCK = ".flashbias-fold.lock"
# The files of ours that are written beside and then renamed.
_WRITTEN = (
    RUN, SUMMARY, f"*/{REPORT}", f"*/{ERROR}", "*/msa/*.json", f"*/seed_*/{REPORT}",
    "*/seed_*/predictions/*_sample_*",
    "report.*", "*/entry.json", "*/*/seed_*/predictions/*_sample_*",  # of a comparison
)  # fmt: skip
_SUMMARY_COLUMNS = (
    "name", "seed", "sample", "ptm", "iptm", "plddt", "ranking_score", "has_clash",
    "plausible", "problems", "n_token", "model", "demo_model", "bias", "wall_s", "cif",
)  # fmt: skip


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
            # Opened for appending: another run's note of who holds the lock must survive the attempt.
            self._lock = (self.path / LOCK).open("a+")
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
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._lock.flush()
        self._sweep()
        for report in self._find_reports():
            self.note(report)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lock is not None
        self._lock.truncate(0)
        self._lock.close()

    def _sweep(self) -> None:
        """Remove what a killed run left half-written, and nothing that is the user's."""
        for pattern in _WRITTEN:
            for partial in self.path.glob(f"{pattern}{PARTIAL}"):
                partial.unlink(missing_ok=True)

    def job(self, name: str) -> JobFolder:
        """The folder of one job."""
        return JobFolder(self.path / name)

    def _find_reports(self) -> Iterator[dict[str, Any]]:
        for path in self.path.glob(f"*/{REPORT}"):
            report = JobFolder(path.parent).report()
            if report is not None and report.get("name") == path.parent.name:
                yield report

    def note(self, report: dict[str, Any]) -> None:
        """A job is complete; the summary will have it."""
        # Thousands of them are kept, so only what the summary says.
        small = {key: report[key] for key in (*_SUMMARY_COLUMNS, "samples") if key in report}
        self._reports[report["name"]] = small

    def forget(self, name: str) -> None:
        """A job's results are about to be replaced."""
        self._reports.pop(name, None)

    def write_summary(self, *, best_first: bool = False) -> None:
        """`summary.csv`: a row for each sample of every complete job in the folder, by name or by score."""
        text = io.StringIO()
        table = csv.DictWriter(text, _SUMMARY_COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        rows = [
            {
                **report,
                **sample,
                "problems": "; ".join(sample.get("problems", ())),
                "cif": f"{name}/{sample['cif']}",
            }
            for name, report in sorted(self._reports.items())
            for sample in report["samples"]
        ]
        table.writerows(sorted(rows, key=rank_between_jobs, reverse=True) if best_first else rows)
        write_atomic(self.path / SUMMARY, text.getvalue())


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

    def publish_seed(self, seed: int, finished: Path) -> list[str]:
        """Move the files of a finished seed from where they were written to where they belong.

        They were written elsewhere because a file must not be seen half-written under its final name.
        Returns where they are now, from this folder.
        """
        folder = self.path / f"seed_{seed}" / "predictions"
        folder.mkdir(parents=True, exist_ok=True)
        # What an attempt left that was never finished: it may have been asked for more samples than this.
        for leftover in folder.glob("*_sample_*"):
            leftover.unlink()
        sources = sorted(finished.iterdir())
        for source in sources:
            write_atomic(folder / source.name, source.read_bytes())
        return [f"seed_{seed}/predictions/{source.name}" for source in sources]

    def write_seed_record(self, seed: int, record: dict[str, Any]) -> None:
        """Note that a seed is done; written last."""
        write_json(self.path / f"seed_{seed}" / REPORT, record)

    def write_report(self, report: dict[str, Any]) -> None:
        """Note that the job is done; written last."""
        write_json(self.path / REPORT, report)
        self.forget_error()

    def forget_error(self) -> None:
        """The job is complete, whatever happened to it before."""
        (self.path / ERROR).unlink(missing_ok=True)

    def write_error(self, error: dict[str, Any]) -> None:
        """Say why the job failed."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / ERROR, error)

    def clear(self) -> None:
        """Forget earlier results: the reports first, so that nothing half-removed looks complete."""
        (self.path / REPORT).unlink(missing_ok=True)
        for folder in self.path.glob("seed_*"):
            (folder / REPORT).unlink(missing_ok=True)
            shutil.rmtree(folder)
        self.forget_error()
