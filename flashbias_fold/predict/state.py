"""How a folder of outputs stands: what is complete, what failed and why, and what `run.json` says of it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flashbias_fold.errors import JobError
from flashbias_fold.inputs import InputSet, Job
from flashbias_fold.predict.account import difference, error_json, now, versions
from flashbias_fold.predict.folder import OutputFolder
from flashbias_fold.predict.prepare import seeds_of
from flashbias_fold.predict.replacement import finish_interrupted
from flashbias_fold.predict.settings import Settings, identity
from flashbias_fold.protenix_adapter.models import Model


class OtherResultError(JobError):
    """There is a complete result of the job's name that was made from another input or otherwise."""


@dataclass(frozen=True)
class Request:
    """The request of a run to every job, to be held against the results that are there.

    Attributes:
        settings: What was asked for.
        plan: The plan's digest.
        weights: What tells the model's weights from others.
        undecided: Settings that do not count, as nobody has asked for a value of them.
        overwrite_id: What names the pass that replaces results, if one does.
    """

    settings: Settings
    plan: str
    weights: str
    undecided: frozenset[str] = frozenset()
    overwrite_id: str | None = None

    def digest(self) -> str:
        """Tell this request from others, wherever it runs: the same command gives the same."""
        whole = identity(self.settings, self.plan, self.weights, {}) | {
            "input": os.path.realpath(self.settings.input),
            "seeds": self.settings.seeds,
            "device": None,
            "dtype": None,
        }
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def begin(self, folder: OutputFolder) -> Request:
        """Return the request as a run begins with it: the pass that replaces results has a name then."""
        if not self.settings.overwrite:
            return self
        return dataclasses.replace(self, overwrite_id=folder.begin_overwriting(self.digest()))

    def end(self, folder: OutputFolder) -> None:
        """Note that the run has come to its end."""
        if self.settings.overwrite:
            folder.end_overwriting()

    def identity(self, job: Job) -> dict[str, Any]:
        """Return what the results of a job depend on besides the seed."""
        return identity(self.settings, self.plan, self.weights, job.document)

    def is_made(self, record: Mapping[str, Any], made_with: Mapping[str, Any], wanted: Any) -> bool:
        """Tell whether a seed is done, by its entry in a report or its record, and need not be predicted."""
        if not self.settings.overwrite:
            return True
        is_of_this_pass = record.get("overwrite_id") == self.overwrite_id
        return is_of_this_pass and not self._difference(made_with, wanted)

    def find_result(self, job: Job, folder: OutputFolder) -> dict[str, Any] | None:
        """Return the report of a job that is complete as asked for, or None if the job is to be done.

        Of other seeds that were made otherwise it leaves out the samples.

        Raises:
            OtherResultError: It is complete, but made otherwise.
        """
        report = folder.job(job.name).report()
        if report is None:
            return None
        asked = seeds_of(self.settings, job)
        if not set(asked) <= {sample.get("seed") for sample in report["samples"]}:
            return None
        try:
            wanted = self.identity(job)
        except OSError:  # a file that the input names has gone since it was read; who does the job says so
            return None
        if self.settings.overwrite:
            entries = {entry["seed"]: entry for entry in report.get("seeds", ())}
            made = all(self.is_made(entries.get(seed, {}), made_with(report, seed), wanted) for seed in asked)
            return self._own(report, wanted) if made else None
        for seed in asked:
            changed = self._difference(made_with(report, seed), wanted)
            if changed:
                raise OtherResultError(
                    f"{folder.path / job.name} holds a result {changed}{_sizes(report, job)}; give the job "
                    "another name, choose another --out, or add --overwrite to replace it"
                )
        folder.job(job.name).forget_error()
        return self._own(report, wanted)

    def _own(self, report: dict[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return a report of the seeds alone that were made as asked for."""
        seeds = {sample["seed"] for sample in report["samples"]}
        own = {seed for seed in seeds if not self._difference(made_with(report, seed), wanted)}
        # The report speaks of the newest seed, which may be of another input or by another model.
        entry: dict[str, Any] = next((one for one in report.get("seeds", ()) if one["seed"] in own), {})
        facts = {key: value for key, value in entry.items() if key in report}
        return {**report, **facts, "samples": [one for one in report["samples"] if one["seed"] in own]}

    def _difference(self, made: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
        return difference(
            dict(made), {key: value for key, value in wanted.items() if key not in self.undecided}
        )

    def _is_answered(self, job: Job, report: Mapping[str, Any]) -> bool:
        """Tell whether a complete report is one of this very request, whoever made it."""
        asked = seeds_of(self.settings, job)
        if not set(asked) <= {sample.get("seed") for sample in report["samples"]}:
            return False
        with contextlib.suppress(OSError):
            wanted = self.identity(job)
            return not any(self._difference(made_with(report, seed), wanted) for seed in asked)
        return True

    def note_error(self, folder: OutputFolder, job: Job, error: Exception) -> str:
        """Write a job's `error.json`, unless its result as asked for, of an earlier run, is there.

        Where a file stands in the place of its folder there can be none. Returns what to say of the result.
        """
        finish_interrupted(folder.path, job.name)
        report = folder.job(job.name).report()
        if report is None or not self._is_answered(job, report):
            note_error(folder, job.name, error)
        return "" if report is None else self._describe_earlier(report)

    def _describe_earlier(self, report: Mapping[str, Any]) -> str:
        """Say what a job that has failed has left of an earlier result: of several seeds some may be new."""
        replaced = [
            str(entry["seed"])
            for entry in report.get("seeds", ())
            if self.overwrite_id is not None and entry.get("overwrite_id") == self.overwrite_id
        ]
        if not replaced:
            return "; the earlier result is untouched"
        return f"; of the earlier result only seed {', '.join(replaced)} has been replaced"


def skipped(*, overwrites: bool) -> str:
    """Return what to say of a job for which nothing is to be done."""
    return f"already {'replaced before the interruption' if overwrites else 'complete'}, skipped"


def undecided_in(settings: Settings) -> frozenset[str]:
    """Return the settings that a user has left to the machine: a result of another machine will do."""
    left = {"device": settings.device == "auto", "dtype": settings.dtype is None}
    return frozenset(key for key, is_left in left.items() if is_left)


def made_with(report: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return the settings that a seed of a report was made with."""
    differs: dict[str, Any] = next(
        (entry["differs"] for entry in report.get("seeds", ()) if entry["seed"] == seed), {}
    )
    return {**report["settings"], **differs}


def without_others(report: dict[str, Any]) -> dict[str, Any]:
    """Return a new report without the samples of earlier seeds that were made with other settings."""
    others = {entry["seed"] for entry in report.get("seeds", ()) if entry["differs"]}
    samples = [sample for sample in report["samples"] if sample["seed"] not in others]
    return {**report, "samples": samples}


def _sizes(report: Mapping[str, Any], job: Job) -> str:
    n_token = report.get("n_token")
    return "" if n_token in (None, job.n_token) else f" ({n_token} tokens, {job.n_token} in this input)"


def failure(error: Exception) -> dict[str, Any]:
    """Return what `run.json` says of a job that failed."""
    return {key: error_json(error)[key] for key in ("kind", "error")}


def note_error(folder: OutputFolder, name: str, error: Exception) -> None:
    """Write `error.json` of a job; where a file stands in the place of its folder there can be none."""
    with contextlib.suppress(FileExistsError, NotADirectoryError):
        folder.job(name).write_error(error_json(error))


def note_rejected(folder: OutputFolder, inputs: InputSet) -> None:
    """`error.json` of the jobs that cannot run, unless there are results of such a name."""
    for rejected in inputs.rejected:
        if rejected.name is not None and folder.job(rejected.name).report() is None:
            note_error(folder, rejected.name, rejected.error)


def run_record(
    status: str,
    *,
    started: str,
    settings: Settings,
    model: Model,
    plan: Any,
    components: Any,
    inputs: InputSet,
    jobs: Mapping[str, str],
    failures: Mapping[str, Any],
    device: str,
) -> dict[str, Any]:
    """What `run.json` holds.

    Args:
        status: Of the run: `running`, `done`, `failed` or `interrupted`.
        started: When it began.
        settings: What was asked for, everything decided.
        model: Which model.
        plan: How its attention layers are computed.
        components: Where the chemical components come from.
        inputs: The jobs, and those that cannot run.
        jobs: Their states, as far as they have one.
        failures: Why jobs failed, by name.
        device: Where they run, in words.
    """
    return {
        "status": status,
        "started": started,
        "updated": now(),
        "command": sys.argv,
        "arguments": settings.as_dict(),
        "model": {
            "name": model.name,
            "demo_model": model.is_demo,
            "checkpoint": str(model.checkpoint),
        },
        "plan": {"name": plan.name, "rules": plan.as_list()},
        "components": components.describe(),
        "jobs": {job.name: jobs.get(job.name, "pending") for job in inputs.jobs},
        "failures": dict(failures),
        "rejected": [{"name": rejected.name, "error": str(rejected.error)} for rejected in inputs.rejected],
        "versions": versions(),
        "device": device,
    }
