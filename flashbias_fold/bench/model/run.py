"""The run: for each size every method predicts once, then all in turn, then once more for its layers."""

from __future__ import annotations

import dataclasses
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flashbias_fold.bench import machine
from flashbias_fold.bench.model.floor import Rates, rates_of
from flashbias_fold.bench.model.inputs import Problem, documents, problem
from flashbias_fold.bench.model.launches import CYCLES, STEPS, Launches, Window
from flashbias_fold.bench.model.layers import Layer, LayerClock
from flashbias_fold.bench.model.methods import Method, methods
from flashbias_fold.bench.model.options import BASELINES, MODEL, REPEATS, TOKENS, ModelOptions
from flashbias_fold.bench.model.session import STAGES, Call, Session
from flashbias_fold.bench.timing import Spread, spread
from flashbias_fold.errors import FlashbiasError, UsageError
from flashbias_fold.pairformer import Plan
from flashbias_fold.predict.settings import run_defaults
from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.components import open_components
from flashbias_fold.protenix_adapter.kernels import chosen_device, stock_kernels, usable_dtype
from flashbias_fold.protenix_adapter.memory import available_bytes
from flashbias_fold.protenix_adapter.memory_model import Need
from flashbias_fold.protenix_adapter.models import (
    AUTO,
    Model,
    architecture,
    build_config,
    find_model,
)

if TYPE_CHECKING:
    from flashbias_fold.predict.progress import Reporter

TOTAL = "total"
_FOLDERS = re.compile(r"(?:/[^\s/'\":]+)+/")
_LONGEST_REASON = 160


@dataclass(frozen=True)
class Part:
    """The whole prediction, or a stage of it.

    Attributes:
        name: TOTAL, or that of the stage.
        rounds_s: Every time that counts, in the order of the rounds.
        peak_bytes: The largest peak memory of all rounds; of the device, or on a CPU of the process.
        ratio: The baseline's median over this one's; above 1 is faster.
    """

    name: str
    rounds_s: tuple[float, ...]
    peak_bytes: int
    ratio: float | None = None

    @property
    def seconds(self) -> Spread:
        """Median and spread."""
        return spread(list(self.rounds_s))


@dataclass(frozen=True)
class Row:
    """A method at one size.

    Attributes:
        job: What was predicted.
        tokens: Its size.
        method: The method's name.
        parts: The whole and its stages.
        first_s: The first call, with what is compiled then and not yet by a method before it; None if that
            was a short one.
        layers: By stage and kind, of one more prediction; times of hooks are in it.
        launches: On a GPU, what one cycle and one step start.
        ways: How many of our layers ran which way.
        fallbacks: Calls in which factors were not good enough.
    """

    job: str
    tokens: int
    method: str
    parts: tuple[Part, ...]
    first_s: float | None
    layers: tuple[Layer, ...] = ()
    launches: dict[str, Window] = field(default_factory=dict)
    ways: dict[str, int] = field(default_factory=dict)
    fallbacks: int = 0

    @property
    def peak_memory_bytes(self) -> int:
        """Of the whole."""
        return self.part(TOTAL).peak_bytes

    def part(self, name: str) -> Part:
        """The whole, or a stage."""
        return next(part for part in self.parts if part.name == name)


@dataclass(frozen=True)
class NotRun:
    """A method that gave nothing, and why. `broken` if it is ours and should have."""

    job: str
    tokens: int | None
    method: str
    reason: str
    broken: bool = False


@dataclass(frozen=True)
class Job:
    """What was predicted, and what its features took, which is no part of any other time."""

    name: str
    tokens: int
    atoms: int
    alignment: int
    featurize_s: float


@dataclass
class Result:
    """What was measured, where, and with what.

    Attributes:
        options: As asked for, what was left open filled in.
        weights: `real` or `random`.
        parameters: How many the model has.
        baseline: The method that ratios are to.
        kernels: Protenix's two settings by method.
        plan: Of `flashbias`, if that was among the methods.
        layernorm: Which one Protenix takes.
        load_s: From nothing to a model on the device.
        machine: Where it ran.
        versions: Of the packages.
        date: When it began, UTC.
        jobs: What was predicted.
        rows: Methods that ran, by size and median.
        not_run: Methods that did not.
    """

    options: ModelOptions
    weights: str
    parameters: int
    baseline: str | None
    kernels: dict[str, dict[str, str]]
    plan: dict[str, Any] | None
    layernorm: str
    load_s: float
    machine: dict[str, Any]
    versions: dict[str, str]
    date: str
    jobs: list[Job] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)

    @property
    def place(self) -> str:
        """Where it ran, in words."""
        return machine.place(self.machine)

    @property
    def exit_status(self) -> int:
        """1 if one of ours broke, or nothing was timed."""
        return 1 if any(entry.broken for entry in self.not_run) or not self.rows else 0


def run(
    asked: ModelOptions, reporter: Reporter, after_each: Callable[[Result], None] | None = None
) -> Result:
    """Measure.

    Args:
        asked: What to.
        reporter: Told how far it is.
        after_each: Called with what there is after each size, for a record that a stop cannot take away.

    Raises:
        UsageError: The options do not fit each other.
        InputError: The input cannot be read.
        SetupError: What the options ask for is not here.
    """
    options = _decided(asked)
    device = torch.device(options.device)
    environment.prepare()
    model, weights = _model(options)
    options = dataclasses.replace(options, model=model.name)
    random_weights = weights == "random"
    able, missing = methods(
        options, model, random_weights=random_weights, kernels=stock_kernels(device), device=device
    )
    components = open_components()
    pending = documents(options, components)
    _check_memory(max(tokens for _, tokens in pending), options, model, device, able)
    start = time.perf_counter()
    session = _session(options, model, device, random_weights=random_weights)
    reporter.warn(session.load_warnings)
    options = dataclasses.replace(options, cycles=session.cycles, steps=session.steps)
    result = Result(
        options=options,
        weights=weights,
        parameters=sum(parameter.numel() for parameter in session.network.parameters()),
        baseline=next((name for name in BASELINES if name in {method.name for method in able}), None),
        kernels={
            method.name: {"attention": method.attention, "multiplication": method.multiplication}
            for method in able
        },
        plan=next(
            (
                {"name": Path(method.plan.name).name, "rules": _rules(method.plan)}
                for method in able
                if method.name == "flashbias" and method.plan is not None
            ),
            None,
        ),
        layernorm=environment.layernorm_kind(),
        load_s=time.perf_counter() - start,
        machine=machine.describe(device),
        versions=machine.versions(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        not_run=[NotRun("all", None, name, reason) for name, reason in missing.items()],
    )
    reporter.begin(len(pending))
    for document, _ in pending:
        found = problem(document, session.config, components, options.alignment)
        _Size(found, able, session, result, reporter).go()
        if after_each is not None:
            after_each(result)
    return result


def _rules(plan: Plan) -> list[dict[str, Any]]:
    """With names of files, and none of a folder of this machine."""
    return [
        {key: Path(value).name if key == "factors" else value for key, value in rule.items()}
        for rule in plan.as_list()
    ]


def _decided(asked: ModelOptions) -> ModelOptions:
    """With what was left open filled in, but for what is the model's to say."""
    device = chosen_device(asked.device)
    return dataclasses.replace(
        asked,
        device=device.type,
        model=asked.model or MODEL[device.type],
        tokens=None if asked.input is not None else asked.tokens or TOKENS[device.type],
        dtype=usable_dtype(device, asked.dtype or "bf16"),
        samples=asked.samples or int(run_defaults().samples),
        repeats=asked.repeats or REPEATS[device.type],
    )


def _model(options: ModelOptions) -> tuple[Model, str]:
    """The model, and whether its weights are `real` or `random`."""
    name = str(options.model)
    model = find_model(name) if options.weights == "real" or name == AUTO else architecture(name)
    drawn = options.weights == "random" or not model.checkpoint.is_file()
    return model, "random" if drawn else "real"


def _check_memory(
    tokens: int, options: ModelOptions, model: Model, device: torch.device, able: list[Method]
) -> None:
    """Refuse what would have the system end the process; a GPU says by itself what does not fit."""
    if device.type == "cuda":
        return
    there = available_bytes(device)
    assert options.samples is not None
    weights = model.checkpoint.stat().st_size if model.checkpoint.is_file() else 0
    needed = max(
        Need.of(
            build_config(model),
            weights,
            options.samples,
            device,
            bias="dense" if method.ours else "stock",
            attention=method.attention,
        ).bytes_of(tokens)
        for method in able
    )
    if needed > there:
        raise UsageError(
            f"--{'input' if options.input else 'tokens'}: {tokens} tokens need about "
            f"{needed / 2**30:,.0f} GiB of memory, and there are {there / 2**30:,.0f}"
        )


def _session(options: ModelOptions, model: Model, device: torch.device, *, random_weights: bool) -> Session:
    if build_config(model).esm.enable and random_weights:
        raise UsageError(f"--model: {model.name} reads a language model's embeddings: it needs real weights")
    assert options.dtype is not None and options.samples is not None
    return Session(
        model,
        random_weights=random_weights,
        device=device,
        dtype=options.dtype,
        samples=options.samples,
        steps=options.steps,
        cycles=options.cycles,
    )


class _Size:
    """Everything of one job."""

    def __init__(
        self, found: Problem, able: list[Method], session: Session, result: Result, reporter: Reporter
    ) -> None:
        self.problem = found
        self.able = able
        self.session = session
        self.result = result
        self.reporter = reporter
        self.rates: Rates | None = rates_of(result.machine)
        self.first_s: dict[str, float] = {}
        self.calls: dict[str, list[Call]] = {}

    def go(self) -> None:
        features = self.problem.features
        job = Job(
            self.problem.name, features.n_token, features.n_atom, features.n_msa, self.problem.featurize_s
        )
        self.result.jobs.append(job)
        self.reporter.job(job.name, f"{job.tokens} tokens, {len(self.able)} methods")
        start = time.monotonic()
        try:
            self._time()
            self._take_apart()
        finally:
            self.session.restore()
        self.reporter.job_done(f"done in {time.monotonic() - start:.1f} s")

    def _time(self) -> None:
        self.reporter.stage("first calls")
        for number, method in enumerate(list(self.able), start=1):
            if self._first(method):
                self.calls[method.name] = []
            self.reporter.step(number, len(self.able))
        self.reporter.stage("rounds")
        rounds, order = self.result.options.repeats or 1, random.Random(0)
        begin = time.monotonic()
        for number in range(rounds):
            if number and self._would_outlast(time.monotonic() - begin, number):
                break
            left = [method for method in self.able if method.name in self.calls]
            for method in order.sample(left, len(left)):
                call = self._call(method)
                if call is None:
                    del self.calls[method.name]
                else:
                    self.calls[method.name].append(call)
            self.reporter.step(number + 1, rounds)

    def _first(self, method: Method) -> bool:
        """Whether a method's first call went well."""
        if self.result.options.warm_up == "short":
            with self.session.only(CYCLES, STEPS):
                return self._call(method) is not None
        call = self._call(method)
        if call is not None:
            self.first_s[method.name] = call.total_s
        return call is not None

    def _would_outlast(self, elapsed: float, done: int) -> bool:
        """Whether another round would end after the time that one size may take."""
        limit = self.result.options.seconds
        return limit is not None and elapsed * (done + 1) / done > limit

    def _call(self, method: Method, **watching: Any) -> Call | None:
        """A prediction, or a note of why there is none."""
        try:
            self.session.take(method)
            return self.session.call(self.problem.features, **watching)
        except Exception as error:  # whatever a driver or a compiler can raise
            expected = isinstance(error, FlashbiasError | torch.cuda.OutOfMemoryError)
            broken = method.ours and not expected
            reason = _reason(error)
        if self.session.device.type == "cuda":
            torch.cuda.empty_cache()  # now that what the error held is let go
        self.result.not_run.append(
            NotRun(self.problem.name, self.problem.features.n_token, method.name, reason, broken)
        )
        return None

    def _take_apart(self) -> None:
        """Rows of all that were timed, with what one more prediction of each tells."""
        medians = {
            name: {part: spread(_times(calls, part)).median for part in (TOTAL, *STAGES)}
            for name, calls in self.calls.items()
        }
        base = medians.get(self.result.baseline or "")
        rows = []
        self.reporter.stage("layers")
        for number, method in enumerate(self.able, start=1):
            calls = self.calls.get(method.name)
            if calls is None:
                continue
            rows.append(self._row(method, calls, base))
            self.reporter.step(number, len(self.able))
        self.result.rows += sorted(rows, key=lambda row: row.part(TOTAL).seconds.median)

    def _row(self, method: Method, calls: list[Call], base: dict[str, float] | None) -> Row:
        parts = []
        for name in (TOTAL, *STAGES):
            part = Part(name, tuple(_times(calls, name)), max(_peak(call, name) for call in calls))
            parts.append(part if base is None else _with_ratio(part, base[name]))
        said = calls[-1].layers
        ways = [entry["way"] for entry in said]
        return Row(
            self.problem.name,
            self.problem.features.n_token,
            method.name,
            tuple(parts),
            self.first_s.get(method.name),
            self._layers(method),
            self._launches(method),
            {way: ways.count(way) for way in sorted(set(ways))},
            sum(entry["fallbacks"] for entry in said),
        )

    def _layers(self, method: Method) -> tuple[Layer, ...]:
        if not self.result.options.layers or method.is_peer:
            return ()
        clock = LayerClock(self.session.device, self.rates)
        call = self._call(method, observer=clock, watch=clock.watch)
        return () if call is None else tuple(clock.layers(call.stages_s))

    def _launches(self, method: Method) -> dict[str, Window]:
        """Of a short prediction; nothing on a CPU, which starts none."""
        if not self.result.options.layers or method.is_peer or self.session.device.type != "cuda":
            return {}
        watching = Launches(self.session.device)
        with self.session.only(CYCLES, STEPS):
            self._call(method, watch=watching.watch)
        return watching.windows


def _times(calls: list[Call], part: str) -> list[float]:
    return [call.total_s if part == TOTAL else call.stages_s[part] for call in calls]


def _peak(call: Call, part: str) -> int:
    return max(call.stages_peak_bytes.values()) if part == TOTAL else call.stages_peak_bytes[part]


def _with_ratio(part: Part, base: float) -> Part:
    return dataclasses.replace(part, ratio=base / part.seconds.median)


def _reason(error: Exception) -> str:
    """One line that names no folder of this machine."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out of memory"
    text = _FOLDERS.sub("", " ".join(str(error).split()))[:_LONGEST_REASON]
    return text if isinstance(error, FlashbiasError) else f"{type(error).__name__}: {text}"
