"""One job, from its input to its report: what every engine does with it, wherever it runs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flashbias_fold.errors import JobError, SetupError
from flashbias_fold.inputs import Job
from flashbias_fold.predict.account import NO_ROOM, device_name, difference, one_line, versions
from flashbias_fold.predict.folder import FolderGoneError, JobFolder, OutputFolder
from flashbias_fold.predict.prepare import (
    fit_format,
    seeds_of,
    warnings_of,
    warnings_of_run,
    with_alignments,
)
from flashbias_fold.predict.progress import Reporter
from flashbias_fold.predict.ranking import best_sample, describe_implausible, is_plausible
from flashbias_fold.predict.replacement import Replacement
from flashbias_fold.predict.settings import Settings
from flashbias_fold.predict.state import Request, without_others
from flashbias_fold.protenix_adapter.models import Model


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with its report, or with an error, and then what became of an earlier result."""

    report: dict[str, Any] | None = None
    error: Exception | None = None
    earlier: str = ""


class JobRunner:
    """Does jobs with a loaded model, one after the other.

    Args:
        settings: What was asked for, everything decided.
        model: Which model.
        plan: How its attention layers are computed.
        weights: What tells the model's weights from others.
        engine: The loaded model.
        components: The chemical components that a job needs are built here.
        folder: Where the outputs go.
        reporter: Told where a job is.
        may_write: Called before outputs are put in their place; raises if they must not be.
        overwrite_id: What names the pass that replaces results, if one does.
    """

    def __init__(
        self,
        settings: Settings,
        model: Model,
        plan: Any,
        weights: str,
        engine: Any,
        components: Any,
        folder: OutputFolder,
        reporter: Reporter,
        may_write: Callable[[], None],
        overwrite_id: str | None = None,
    ) -> None:
        self.settings = settings
        self.model = model
        self.plan = plan
        self.weights = weights
        self.engine = engine
        self.components = components
        self.folder = folder
        self.reporter = reporter
        self.may_write = may_write
        self.request = Request(settings, plan.digest, weights, overwrite_id=overwrite_id)
        self.warnings = warnings_of_run(settings, model)

    def do(self, job: Job) -> Outcome:
        """One job; an error of its own is noted. `tell` says how it ended.

        Raises:
            SetupError: The next job would meet it too; so it is with an OSError.
        """
        seeds = ", ".join(str(seed) for seed in seeds_of(self.settings, job))
        self.reporter.job(job.name, f"{job.n_token} tokens, {job.n_atom} atoms, seeds {seeds}")
        for warning in warnings_of(job, self.settings, self.model):
            self.reporter.line(f"    {job.name}: {warning}")
        try:
            report = self._predict(job, self.folder.job(job.name))
        except Exception as error:
            if stops_a_run(error):
                raise
            return Outcome(error=error, earlier=self.request.note_error(self.folder, job, error))
        return Outcome(report=report)

    def tell(self, job: Job, outcome: Outcome) -> None:
        """Say how a job ended; what is said is true by then, whoever reads it and acts on it."""
        report = outcome.report
        if report is None:
            assert outcome.error is not None
            self.reporter.error(f"error: job '{job.name}': {one_line(outcome.error)}{outcome.earlier}")
            self.reporter.job_done("failed")
            return
        report = without_others(report)
        implausible = describe_implausible(report)
        if implausible is not None:
            self.reporter.line(implausible)
        best = best_sample(report["samples"])
        doubt = "" if is_plausible(best) else ", not plausible"
        confidences = f"pTM {best['ptm']:.3f} pLDDT {best['plddt']:.1f}{doubt}"
        self.reporter.job_done(f"done in {report['wall_s']:.1f} s, best sample {confidences}")

    def _predict(self, job: Job, folder: JobFolder) -> dict[str, Any]:
        wanted = self.request.identity(job)
        self.may_write()
        folder.path.mkdir(exist_ok=True)  # now, not after hours of prediction
        if not self.settings.overwrite:
            _refuse_mixture(folder, wanted)
        document = with_alignments(job, self.settings, self.model, folder.path, self.reporter)
        self.components.install_for(document)
        for seed in seeds_of(self.settings, job):
            record = folder.seed_record(seed)
            if record is None or not self.request.is_made(record, record["settings"], wanted):
                with Replacement(folder.path) as new:
                    self._predict_seed(job, document, seed, folder, new, wanted)
                    self.may_write()
                    self.folder.put_in_place(new, job.name)
        records = list(folder.seed_records())
        asked = seeds_of(self.settings, job)
        report = job_report(records, next(one for one in records if one["samples"][0]["seed"] == asked[-1]))
        self.may_write()
        folder.write_report(report)
        self.folder.note(report)
        return report

    def _predict_seed(
        self,
        job: Job,
        document: dict[str, Any],
        seed: int,
        folder: JobFolder,
        new: Replacement,
        wanted: dict[str, Any],
    ) -> None:
        from flashbias_fold.predict.publish import publish

        start = time.perf_counter()
        prediction = self.engine.predict(document, seed, self.reporter)
        self.reporter.stage("write")
        self.may_write()
        writing = time.perf_counter()
        written, files = publish(prediction, job.name, seed, fit_format(self.settings, job), new.folder)
        for warning in written.warnings:
            self.reporter.line(f"    {job.name}: {warning}")
        end = time.perf_counter()
        predictions = f"seed_{seed}/predictions"
        record = {
            "name": job.name,
            "model": self.model.name,
            "demo_model": self.model.is_demo,
            "bias": self.settings.bias,
            "n_token": prediction.features.n_token,
            "n_atom": prediction.features.n_atom,
            "n_msa": prediction.features.n_msa,
            "device": device_name(self.engine.device),
            "dtype": self.engine.dtype,
            "layers": prediction.layers,
            "graphs": prediction.graphs,
            "stages_s": {**prediction.stages_s, "write": end - writing},
            "wall_s": end - start,
            "peak_memory_bytes": prediction.peak_memory_bytes,
            "peak_process_memory_bytes": prediction.peak_process_memory_bytes,
            "chunk_size": prediction.chunk_size,
            "warnings": [
                *self.warnings,
                *self.engine.load_warnings,
                *warnings_of(job, self.settings, self.model),
                *written.warnings,
            ],
            "samples": [
                {"seed": seed, **dataclasses.asdict(sample), "cif": f"{predictions}/{sample.cif}"}
                for sample in written.samples
            ],
            "files": files,
            "settings": wanted,
            "overwrite_id": self.request.overwrite_id,
            "versions": versions(),
        }
        folder.write_seed_record(seed, new, record, job_report)


def stops_a_run(error: Exception) -> bool:
    """Whether the next job would meet the error too."""
    if isinstance(error, SetupError | FolderGoneError):
        return True
    return isinstance(error, OSError) and error.errno in NO_ROOM


def _refuse_mixture(folder: JobFolder, wanted: dict[str, Any]) -> None:
    """Raise JobError where seeds of other settings are, which only `--overwrite` may stand beside."""
    for record in folder.seed_records():
        changed = difference(record["settings"], wanted)
        if changed:
            raise JobError(f"{folder.path} holds results {changed}; add --overwrite, or choose another --out")


def job_report(records: list[dict[str, Any]], newest: dict[str, Any]) -> dict[str, Any]:
    """Make one report from those of the seeds: times add up, memory peaks at the highest.

    What else it says is of the newest; where another seed differs in that, its entry in `seeds` says so.
    """
    stages = {
        stage: sum(record["stages_s"].get(stage, 0.0) for record in records) for stage in newest["stages_s"]
    }
    seeds = [_seed_entry(record, newest) for record in records]
    settings = newest["settings"]
    warnings = [text for record in records for text in record["warnings"]]
    differing = [
        f"seed {entry['seed']} was {difference({**settings, **entry['differs']}, settings)}"
        for entry in seeds
        if entry["differs"]
    ]
    return {
        **newest,
        "stages_s": stages,
        "wall_s": sum(record["wall_s"] for record in records),
        "peak_memory_bytes": max(record["peak_memory_bytes"] for record in records),
        "peak_process_memory_bytes": max(record["peak_process_memory_bytes"] for record in records),
        "warnings": list(dict.fromkeys([*warnings, *differing])),  # most are of every seed
        "seeds": seeds,
        "samples": [sample for record in records for sample in record["samples"]],
        "files": [file for record in records for file in record["files"]],
    }


# Of a seed, what its rows in the summary say and its job's report may not.
_OF_A_SEED = ("model", "demo_model", "bias", "n_token", "n_atom", "n_msa", "device", "dtype")


def _seed_entry(record: dict[str, Any], newest: dict[str, Any]) -> dict[str, Any]:
    made_with, settings = record["settings"], newest["settings"]
    return {
        "seed": record["samples"][0]["seed"],
        "differs": {key: made_with.get(key) for key in settings if made_with.get(key) != settings[key]},
        "overwrite_id": record.get("overwrite_id"),
        **{key: record[key] for key in _OF_A_SEED if record[key] != newest[key]},
    }
