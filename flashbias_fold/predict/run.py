"""The story of a run, top to bottom: read and check everything, load the model, do the jobs, report."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashbias_fold.errors import JobError, SetupError
from flashbias_fold.files import write_json
from flashbias_fold.inputs import InputSet, Job, load_inputs
from flashbias_fold.predict.account import (
    NO_ROOM,
    device_name,
    difference,
    error_json,
    now,
    one_line,
    versions,
)
from flashbias_fold.predict.folder import RUN, JobFolder, OutputFolder
from flashbias_fold.predict.prepare import (
    decided,
    engine_of,
    plan_of,
    seeds_of,
    that_fit,
    warnings_of,
    with_alignments,
)
from flashbias_fold.predict.progress import Reporter
from flashbias_fold.predict.settings import Settings, identity
from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.components import open_components
from flashbias_fold.protenix_adapter.models import Model, find_model


@dataclass
class RunResult:
    """How the run went.

    Attributes:
        out: The output folder.
        jobs: Job name -> `done`, `skipped` or `failed`.
        reports: Reports of the jobs that are complete, whether done now or before.
        rejected: How many jobs could not be read.
    """

    out: Path
    jobs: dict[str, str] = field(default_factory=dict)
    reports: list[dict[str, Any]] = field(default_factory=list)
    rejected: int = 0

    @property
    def exit_status(self) -> int:
        """0 all done, 1 some failed, 2 nothing in the input could be run."""
        if self.rejected and not self.jobs:
            return 2
        return 1 if self.rejected or "failed" in self.jobs.values() else 0


def predict(settings: Settings, reporter: Reporter | None = None) -> RunResult:
    """Predict every job of an input.

    Raises:
        FlashbiasError: The arguments, the input as a whole or the installation are wrong. What is wrong
            with a single job is in the result and in the job's `error.json` instead.
    """
    reporter = reporter or Reporter(quiet=True)
    model = find_model(settings.model)
    components = open_components()
    # Before torch and Protenix's model are imported: a mistake in the input is answered at once.
    inputs = load_inputs(settings.input, components)
    device = None
    if inputs.jobs:
        environment.prepare()
        settings, device = decided(settings, model)
        inputs = that_fit(inputs, settings, model, device)
    result = RunResult(settings.out, rejected=len(inputs.rejected))
    for rejected in inputs.rejected:
        reporter.error(f"error: {rejected.error}")
    if not inputs.jobs:
        return result
    plan_of(settings, model)  # a mistake in it leaves no folder
    if model.banner:
        reporter.line(model.banner)
    with OutputFolder(settings.out) as folder:
        return _Run(settings, model, device, inputs, folder, reporter, components, result).go()


class _Run:
    """The state of one run, from the first job to the last."""

    def __init__(
        self,
        settings: Settings,
        model: Model,
        device: Any,
        inputs: InputSet,
        folder: OutputFolder,
        reporter: Reporter,
        components: Any,
        result: RunResult,
    ) -> None:
        self.settings = settings
        self.model = model
        self.device = device
        self.inputs = inputs
        self.folder = folder
        self.reporter = reporter
        self.components = components
        self.result = result
        self.weights = model.weights
        self.plan = plan_of(settings, model)
        self.started = now()
        self.engine: Any = None

    def go(self) -> RunResult:
        """Do every job, and leave the folder describing itself whatever happens."""
        self.note_rejected()
        pending = [job for job in self.inputs.jobs if not self.skip(job)]
        try:
            if pending:
                self.load_model()
            self.reporter.begin(len(pending))
            for job in pending:
                self.do(job)
                self.write_run("running")
        except BaseException as error:
            # What stopped the run is what the user has to know, not that this cannot be noted either.
            with contextlib.suppress(OSError):
                self.write_run("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        self.write_run("done")
        return self.result

    def note_rejected(self) -> None:
        for rejected in self.inputs.rejected:
            if rejected.name is not None and self.folder.job(rejected.name).report() is None:
                self.note_error(rejected.name, rejected.error)

    def note_error(self, name: str, error: Exception) -> None:
        """`error.json` of a job; where a file stands in the place of its folder there can be none."""
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            self.folder.job(name).write_error(error_json(error))

    def skip(self, job: Job) -> bool:
        """Whether the job's outputs are complete; says so, and in which settings they differ."""
        report = self.folder.job(job.name).report()
        if self.settings.overwrite or report is None:
            return False
        if not set(seeds_of(self.settings, job)) <= {sample.get("seed") for sample in report["samples"]}:
            return False
        try:
            wanted = identity(self.settings, self.plan.digest, self.weights, job.document)
        except OSError:  # a file that the input names has gone since it was read; `do` says so
            return False
        changed = difference(report["settings"], wanted)
        hint = f" ({changed}; --overwrite predicts it again)" if changed else ""
        self.reporter.line(f"{job.name}: already complete, skipped{hint}")
        self.folder.job(job.name).forget_error()
        self.result.jobs[job.name] = "skipped"
        self.result.reports.append(report)
        return True

    def load_model(self) -> None:
        start = time.perf_counter()
        self.engine = engine_of(self.settings, self.model, self.plan, self.device)
        seconds = time.perf_counter() - start
        self.reporter.line(
            f"model {self.model.name} on {self.device} in {self.engine.dtype}, bias {self.settings.bias}, "
            f"ready in {seconds:.1f} s"
        )

    def do(self, job: Job) -> None:
        """One job; an error of its own is noted and the run goes on."""
        seeds = ", ".join(str(seed) for seed in seeds_of(self.settings, job))
        self.reporter.job(job.name, f"{job.n_token} tokens, {job.n_atom} atoms, seeds {seeds}")
        for warning in warnings_of(job, self.settings, self.model):
            self.reporter.line(f"    {job.name}: {warning}")
        folder = self.folder.job(job.name)
        try:
            report = self.predict_job(job, folder)
        except SetupError:
            raise  # the next job would meet it too
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise  # the next job would meet it too
            self.note_error(job.name, error)
            self.result.jobs[job.name] = "failed"
            self.reporter.error(f"error: job '{job.name}': {one_line(error)}")
            self.reporter.job_done("failed")
            return
        self.result.jobs[job.name] = "done"
        self.result.reports.append(report)
        best = max(report["samples"], key=lambda sample: sample["ranking_score"])
        self.reporter.job_done(
            f"done in {report['wall_s']:.1f} s, best sample pTM {best['ptm']:.3f} pLDDT {best['plddt']:.1f}"
        )

    def predict_job(self, job: Job, folder: JobFolder) -> dict[str, Any]:
        wanted = identity(self.settings, self.plan.digest, self.weights, job.document)
        folder.path.mkdir(parents=True, exist_ok=True)  # now, not after hours of prediction
        if self.settings.overwrite:
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
                self.predict_seed(job, document, seed, folder, wanted)
        report = _job_report(list(folder.seed_records()))
        folder.write_report(report)
        self.folder.note(report)
        return report

    def predict_seed(
        self, job: Job, document: dict[str, Any], seed: int, folder: JobFolder, wanted: dict[str, Any]
    ) -> None:
        from flashbias_fold.predict.publish import publish

        start = time.perf_counter()
        prediction = self.engine.predict(document, seed, self.reporter)
        self.reporter.stage("write")
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
            "device": device_name(self.device),
            "dtype": self.engine.dtype,
            "layers": prediction.layers,
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

    def write_run(self, status: str) -> None:
        """`run.json` and `summary.csv` as they stand."""
        rejected = [
            {"name": rejected.name, "error": str(rejected.error)} for rejected in self.inputs.rejected
        ]
        write_json(
            self.folder.path / RUN,
            {
                "status": status,
                "started": self.started,
                "updated": now(),
                "command": sys.argv,
                "arguments": self.settings.as_dict(),
                "model": {
                    "name": self.model.name,
                    "demo_model": self.model.is_demo,
                    "checkpoint": str(self.model.checkpoint),
                },
                "plan": {"name": self.plan.name, "rules": self.plan.as_list()},
                "components": self.components.describe(),
                "jobs": {job.name: self.result.jobs.get(job.name, "pending") for job in self.inputs.jobs},
                "rejected": rejected,
                "versions": versions(),
                "device": device_name(self.device),
            },
        )
        self.folder.write_summary()


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
