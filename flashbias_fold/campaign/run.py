"""The story of a campaign: check everything, take the folder, open the cluster, feed its workers, report."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Any

from flashbias_fold.campaign.cluster import opened
from flashbias_fold.campaign.crew import Crew, Event, Member
from flashbias_fold.campaign.lease import Lease, LeaseLostError
from flashbias_fold.campaign.queue import MOST_ATTEMPTS, Pace, Queue
from flashbias_fold.campaign.settings import Cluster, require_ray
from flashbias_fold.campaign.tasks import tasks_of
from flashbias_fold.campaign.worker import Assignment, Description, Done, Loaded, Stopped
from flashbias_fold.errors import JobError, SetupError
from flashbias_fold.files import write_atomic, write_json
from flashbias_fold.inputs import InputSet, Job, load_inputs
from flashbias_fold.predict.account import now
from flashbias_fold.predict.folder import RUN, OutputFolder
from flashbias_fold.predict.prepare import decided, gib, no_room, plan_of, warnings_of_run
from flashbias_fold.predict.progress import Reporter
from flashbias_fold.predict.ranking import describe_implausible
from flashbias_fold.predict.run import RunResult
from flashbias_fold.predict.settings import Settings
from flashbias_fold.predict.state import (
    OtherResultError,
    Request,
    failure,
    note_rejected,
    run_record,
    undecided_in,
    without_others,
)
from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.components import open_components
from flashbias_fold.protenix_adapter.models import Model, find_model

PAGE = "campaign.html"
_LOOP_S = 1.0
# `run.json` is as old as this at most, and its writing takes at most this part of the driver's time.
_WRITE_S, _WRITE_SHARE = 2.0, 0.02
_MOST_AGE_S = 5.0
_CHECK_S = 5.0
# After so many jobs that killed their workers, and none that was done, it is not the jobs.
_MOST_POISON = 30
_NODES_PATIENCE_S = 600.0
# Of the environment, what decides where a worker finds things and how it runs.
_VARIABLES = ("LAYERNORM_TYPE", "OMP_WAIT_POLICY", "TRITON_INTERPRET", "TRITON_CACHE_DIR")
_FOLDERS = ("PROTENIX_ROOT_DIR", "FLASHBIAS_FOLD_CACHE")


class PoisonError(JobError):
    """A job whose workers die again and again."""

    kind = "poison"


def campaign(
    settings: Settings, reporter: Reporter | None = None, *, cluster: Cluster | None = None
) -> RunResult:
    """Predict every job of an input on the devices of a Ray cluster.

    Raises:
        FlashbiasError: The arguments, the input as a whole or the installation are wrong. What is wrong
            with a single job is in the result and in the job's `error.json` instead.
    """
    require_ray()
    reporter = reporter or Reporter(quiet=True)
    variables = _variables()  # before anything is settled for this machine, which may have no GPU
    model = find_model(settings.model)
    components = open_components()
    inputs = load_inputs(settings.input, components, reporter)
    if inputs.jobs:
        environment.prepare()
        settings = _decided_but_for_workers(settings, model)
    result = RunResult(settings.out, rejected=len(inputs.rejected))
    for line in inputs.error_lines():
        reporter.error(f"error: {line}")
    if not inputs.jobs:
        return result
    plan = plan_of(settings, model)  # a mistake in it leaves no folder
    if model.banner:
        reporter.line(model.banner)
    reporter.warn(warnings_of_run(settings, model))
    with Lease(settings.out) as lease, OutputFolder(settings.out) as folder:
        run = _Campaign(
            settings, cluster or Cluster(), model, plan, components, inputs, folder, lease, reporter, result
        )
        return run.go(variables)


def _variables() -> dict[str, str]:
    found = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    folders = {name: str(Path(os.environ[name]).absolute()) for name in _FOLDERS if os.environ.get(name)}
    return found | folders


def _threads() -> int | None:
    """How many the user allows, as for every program."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) else None


def _decided_but_for_workers(settings: Settings, model: Model) -> Settings:
    """Everything that was left open is decided, but for the device and its arithmetic."""
    filled, _ = decided(settings.filled(device="cpu"), model)
    plan = settings.plan.absolute() if settings.plan else None
    return filled.filled(device=settings.device, dtype=settings.dtype, plan=plan)


class _Campaign:
    """The state of one campaign, from the first job to the last."""

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        model: Model,
        plan: Any,
        components: Any,
        inputs: InputSet,
        folder: OutputFolder,
        lease: Lease,
        reporter: Reporter,
        result: RunResult,
    ) -> None:
        self.settings = settings
        self.cluster = cluster
        self.model = model
        self.plan = plan
        self.components = components
        self.inputs = inputs
        self.folder = folder
        self.lease = lease
        self.reporter = reporter
        self.result = result
        # The workers will decide on the arithmetic, and on the device unless the user has.
        undecided = undecided_in(settings) | {"dtype"}
        self.request = Request(settings, plan.digest, model.weights, undecided=undecided)
        self.jobs = {job.name: job for job in inputs.jobs}
        self.pending: list[Job] = []
        self.replaced: set[str] = set()
        self.failures: dict[str, dict[str, str]] = {}
        self.started, self.began = now(), time.monotonic()
        self.fed_since: float | None = None
        self.ended: float | None = None
        self.crew: Crew | None = None
        self.queue = Queue([])
        self.pace = Pace()
        self.chosen: Description | None = None
        self.most_room = -1
        self.over = 0
        self.done = 0
        self.poisoned_in_a_row = 0
        self.in_jobs_s = self.between_jobs_s = 0.0
        self.why_lost = ""
        self.warned: set[str] = set()
        self.last_living = time.monotonic()
        self.last_check = time.monotonic()
        self.next_write = 0.0
        self.changed = True

    def go(self, variables: dict[str, str]) -> RunResult:
        """Do every job, and leave the folder describing itself whatever happens."""
        self.request = self.request.begin(self.folder)
        note_rejected(self.folder, self.inputs)
        self.pending = [job for job in self.inputs.jobs if not self.skip(job)]
        self.replaced = {job.name for job in self.pending if self.folder.forget(job.name)}
        skipped = len(self.inputs.jobs) - len(self.pending)
        if skipped:
            self.reporter.line(f"{skipped:,} of {len(self.inputs.jobs):,} jobs already complete, skipped")
        self.reporter.begin(len(self.pending))
        try:
            self.folder.write_summary(best_first=True)
            if self.replaced:
                (self.folder.path / PAGE).unlink(missing_ok=True)
            if self.pending:
                self.write("running")
                self.run(variables)
        except BaseException as error:
            # What stopped the run is what the user has to know, not that this cannot be noted either.
            with contextlib.suppress(OSError, LeaseLostError):
                self.finish("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        self.finish("done")
        self.request.end(self.folder)
        self.sort()
        return self.result

    def skip(self, job: Job) -> bool:
        """Tell whether nothing is to be done for a job: it is complete, or there is another result."""
        try:
            report = self.request.find_result(job, self.folder)
        except OtherResultError as error:
            self.folder.forget(job.name)
            self.failed(job.name, error)
            return True
        if report is None:
            return False
        self.result.jobs[job.name] = "skipped"
        self.result.reports.append(report)
        return True

    # The loop

    def run(self, variables: dict[str, str]) -> None:
        with opened(self.cluster, gpus=self.settings.device != "cpu"):
            self.crew = Crew(
                self.settings.device,
                self.settings.dtype or "bf16",
                self.cluster.devices,
                _threads(),
                variables,
                tell=self.reporter.line,
            )
            self.settings = self.settings.filled(device=self.crew.device)
            self.write("running")
            try:
                while self.chosen is None or self.queue:
                    self.turn()
            finally:
                self.ended = time.monotonic()
                self.crew.disband()

    def turn(self) -> None:
        """Hear what has happened, act on it, and say how it goes."""
        assert self.crew is not None
        for event in self.crew.wait(_LOOP_S):
            self.hear(event)
            self.changed = True
        if self.chosen is not None:  # first of all, as workers wait for it
            self.set_too_large_aside()
            self.feed()
        self.crew.look()
        self.hold_the_folder()
        self.mind_the_living()
        self.reporter.tally(self.tally(), self.over)
        self.write_now_and_then()

    def hear(self, event: Event) -> None:
        member, answer = event.member, event.answer
        if event.death is not None:
            self.hear_of_death(member, event.death)
        elif member.state == "running":
            self.hear_of_job(member, answer)
        elif isinstance(answer, Description):
            self.hear_description(member, answer)
        elif isinstance(answer, Loaded):
            member.died = 0
            member.enter("idle")
            self.say_ready(member, answer)
        else:
            self.lose(member, answer.error if isinstance(answer, Stopped) else _last_line(answer))

    def hear_description(self, member: Member, answer: Description) -> None:
        """The first worker decides what was left open; one that would compute differently is not wanted."""
        assert self.crew is not None
        if self.chosen is None:
            self.decide(answer)
        assert self.chosen is not None
        for key in ("version", "dtype", "attention"):
            mine, others = getattr(answer, key), getattr(self.chosen, key)
            if mine != others:
                self.lose(member, f"its {key} is {mine}, that of the others {others}")
                return
        member.description = answer
        self.crew.load(member, self.assignment())

    def assignment(self) -> Assignment:
        """Return what the workers are told, once everything is decided."""
        return Assignment(
            self.settings.filled(out=self.settings.out.absolute()),
            self.plan,
            self.model.weights,
            self.lease.token,
            self.request.overwrite_id,
        )

    def say_ready(self, member: Member, loaded: Loaded) -> None:
        assert member.description is not None
        self.reporter.line(
            f"worker {member.id} on {member.node}: model {self.model.name} on {member.description.device} in "
            f"{self.settings.dtype}, bias {self.settings.bias}, ready in {loaded.seconds:.1f} s"
        )
        # Every worker has read the same file; its warnings are to be read once.
        self.reporter.warn([warning for warning in loaded.warnings if warning not in self.warned])
        self.warned.update(loaded.warnings)

    def decide(self, first: Description) -> None:
        self.chosen = first
        self.settings = self.settings.filled(dtype=first.dtype)
        task = tasks_of(self.settings, self.model, first.attention)
        self.queue = Queue([task(job) for job in self.pending])

    def hear_of_job(self, member: Member, answer: Any) -> None:
        name = str(member.job)
        seconds = time.monotonic() - member.began
        member.enter("idle")
        if isinstance(answer, Stopped):
            if answer.errno is not None:
                raise OSError(answer.errno, answer.error, answer.file)
            raise SetupError(answer.error)
        self.queue.finish(name)
        member.done += 1
        self.over += 1
        self.pace.over += 1
        if isinstance(answer, Done):
            self.in_jobs_s += answer.seconds
            self.between_jobs_s += answer.waited
        if isinstance(answer, Done) and answer.report is not None:
            self.pace.note(self.queue.task(name).cost, seconds)
            self.poisoned_in_a_row = 0
            self.done += 1
            self.result.jobs[name] = "done"
            report = without_others(answer.report)
            self.result.reports.append(report)
            self.folder.note(answer.report)
            implausible = describe_implausible(report)
            if implausible is not None:
                self.reporter.line(implausible)
        elif isinstance(answer, Done):
            self.note_failure(name, {"kind": answer.kind, "error": answer.error}, answer.earlier)
        else:
            self.failed(name, answer)

    def hear_of_death(self, member: Member, cause: str) -> None:
        assert self.crew is not None
        name = member.job if member.state == "running" else None
        self.why_lost = f"worker {member.id} on {member.node}: {cause}"
        doing = f" at job '{name}'" if name else ""
        self.reporter.line(f"worker {member.id} on {member.node} has died{doing}: {cause}")
        member.enter("lost")
        self.crew.replace(member)
        if name is None:
            return
        if self.queue.give_back(name):
            return
        self.over += 1
        self.pace.over += 1
        self.poisoned_in_a_row += 1
        error = PoisonError(f"its worker died {MOST_ATTEMPTS} times, the last time because {cause}")
        self.failed(name, error)
        if self.poisoned_in_a_row >= _MOST_POISON:
            raise SetupError(f"{_MOST_POISON} jobs in a row killed their workers; {self.why_lost}")

    def lose(self, member: Member, reason: str) -> None:
        """A worker that cannot take part is not tried again."""
        assert self.crew is not None
        self.why_lost = f"worker {member.id} on {member.node}: {reason}"
        self.reporter.line(f"{self.why_lost}; it is left out")
        self.crew.dismiss(member)

    def failed(self, name: str, error: Exception) -> None:
        """A job has failed, and who did it could not note that."""
        earlier = self.request.note_error(self.folder, self.jobs[name], error)
        self.note_failure(name, failure(error), earlier)

    def note_failure(self, name: str, why: dict[str, str], earlier: str) -> None:
        """Say that a job has failed, and what became of an earlier result."""
        self.result.jobs[name] = "failed"
        self.failures[name] = why
        self.reporter.error(f"error: job '{name}': {why['error']}{earlier}")

    def set_too_large_aside(self) -> None:
        """Fail the jobs that no worker has the memory for, once it is known of every one."""
        assert self.crew is not None
        rooms = self.crew.rooms()
        known = [room for room in rooms.values() if room is not None]
        if not known or len(known) < len(rooms):
            return
        most = max(known)
        if most == self.most_room:
            return
        self.most_room = most
        for task in self.queue.too_large(most):
            largest = max(member.description.memory for member in self.crew.living if member.description)
            error = no_room(
                self.jobs[task.name],
                f"{self.jobs[task.name].n_token} tokens need about {gib(task.needed)} on "
                f"{self.settings.device}, the largest worker has {gib(largest)}",
            )
            self.over += 1
            self.failed(task.name, error)

    def feed(self) -> None:
        assert self.crew is not None
        rooms = self.crew.rooms()
        for member in self.crew.living:
            room = rooms[member.id]
            if member.state != "idle" or room is None:
                continue
            name = self.queue.take(room)
            if name is not None:
                self.fed_since = self.fed_since or time.monotonic()
                self.crew.give(member, self.jobs[name], self.queue.deaths(name) + 1)

    def mind_the_living(self) -> None:
        """Stop when nobody is left to do anything, after a while in which nodes may join."""
        assert self.crew is not None
        if self.crew.living:
            self.last_living = time.monotonic()
            return
        # Nodes join a cluster that is there without us; to one of our own none will.
        joinable = self.cluster.address is not None and self.crew.members and not self.crew.nodes
        patience = _NODES_PATIENCE_S if joinable else 0.0
        if (self.queue or self.chosen is None) and time.monotonic() - self.last_living >= patience:
            raise SetupError(f"no worker is left; {self.why_lost or 'the Ray cluster has none to offer'}")

    def hold_the_folder(self) -> None:
        if time.monotonic() - self.last_check >= _CHECK_S:
            self.last_check = time.monotonic()
            self.lease.check()

    # What is seen of it

    def tally(self) -> str:
        """How it goes, in a line."""
        said = [f"{self.done:,} done"]
        if self.failures:
            said.append(f"{len(self.failures):,} failed")
        said.append(f"{self.queue.running:,} running")
        per_hour, remaining = self.speed()
        if per_hour is not None:
            said.append(f"{per_hour:,.0f} per hour")
        if remaining is not None:
            said.append(f"about {_span(remaining)} left")
        return ", ".join(said)

    def speed(self) -> tuple[float | None, float | None]:
        """Jobs in an hour, and seconds that are left."""
        workers = len(self.crew.living) if self.crew else 0
        running = [member for member in (self.crew.living if self.crew else []) if member.job]
        cost = self.queue.cost_pending + sum(self.queue.task(str(member.job)).cost for member in running) / 2
        elapsed = (self.ended or time.monotonic()) - self.fed_since if self.fed_since else 0.0
        return self.pace.per_hour(elapsed), self.pace.remaining_s(cost, workers)

    def write_now_and_then(self) -> None:
        since = time.monotonic() - self.next_write
        if since >= (0 if self.changed else _MOST_AGE_S - _WRITE_S):
            self.write("running")

    def write(self, status: str) -> dict[str, Any]:
        """`run.json` as it stands."""
        start = time.monotonic()
        per_hour, remaining = self.speed()
        jobs = dict(self.result.jobs)
        members = self.crew.members if self.crew else []
        jobs |= {member.job: "running" for member in members if member.state == "running" and member.job}
        devices = {member.description.device for member in members if member.description}
        record = run_record(
            status,
            started=self.started,
            settings=self.settings,
            model=self.model,
            plan=self.plan,
            components=self.components,
            inputs=self.inputs,
            jobs=jobs,
            failures=self.failures,
            device=", ".join(sorted(devices)) or self.settings.device,
        )
        record |= {
            "engine": "ray",
            "campaign": {
                "driver": {"host": socket.gethostname(), "pid": os.getpid()},
                "cluster": {"address": self.cluster.address, "nodes": self.crew.nodes if self.crew else 0},
                "workers": [member.as_dict() for member in members],
                "deaths": self.crew.deaths if self.crew else 0,
                "failures": self.failures,
                "elapsed_s": time.monotonic() - self.began,
                "in_jobs_s": self.in_jobs_s,
                "between_jobs_s": self.between_jobs_s,
                "per_hour": per_hour,
                "remaining_s": remaining,
            },
        }
        write_json(self.folder.path / RUN, record)
        end = time.monotonic()
        self.next_write = end + max(_WRITE_S, (end - start) / _WRITE_SHARE)
        self.changed = False
        return record

    def finish(self, status: str) -> None:
        """Leave the folder describing itself."""
        from flashbias_fold.campaign.page import page

        self.lease.check()
        # What became of the results that were to be replaced, heard of or not.
        for name in self.replaced:
            report = self.folder.job(name).report()
            if report is not None:
                self.folder.note(report)
        record = self.write(status)
        self.folder.write_summary(best_first=True)
        write_atomic(self.folder.path / PAGE, page(record, self.result.reports))

    def sort(self) -> None:
        """The reports in the order of the input."""
        order = {job.name: place for place, job in enumerate(self.inputs.jobs)}
        self.result.reports.sort(key=lambda report: order[report["name"]])


def _last_line(error: Exception) -> str:
    """What was raised in a worker, without the trace that Ray puts before it."""
    return str(error).strip().splitlines()[-1]


def _span(seconds: float) -> str:
    """A time, as precise as a guess of it should be."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.0f} h"
