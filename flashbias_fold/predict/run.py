"""The story of a run, top to bottom: read and check everything, load the model, do the jobs, report."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashbias_fold.files import write_json
from flashbias_fold.inputs import InputSet, Job, load_inputs
from flashbias_fold.predict.account import device_name, now, one_line
from flashbias_fold.predict.folder import RUN, OutputFolder
from flashbias_fold.predict.job import JobRunner
from flashbias_fold.predict.prepare import decided, engine_of, plan_of, that_fit, warnings_of_run
from flashbias_fold.predict.progress import Reporter
from flashbias_fold.predict.settings import Settings
from flashbias_fold.predict.state import (
    OtherResultError,
    Request,
    failure,
    note_rejected,
    run_record,
    skipped,
    undecided_in,
    without_others,
)
from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.components import open_components
from flashbias_fold.protenix_adapter.models import Model, find_model

# `summary.csv` grows with every job: with thousands of them it is written less often, so that its writing
# takes at most this part of the time.
_QUICK_WRITE_S = 0.1
_WRITE_SHARE = 0.02


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
    asked = settings
    model = find_model(settings.model)
    components = open_components()
    # Before torch and Protenix's model are imported: a mistake in the input is answered at once.
    inputs = load_inputs(settings.input, components, reporter)
    device = None
    if inputs.jobs:
        environment.prepare()
        settings, device = decided(asked, model)
        inputs = that_fit(inputs, settings, model, device)
    result = RunResult(settings.out, rejected=len(inputs.rejected))
    for line in inputs.error_lines():
        reporter.error(f"error: {line}")
    if not inputs.jobs:
        return result
    plan = plan_of(settings, model)  # a mistake in it leaves no folder
    if model.banner:
        reporter.line(model.banner)
    request = Request(settings, plan.digest, model.weights, undecided=undecided_in(asked))
    reporter.warn(warnings_of_run(settings, model))
    with OutputFolder(settings.out) as folder:
        run = _Run(settings, model, plan, device, inputs, folder, reporter, components, result, request)
        return run.go()


class _Run:
    """The state of one run, from the first job to the last."""

    def __init__(
        self,
        settings: Settings,
        model: Model,
        plan: Any,
        device: Any,
        inputs: InputSet,
        folder: OutputFolder,
        reporter: Reporter,
        components: Any,
        result: RunResult,
        request: Request,
    ) -> None:
        self.settings = settings
        self.model = model
        self.device = device
        self.inputs = inputs
        self.folder = folder
        self.reporter = reporter
        self.components = components
        self.result = result
        self.plan = plan
        self.request = request
        self.failures: dict[str, dict[str, Any]] = {}
        self.started = now()
        self.next_write = 0.0

    def go(self) -> RunResult:
        """Do every job, and leave the folder describing itself whatever happens."""
        self.request = self.request.begin(self.folder)
        note_rejected(self.folder, self.inputs)
        pending = [job for job in self.inputs.jobs if not self.skip(job)]
        try:
            self.write_run("running")
            runner = self.load_model() if pending else None
            self.reporter.begin(len(pending))
            for job in pending:
                assert runner is not None
                self.do(runner, job)
                self.write_now_and_then()
        except BaseException as error:
            # What stopped the run is what the user has to know, not that this cannot be noted either.
            with contextlib.suppress(OSError):
                self.write_run("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        self.write_run("done")
        self.request.end(self.folder)
        return self.result

    def skip(self, job: Job) -> bool:
        """Tell whether nothing is to be done for a job: it is complete, or there is another result."""
        try:
            report = self.request.find_result(job, self.folder)
        except OtherResultError as error:
            self.request.note_error(self.folder, job, error)
            self.folder.forget(job.name)
            self.fail(job, error)
            self.reporter.error(f"error: job '{job.name}': {one_line(error)}")
            return True
        if report is None:
            return False
        self.reporter.line(f"{job.name}: {skipped(overwrites=self.settings.overwrite)}")
        self.result.jobs[job.name] = "skipped"
        self.result.reports.append(report)
        return True

    def fail(self, job: Job, error: Exception) -> None:
        """Note that a job has failed, where the run says how each stands."""
        self.result.jobs[job.name] = "failed"
        self.failures[job.name] = failure(error)

    def load_model(self) -> JobRunner:
        start = time.perf_counter()
        engine = engine_of(self.settings, self.model, self.plan, self.device)
        seconds = time.perf_counter() - start
        self.reporter.line(
            f"model {self.model.name} on {self.device} in {engine.dtype}, bias {self.settings.bias}, "
            f"ready in {seconds:.1f} s"
        )
        self.reporter.warn(engine.load_warnings)
        return JobRunner(
            self.settings,
            self.model,
            self.plan,
            self.model.weights,
            engine,
            self.components,
            self.folder,
            self.reporter,
            may_write=self.folder.check,
            overwrite_id=self.request.overwrite_id,
        )

    def do(self, runner: JobRunner, job: Job) -> None:
        outcome = runner.do(job)
        if outcome.error is not None:
            self.fail(job, outcome.error)
        elif outcome.report is not None:
            self.result.jobs[job.name] = "done"
            self.result.reports.append(without_others(outcome.report))
        runner.tell(job, outcome)

    def write_now_and_then(self) -> None:
        """Write how the run stands: after each job, or less often once that takes its time."""
        start = time.monotonic()
        if start < self.next_write:
            return
        self.write_run("running")
        end = time.monotonic()
        if end - start > _QUICK_WRITE_S:
            self.next_write = end + (end - start) / _WRITE_SHARE

    def write_run(self, status: str) -> None:
        """`run.json` and `summary.csv` as they stand."""
        record = run_record(
            status,
            started=self.started,
            settings=self.settings,
            model=self.model,
            plan=self.plan,
            components=self.components,
            inputs=self.inputs,
            jobs=self.result.jobs,
            failures=self.failures,
            device=device_name(self.device),
        )
        self.folder.check()
        self.folder.write_summary()
        write_json(self.folder.path / RUN, record)
