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

REPORT = "report.json"
ERROR = "error.json"
RUN = "run.json"
SUMMARY = "summary.csv"
LOCK = ".flashbias-fold.lock"
_SUMMARY_COLUMNS = (
    "name", "seed", "sample", "ptm", "iptm", "plddt", "ranking_score", "has_clash",
    "n_token", "model", "demo_model", "bias", "wall_s", "cif",
)  # fmt: skip


class OutputFolder:
    """`--out`, held by one run at a time.

    The lock is the kernel's: it goes with the process, however that ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: io.TextIOWrapper | None = None

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
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lock is not None
        self._lock.truncate(0)
        self._lock.close()

    def _sweep(self) -> None:
        """Remove what a killed run left half-written."""
        for partial in self.path.rglob(f"*{PARTIAL}"):
            partial.unlink(missing_ok=True)

    def job(self, name: str) -> JobFolder:
        """The folder of one job."""
        return JobFolder(self.path / name)

    def reports(self) -> Iterator[dict[str, Any]]:
        """The reports of all complete jobs, by name."""
        for path in sorted(self.path.glob(f"*/{REPORT}")):
            report = read_json(path)
            if isinstance(report, dict) and isinstance(report.get("samples"), list):
                yield report

    def write_summary(self) -> None:
        """`summary.csv`: a row for each sample of every complete job in the folder."""
        text = io.StringIO()
        table = csv.DictWriter(text, _SUMMARY_COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        for report in self.reports():
            for sample in report["samples"]:
                table.writerow({**report, **sample, "cif": f"{report['name']}/{sample['cif']}"})
        write_atomic(self.path / SUMMARY, text.getvalue())


class JobFolder:
    """`DIR/NAME`: the files of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def report(self) -> dict[str, Any] | None:
        """The job's report, if it is there and every file that it lists is too."""
        report = read_json(self.path / REPORT)
        if not isinstance(report, dict) or not isinstance(report.get("samples"), list):
            return None
        return report if all(self._has(sample) for sample in report["samples"]) else None

    def seed_record(self, seed: int) -> dict[str, Any] | None:
        """What an earlier run noted of a seed that it finished."""
        record = read_json(self.path / f"seed_{seed}" / REPORT)
        if not isinstance(record, dict) or not isinstance(record.get("samples"), list):
            return None
        return record if all(self._has(sample) for sample in record["samples"]) else None

    def seed_records(self) -> Iterator[dict[str, Any]]:
        """The records of every finished seed, in order."""
        seeds = [folder.name.removeprefix("seed_") for folder in self.path.glob("seed_*")]
        for seed in sorted(int(seed) for seed in seeds if seed.isdigit()):
            record = self.seed_record(seed)
            if record is not None:
                yield record

    def _has(self, sample: Any) -> bool:
        return isinstance(sample, dict) and (self.path / str(sample.get("cif"))).is_file()

    def publish_seed(self, seed: int, finished: Path) -> None:
        """Move the files of a finished seed from where they were written to where they belong.

        They were written elsewhere because a file must not be seen half-written under its final name.
        """
        folder = self.path / f"seed_{seed}" / "predictions"
        folder.mkdir(parents=True, exist_ok=True)
        for source in sorted(finished.iterdir()):
            write_atomic(folder / source.name, source.read_bytes())

    def write_seed_record(self, seed: int, record: dict[str, Any]) -> None:
        """Note that a seed is done; written last."""
        write_json(self.path / f"seed_{seed}" / REPORT, record)

    def write_report(self, report: dict[str, Any]) -> None:
        """Note that the job is done; written last."""
        write_json(self.path / REPORT, report)
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
        (self.path / ERROR).unlink(missing_ok=True)
