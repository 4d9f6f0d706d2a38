"""What runs on a device: a Ray actor that loads the model once and then does one job after the other.

What this module imports is imported before the number of threads is settled, so nothing heavy is.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from flashbias_fold.inputs import Job
    from flashbias_fold.predict import Settings

LOG = "log.txt"
# Read by the libraries that compute on a CPU when they are first imported.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_DEAD = 70  # the exit status of a worker whose device is of no more use
# Of a report, what the whole campaign does not need of thousands of jobs.
_LARGE = ("layers", "files", "versions", "warnings", "settings")


@dataclass(frozen=True)
class Description:
    """What a worker is.

    Attributes:
        node: The name of its machine.
        pid: Its process there.
        device: In words, as in reports.
        memory: Bytes of memory for a job; on a CPU, its share of the machine's.
        attention: What stock Protenix computes triangle attention with there.
        dtype: The arithmetic that is used there where a certain one is asked for.
        version: Of flashbias-fold.
    """

    node: str
    pid: int
    device: str
    memory: int
    attention: str
    dtype: str
    version: str


@dataclass(frozen=True)
class Assignment:
    """What every worker of a campaign is told once.

    Attributes:
        settings: What was asked for, everything decided.
        plan: How attention layers are computed.
        weights: What tells the model's weights from others.
        token: Of the driver's lease of the folder.
        overwrite_id: What names the pass that replaces results, if one does.
    """

    settings: Settings
    plan: Any
    weights: str
    token: str
    overwrite_id: str | None = None


@dataclass(frozen=True)
class Loaded:
    """A worker has the model.

    Attributes:
        seconds: How long it took.
        warnings: In what the checkpoint differs from the model.
    """

    seconds: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Done:
    """How a job ended.

    Attributes:
        seconds: How long it took.
        waited: How long the worker had nothing to do before.
        report: What is in its report, without what is large; None if it failed.
        kind: Why it failed: `kind` in its `error.json`.
        error: The same in words.
        earlier: What to say of an earlier result that it would have replaced.
    """

    seconds: float
    waited: float
    report: dict[str, Any] | None = None
    kind: str = ""
    error: str = ""
    earlier: str = ""


@dataclass(frozen=True)
class Stopped:
    """What every other job would meet too: the campaign cannot go on.

    Attributes:
        error: In words.
        errno: Of an error of input or output.
        file: Where that was.
    """

    error: str
    errno: int | None = None
    file: str | None = None


class Worker:
    """The actor.

    Args:
        threads: How many it may use.
        share: One over the number of workers that share the machine's memory.
        variables: Of the driver's environment, what decides where things are found and how they run.
    """

    def __init__(self, threads: int, share: float, variables: Mapping[str, str]) -> None:
        os.environ.update(variables)
        os.environ.update(dict.fromkeys(_THREADS, str(threads)))
        self._threads = threads
        self._share = share
        self._assignment: Assignment | None = None
        self._model: Any = None
        self._engine: Any = None
        self._components: Any = None
        self._need: Any = None
        self._free_since = time.perf_counter()
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)

    def describe(self, device: str, dtype: str) -> Description | Stopped:
        """What there is for a kind of device and of arithmetic."""
        from flashbias_fold.errors import SetupError

        try:
            return self._describe(device, dtype)
        except SetupError as error:
            return Stopped(str(error))

    def _describe(self, device: str, dtype: str) -> Description:
        import socket

        import torch

        from flashbias_fold import __version__
        from flashbias_fold.predict.account import device_name
        from flashbias_fold.protenix_adapter.kernels import chosen_device, stock_kernels, usable_dtype
        from flashbias_fold.protenix_adapter.memory import available_bytes

        torch.set_num_threads(self._threads)
        chosen = chosen_device(device)
        return Description(
            node=socket.gethostname(),
            pid=os.getpid(),
            device=device_name(chosen),
            memory=int(available_bytes(chosen) * (1 if chosen.type == "cuda" else self._share)),
            attention=stock_kernels(chosen).attention,
            dtype=usable_dtype(chosen, dtype),
            version=__version__,
        )

    def load(self, assignment: Assignment) -> Loaded | Stopped:
        """Load the model."""
        from flashbias_fold.errors import FlashbiasError

        start = time.perf_counter()
        try:
            self._load(assignment)
        except (FlashbiasError, OSError) as error:
            return _stopped(error)
        self._free_since = time.perf_counter()
        return Loaded(self._free_since - start, tuple(self._engine.load_warnings))

    def _load(self, assignment: Assignment) -> None:
        import torch

        from flashbias_fold.errors import SetupError
        from flashbias_fold.predict.prepare import engine_of, need_of
        from flashbias_fold.protenix_adapter import environment
        from flashbias_fold.protenix_adapter.components import open_components
        from flashbias_fold.protenix_adapter.models import find_model

        settings = assignment.settings
        self._assignment = assignment
        self._model = find_model(settings.model)
        if self._model.weights != assignment.weights:
            raise SetupError(f"{self._model.checkpoint} is another file than where the campaign was started")
        environment.prepare()
        self._components = open_components()
        device = torch.device(settings.device)
        self._engine = engine_of(settings, self._model, assignment.plan, device)
        self._need = need_of(settings, self._model, device, self._engine.kernels.attention)

    def do(self, job: Job, attempt: int) -> Done | Stopped:
        """One job, and its files; what was said of it is in its log."""
        from flashbias_fold.predict.job import stops_a_run

        start = time.perf_counter()
        try:
            return self._do(job, attempt, start)
        except Exception as error:
            if stops_a_run(error):
                return _stopped(error)
            raise
        finally:
            self._free_since = time.perf_counter()

    def _do(self, job: Job, attempt: int, start: float) -> Done:
        from flashbias_fold.campaign import lease
        from flashbias_fold.predict.account import error_json, now
        from flashbias_fold.predict.folder import OutputFolder
        from flashbias_fold.predict.job import JobRunner
        from flashbias_fold.predict.prepare import warned
        from flashbias_fold.predict.progress import Reporter
        from flashbias_fold.predict.replacement import finish_interrupted

        assert self._assignment is not None
        waited = start - self._free_since
        settings, token = self._assignment.settings, self._assignment.token
        folder = OutputFolder(settings.out)
        finish_interrupted(settings.out, job.name)  # before the log makes a folder in its place
        with _log(folder.job(job.name).path) as log:
            print(f"{now()} process {os.getpid()} on {os.uname().nodename}, attempt {attempt}", file=log)
            reporter = Reporter(stream=log)
            reporter.begin(1)
            runner = JobRunner(
                settings,
                self._model,
                self._assignment.plan,
                self._assignment.weights,
                self._engine,
                self._components,
                folder,
                reporter,
                may_write=lambda: lease.check(settings.out, token),
                overwrite_id=self._assignment.overwrite_id,
            )
            (job,) = warned((job,), self._need, self._engine.device)
            outcome = runner.do(job)
            runner.tell(job, outcome)
            seconds = time.perf_counter() - start
            if outcome.report is not None:
                small = {key: value for key, value in outcome.report.items() if key not in _LARGE}
                return Done(seconds, waited, report=small)
            assert outcome.error is not None
            told = error_json(outcome.error)
            if told["trace"]:
                traceback.print_exception(outcome.error, file=log)
        self._die_if_useless()
        return Done(seconds, waited, kind=told["kind"], error=told["error"], earlier=outcome.earlier)

    def _die_if_useless(self) -> None:
        """End if the device fails whatever is asked of it from now on, as a GPU does after some errors."""
        import torch

        if self._engine.device.type != "cuda":
            return
        try:
            torch.cuda.synchronize(self._engine.device)
            torch.zeros(1, device=self._engine.device).add_(1).item()
        except Exception:
            os._exit(_DEAD)


def _stopped(error: Exception) -> Stopped:
    from flashbias_fold.errors import FlashbiasError

    if isinstance(error, OSError) and not isinstance(error, FlashbiasError):
        return Stopped(error.strerror or str(error), errno=error.errno or 0, file=error.filename)
    return Stopped(str(error))


@contextlib.contextmanager
def _log(folder: Path) -> Iterator[TextIO]:
    """The log of a job, beside its outputs; nowhere if there can be none."""
    try:
        folder.mkdir(exist_ok=True)  # not its parents: an output folder that has gone must not come back
        file = (folder / LOG).open("a", errors="backslashreplace", buffering=1)
    except OSError:
        yield io.StringIO()
        return
    with file:
        yield file
