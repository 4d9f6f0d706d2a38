"""The story of a run, top to bottom: read and check everything, load the model, do the jobs, report."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashbias_fold.files import write_json
from flashbias_fold.inputs import InputSet, Job, load_inputs
from flashbias_fold.predict.account import device_name, now
from flashbias_fold.predict.folder import RUN, OutputFolder
from flashbias_fold.predict.job import JobRunner
from flashbias_fold.predict.prepare import decided, engine_of, plan_of, that_fit, warnings_of_run
from flashbias_fold.predict.progress import Reporter
from flashbias_fold.predict.settings import Settings
from flashbias_fold.predict.state import earlier, note_rejected, run_record
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
    plan = plan_of(settings, model)  # a mistake in it leaves no folder
    if model.banner:
        reporter.line(model.banner)
    for warning in warnings_of_run(settings, model):
        reporter.line(f"warning: {warning}")
    with OutputFolder(settings.out) as folder:
        return _Run(settings, model, plan, device, inputs, folder, reporter, components, result).go()


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
        self.plan = plan
        self.started = now()

    def go(self) -> RunResult:
        """Do every job, and leave the folder describing itself whatever happens."""
        note_rejected(self.folder, self.inputs)
        pending = [job for job in self.inputs.jobs if not self.skip(job)]
        try:
            runner = self.load_model() if pending else None
            self.reporter.begin(len(pending))
            for job in pending:
                assert runner is not None
                self.do(runner, job)
                self.write_run("running")
        except BaseException as error:
            # What stopped the run is what the user has to know, not that this cannot be noted either.
            with contextlib.suppress(OSError):
                self.write_run("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        self.write_run("done")
        return self.result

    def skip(self, job: Job) -> bool:
        """Whether the job's outputs are complete; says so, and in which settings they differ."""
        found = earlier(self.settings, job, self.folder, plan=self.plan.digest, weights=self.weights)
        if found is None:
            return False
        report, hint = found
        self.reporter.line(f"{job.name}: already complete, skipped{hint}")
        self.result.jobs[job.name] = "skipped"
        self.result.reports.append(report)
        return True

    def load_model(self) -> JobRunner:
        start = time.perf_counter()
        engine = engine_of(self.settings, self.model, self.plan, self.device)
        seconds = time.perf_counter() - start
        self.reporter.line(
            f"model {self.model.name} on {self.device} in {engine.dtype}, bias {self.settings.bias}, "
            f"ready in {seconds:.1f} s"
        )
        return JobRunner(
            self.settings,
            self.model,
            self.plan,
            self.weights,
            engine,
            self.components,
            self.folder,
            self.reporter,
        )

    def do(self, runner: JobRunner, job: Job) -> None:
        outcome = runner.do(job)
        self.result.jobs[job.name] = "failed" if outcome.report is None else "done"
        if outcome.report is not None:
            self.result.reports.append(outcome.report)
        runner.tell(job, outcome)

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
            device=device_name(self.device),
        )
        write_json(self.folder.path / RUN, record)
        self.folder.write_summary()
