"""The run: for each size and pass every method is checked, then those that are right are timed in turn."""

from __future__ import annotations

import dataclasses
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flashbias_fold.bench import machine
from flashbias_fold.bench.kernels.correctness import Expected, bar, errors, expect
from flashbias_fold.bench.kernels.floor import Floor, Gpu, floor
from flashbias_fold.bench.kernels.methods import Contender, contenders
from flashbias_fold.bench.kernels.options import BASELINES, REPEATS, TOKENS, KernelOptions
from flashbias_fold.bench.kernels.problem import Problem, bytes_of, make_problem
from flashbias_fold.bench.timing import Spread, Step, interleave, peak_bytes, spread
from flashbias_fold.errors import FlashbiasError, SetupError, UsageError
from flashbias_fold.protenix_adapter.kernels import chosen_device, usable_dtype
from flashbias_fold.protenix_adapter.memory import available_bytes

if TYPE_CHECKING:
    from flashbias_fold.predict.progress import Reporter

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_ROOM = 0.8  # of a machine's memory; the rest is the process, the inputs, and others
_FOLDERS = re.compile(r"(?:/[^\s/'\":]+)+/")
_LONGEST_REASON = 160


@dataclass(frozen=True)
class Row:
    """A method at one size, in one pass.

    Attributes:
        pass_name: ``forward`` or ``backward``.
        tokens: The size.
        method: Its name.
        rank: Of its factors, if it has any.
        errors: Relative errors to float64: of ``out``, or of the gradients by the names of the inputs.
        rows_compared: In how many rows.
        backend: Of ours, which backend ran.
        right: Whether all of them are below the bar. A wrong method is not timed.
        rounds_ms: Every time that counts, in the order of the rounds.
        ratio: The baseline's median over this one's; above 1 is faster.
        floor: What the hardware needs at least, where that is known.
        peak_memory_bytes: On a GPU, beyond the inputs; backward with the forward pass before it.
    """

    pass_name: str
    tokens: int
    method: str
    rank: int | None
    errors: dict[str, float]
    rows_compared: int
    right: bool
    backend: str | None = None
    rounds_ms: tuple[float, ...] = ()
    ratio: float | None = None
    floor: Floor | None = None
    peak_memory_bytes: int | None = None

    @property
    def error(self) -> float:
        """The largest of the errors."""
        return max(self.errors.values())

    @property
    def ms(self) -> Spread | None:
        """Median and spread of the times; None of a wrong method."""
        return spread(list(self.rounds_ms)) if self.rounds_ms else None

    @property
    def share_of_floor(self) -> float | None:
        """The floor over the median: 1 is as fast as the hardware can be."""
        return None if self.floor is None or self.ms is None else self.floor.ms / self.ms.median


@dataclass(frozen=True)
class NotRun:
    """A method that gave nothing, and why. `broken` if it is ours and should have."""

    pass_name: str
    tokens: int
    method: str
    rank: int | None
    reason: str
    broken: bool = False


@dataclass
class Result:
    """What was measured, where, and with what.

    Attributes:
        options: As asked for, what was left open filled in.
        baseline: The method that ratios are to; None where none of those that Protenix takes was there.
        bar: The largest error of a right method.
        machine: Where it ran.
        versions: Of the packages.
        date: When it began, UTC.
        rows: Methods that ran, by size, pass and median.
        not_run: Methods that did not.
    """

    options: KernelOptions
    baseline: str | None
    bar: float
    machine: dict[str, Any]
    versions: dict[str, str]
    date: str
    rows: list[Row] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)

    @property
    def place(self) -> str:
        """Where it ran, in words."""
        return machine.place(self.machine)

    @property
    def exit_status(self) -> int:
        """1 if a method was wrong, one of ours broke, or nothing was timed."""
        wrong = any(not row.right for row in self.rows)
        broken = any(entry.broken for entry in self.not_run)
        return 1 if wrong or broken or not any(row.right for row in self.rows) else 0


def run(asked: KernelOptions, reporter: Reporter) -> Result:
    """Measure.

    Raises:
        UsageError: A size that cannot fit the memory.
        SetupError: A GPU was asked for and there is none.
    """
    options = _decided(asked)
    device, dtype = torch.device(options.device), DTYPES[options.dtype or ""]
    _check_sizes(options, device, dtype)
    candidates = contenders(options.methods, options.ranks)
    reasons = {contender: _why_not(contender, options, device) for contender in candidates}
    able = [contender for contender, reason in reasons.items() if reason is None]
    baseline = next((n for n in BASELINES[device.type] if n in {c.name for c in able}), None)
    result = Result(
        options,
        baseline,
        bar(dtype, device),
        machine.describe(device),
        machine.versions(),
        datetime.now(UTC).isoformat(timespec="seconds"),
    )
    sizes = options.tokens or ()
    reporter.begin(len(sizes) * len(options.pass_names))
    for tokens in sizes:
        for contender, reason in reasons.items():
            result.not_run += [
                NotRun(name, tokens, contender.name, contender.rank, reason)
                for name in options.pass_names
                if reason is not None
            ]
        _Size(tokens, able, result, reporter).go()
    return result


def _decided(asked: KernelOptions) -> KernelOptions:
    """With what was left open filled in."""
    device = chosen_device(asked.device)
    return dataclasses.replace(
        asked,
        device=device.type,
        tokens=asked.tokens or TOKENS[device.type],
        dtype=asked.dtype or usable_dtype(device, "bf16"),
        repeats=asked.repeats or REPEATS[device.type],
    )


def _check_sizes(options: KernelOptions, device: torch.device, dtype: torch.dtype) -> None:
    largest = max(options.tokens or ())
    needed, there = bytes_of(largest, options, dtype), available_bytes(device)
    if needed > there:
        raise UsageError(
            f"--tokens {largest}: queries, keys, values and their gradients alone need "
            f"{needed / 2**30:,.0f} GiB of memory, and there are {there / 2**30:,.0f}"
        )


def _why_not(contender: Contender, options: KernelOptions, device: torch.device) -> str | None:
    """Why a method is not tried."""
    reason = contender.method.why_not(device)
    if reason is None and options.methods is None:
        reason = contender.method.unless_asked(device)
    return reason


class _Size:
    """Everything of one size; its tensors go with it."""

    def __init__(self, tokens: int, able: list[Contender], result: Result, reporter: Reporter) -> None:
        self.tokens = tokens
        self.able = able
        self.result = result
        self.reporter = reporter
        self.options = result.options
        self.device = torch.device(self.options.device)
        self.dtype = DTYPES[self.options.dtype or ""]
        self.problem: Problem = make_problem(tokens, self.options, self.device, self.dtype)
        self._expected: dict[tuple[str, int | None], Expected] = {}

    def go(self) -> None:
        for pass_name in self.options.pass_names:
            start = time.monotonic()
            name = f"{self.tokens} tokens, {pass_name}"
            self.reporter.job(name, f"{len(self.able)} methods to check and to time")
            self._pass(pass_name)
            self.reporter.job_done(f"done in {time.monotonic() - start:.1f} s")

    def _pass(self, pass_name: str) -> None:
        steps: dict[str, Step] = {}
        rows: dict[str, Row] = {}
        able = {contender.label: contender for contender in self.able}
        problem = self.problem.with_gradients() if pass_name == "backward" else self.problem

        def give_up(label: str, error: Exception) -> None:
            rows.pop(label, None)
            self._note(able[label], pass_name, error)

        self.reporter.stage("check")
        for number, (label, contender) in enumerate(able.items(), start=1):
            try:
                self._check_memory(contender, pass_name)
                step = _step(contender, problem, pass_name)
                rows[label] = self._judged(contender, pass_name, step, contender.backend(problem))
                if rows[label].right:
                    steps[label] = step
            except Exception as error:  # whatever a driver or a compiler can raise
                give_up(label, error)
            self.reporter.step(number, len(able))
        self.reporter.stage("time")
        times = interleave(
            steps, self.options.repeats or 1, self.device, failed=give_up, tick=self.reporter.step
        )
        self._add(rows, times)

    def _judged(self, contender: Contender, pass_name: str, step: Step, backend: str | None) -> Row:
        """A row without times: how right the method is, and how much memory it needs."""
        expected = self._expect(contender)
        found = errors(step.run(), expected)
        right = max(found.values()) <= self.result.bar
        return Row(
            pass_name,
            self.tokens,
            contender.name,
            contender.rank,
            found,
            len(expected.rows),
            right,
            backend,
            floor=self._floor(contender, pass_name),
            peak_memory_bytes=peak_bytes(step, self.device) if right else None,
        )

    def _expect(self, contender: Contender) -> Expected:
        """What is right; methods that get the same tensors share it."""
        key = contender.method.bias, contender.rank
        if key not in self._expected:
            shared = self.problem.shared(*key)
            gradients = "backward" in self.options.pass_names
            self._expected[key] = expect(self.problem, shared, gradients=gradients)
        return self._expected[key]

    def _floor(self, contender: Contender, pass_name: str) -> Floor | None:
        found = self.result.machine
        if self.dtype == torch.float32 or found.get("max_clock_mhz") is None:
            return None
        major, minor = found["compute_capability"]
        return floor(
            Gpu((major, minor), found["multiprocessors"], found["max_clock_mhz"] * 1e6),
            tokens=self.tokens,
            heads=self.options.heads,
            dim=self.options.dim,
            rank=contender.rank or 0,
            backward=pass_name == "backward",
            bias_bytes=self.dtype.itemsize if contender.method.bias == "dense" else 0,
        )

    def _check_memory(self, contender: Contender, pass_name: str) -> None:
        """Refuse what would have the system end the process; a GPU says by itself what does not fit."""
        if self.device.type == "cuda":
            return
        tensors = contender.method.scores[pass_name == "backward"]
        needed = tensors * self.tokens**3 * self.options.heads * self.dtype.itemsize
        there = available_bytes(self.device)
        if needed > _ROOM * there:
            raise SetupError(
                f"would need about {needed / 2**30:,.0f} GiB of memory, and there are {there / 2**30:,.0f}"
            )

    def _note(self, contender: Contender, pass_name: str, error: Exception) -> None:
        """List what did not run; it is a failure if it is ours and has more than too little memory."""
        expected = isinstance(error, FlashbiasError | torch.cuda.OutOfMemoryError)
        self.result.not_run.append(
            NotRun(
                pass_name,
                self.tokens,
                contender.name,
                contender.rank,
                _reason(error),
                broken=contender.ours and not expected,
            )
        )

    def _add(self, rows: dict[str, Row], times: dict[str, list[float]]) -> None:
        """With times and ratios, the fastest first and the wrong ones last."""
        timed = [
            dataclasses.replace(row, rounds_ms=tuple(times.get(label, ()))) for label, row in rows.items()
        ]
        medians = {row.method: row.ms.median for row in timed if row.ms is not None}
        base = medians.get(self.result.baseline or "")
        finished = [
            row if row.ms is None or base is None else dataclasses.replace(row, ratio=base / row.ms.median)
            for row in timed
        ]
        self.result.rows += sorted(finished, key=lambda row: row.ms.median if row.ms else float("inf"))


def _step(contender: Contender, problem: Problem, pass_name: str) -> Step:
    """One pass: forward as in a prediction, or backward alone, with as much of the graph kept as it needs."""
    attend, leaves = contender.bound(problem), contender.inputs(problem)

    def forward(_: None) -> dict[str, Tensor]:
        with torch.no_grad():
            return {"out": attend()}

    def backward(out: Tensor) -> dict[str, Tensor]:
        found = torch.autograd.grad(out, list(leaves.values()), problem.gradient)
        return dict(zip(leaves, found, strict=True))

    if pass_name == "forward":
        return Step(lambda: None, forward)
    return Step(attend, backward)


def _reason(error: Exception) -> str:
    """One line that names no folder of this machine."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out of memory"
    text = _FOLDERS.sub("", " ".join(str(error).split()))[:_LONGEST_REASON]
    return text if isinstance(error, FlashbiasError) else f"{type(error).__name__}: {text}"
