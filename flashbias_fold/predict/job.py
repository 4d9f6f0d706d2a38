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
from flashbias_fold.predict.folder import JobFolder, OutputFolder
from flashbias_fold.predict.prepare import seeds_of, warnings_of, with_alignments
from flashbias_fold.predict.progress import Reporter
from flashbias_fold.predict.settings import Settings, identity
from flashbias_fold.predict.state import note_error
from flashbias_fold.protenix_adapter.models import Model


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with its report, or with the error that `error.json` has."""

    report: dict[str, Any] | None = None
    error: Exception | None = None


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
        may_write: Callable[[], None] = lambda: None,
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
            note_error(self.folder, job.name, error)
            return Outcome(error=error)
        return Outcome(report=report)

    def tell(self, job: Job, outcome: Outcome) -> None:
        """Say how a job ended; what is said is true by then, whoever reads it and acts on it."""
        report = outcome.report
        if report is None:
            assert outcome.error is not None
            self.reporter.error(f"error: job '{job.name}': {one_line(outcome.error)}")
            self.reporter.job_done("failed")
            return
        best = max(report["samples"], key=lambda sample: sample["ranking_score"])
        self.reporter.job_done(
            f"done in {report['wall_s']:.1f} s, best sample pTM {best['ptm']:.3f} pLDDT {best['plddt']:.1f}"
        )

    def _predict(self, job: Job, folder: JobFolder) -> dict[str, Any]:
        wanted = identity(self.settings, self.plan.digest, self.weights, job.document)
        folder.path.mkdir(parents=True, exist_ok=True)  # now, not after hours of prediction
        if self.settings.overwrite:
            self.may_write()
            folder.clear()
            self.folder.forget(job.name)
        for record in folder.seed_records():
            if record["settings"] != wanted:
                raise JobError(
                    f"{folder.path} holds results {difference(record['settings'], wanted)}; "
                    "add --overwrite, or choose another --out"
                )
        document = with_alignments(job, self.settings, self.model, folder.path, self.reporter)
        self.components.install_for(document)
        for seed in seeds_of(self.settings, job):
            if folder.seed_record(seed) is None:
                self._predict_seed(job, document, seed, folder, wanted)
        report = _job_report(list(folder.seed_records()))
        self.may_write()
        folder.write_report(report)
        self.folder.note(report)
        return report

    def _predict_seed(
        self, job: Job, document: dict[str, Any], seed: int, folder: JobFolder, wanted: dict[str, Any]
    ) -> None:
        from flashbias_fold.predict.publish import publish

        start = time.perf_counter()
        prediction = self.engine.predict(document, seed, self.reporter)
        self.reporter.stage("write")
        self.may_write()
        writing = time.perf_counter()
        samples, files = publish(prediction, job.name, seed, self.settings, folder)
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
            "warnings": warnings_of(job, self.settings, self.model),
            "samples": [
                {"seed": seed, **dataclasses.asdict(sample), "cif": f"{predictions}/{sample.cif}"}
                for sample in samples
            ],
            "files": files,
            "settings": wanted,
            "versions": versions(),
        }
        folder.write_seed_record(seed, record)


def stops_a_run(error: Exception) -> bool:
    """Whether the next job would meet the error too."""
    return isinstance(error, SetupError) or (isinstance(error, OSError) and error.errno in NO_ROOM)


def _job_report(records: list[dict[str, Any]]) -> dict[str, Any]:
    """One report from those of the seeds: times add up, memory peaks at the highest."""
    last = records[-1]
    stages = {stage: sum(record["stages_s"][stage] for record in records) for stage in last["stages_s"]}
    return {
        **last,
        "stages_s": stages,
        "wall_s": sum(record["wall_s"] for record in records),
        "peak_memory_bytes": max(record["peak_memory_bytes"] for record in records),
        "peak_process_memory_bytes": max(record["peak_process_memory_bytes"] for record in records),
        "samples": [sample for record in records for sample in record["samples"]],
        "files": [file for record in records for file in record["files"]],
    }
