"""The story of a calibration: predict each input, teach every layer on what comes to it, judge, write."""

from __future__ import annotations

import hashlib
import io
import json
import random
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashbias_fold.calibrate.picture import picture
from flashbias_fold.calibrate.settings import Settings
from flashbias_fold.calibrate.training import Look, Pupil, ranks_up_to
from flashbias_fold.errors import JobError, UsageError
from flashbias_fold.factorize import NETWORKS, MeanNetwork
from flashbias_fold.factorize.store import FactorFile
from flashbias_fold.files import write_atomic
from flashbias_fold.inputs import Job, load_inputs
from flashbias_fold.pairformer import Plan
from flashbias_fold.predict.progress import Reporter
from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.components import open_components
from flashbias_fold.protenix_adapter.engine import Engine
from flashbias_fold.protenix_adapter.kernels import chosen_device
from flashbias_fold.protenix_adapter.models import find_model
from flashbias_fold.protenix_adapter.watch import triangle_attentions, watched

_KEPT_ASIDE = 5  # one input in so many
_SHARE_OF_NOTES = 0.05  # of the time, at most, goes into keeping what is learnt so far


@dataclass
class Result:
    """What a calibration gave.

    Attributes:
        file: The networks.
        out: Where they are.
        failed: Inputs that could not be predicted, and why.
    """

    file: FactorFile
    out: Path
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def ranks(self) -> list[str]:
        """What errors were measured at."""
        return list(next(iter(next(iter(self.file.errors.values())).values())))

    @property
    def exit_status(self) -> int:
        """1 where an input failed: the others have been learnt from."""
        return 1 if self.failed else 0


def calibrate(settings: Settings, reporter: Reporter | None = None) -> Result:
    """Train factor networks for every triangle attention of a model, and judge them on inputs kept aside.

    Raises:
        FlashbiasError: The arguments, the inputs or the installation are wrong.
    """
    return _Calibration(settings, reporter or Reporter(quiet=True)).go()


class _Calibration:
    """The state of one run, from the first input to the file."""

    def __init__(self, settings: Settings, reporter: Reporter) -> None:
        self.settings, self.reporter = settings, reporter
        self.state_path = settings.out.with_name(settings.out.name + ".part")
        if self.state_path.exists() and not settings.resume:
            raise UsageError(
                f"--out: {self.state_path} holds an interrupted calibration: --resume goes on with it"
            )
        self.model = find_model(settings.model)
        self.components = open_components()
        self.jobs = self.read_inputs()
        environment.prepare()
        device = chosen_device(settings.device)
        self.engine = Engine(
            self.model,
            Plan.for_bias("dense"),
            device=device,
            dtype=settings.dtype or "bf16",
            samples=1,
            steps=settings.steps,
            cycles=settings.cycles,
            trust_checkpoint=settings.trust_checkpoint,
        )
        self.reporter.warn(self.engine.load_warnings)
        self.engine.network.requires_grad_(False)
        self.layers = triangle_attentions(self.engine.network)
        self.sizes = {
            name: {
                "channels": layer.linear.in_features,
                "tokens": int(self.engine.config.c_s_inputs),
                "heads": layer.no_heads,
            }
            for name, layer in self.layers.items()
        }
        self.pupils = self.new_pupils(device)
        self.done = 0  # predictions that were learnt from
        self.failed: dict[str, str] = {}

    def read_inputs(self) -> list[Job]:
        inputs = load_inputs(self.settings.inputs, self.components, self.reporter)
        for line in inputs.error_lines():
            self.reporter.error(f"error: {line}")
        if not inputs.jobs:
            raise UsageError(f"--inputs: {self.settings.inputs} has no input that can be predicted")
        return sorted(inputs.jobs, key=lambda job: job.name)

    def new_pupils(self, device: torch.device) -> dict[str, Pupil]:
        network, rank = NETWORKS[self.settings.network], self.settings.rank
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            return {
                name: Pupil(network(rank=rank, **size).to(device), self.settings.reach)
                for name, size in self.sizes.items()
            }

    def go(self) -> Result:
        """Train, judge, write."""
        taught, aside = _parted(self.jobs)
        lessons = self.lessons(taught)
        self.resume(lessons)
        self.reporter.line(
            f"{len(self.layers)} layers of {self.model.name}; {len(taught)} inputs to learn from, "
            f"{self.settings.passes} times each, {len(aside)} kept aside"
            + (" (the same: there are no others)" if aside == taught else "")
        )
        self.reporter.begin(len(lessons) - self.done + len(aside))
        self.teach(lessons)
        errors = self.judge(aside)
        return self.write(errors, taught, aside)

    def lessons(self, taught: list[Job]) -> list[tuple[int, Job]]:
        """Which input is predicted with which seed, in which order."""
        order = random.Random(self.settings.seed)
        return [
            (self.settings.seed + turn, job)
            for turn in range(self.settings.passes)
            for job in order.sample(taught, len(taught))
        ]

    def teach(self, lessons: list[tuple[int, Job]]) -> None:
        noted, cost = time.monotonic(), 0.0
        for number in range(self.done, len(lessons)):
            seed, job = lessons[number]
            self.reporter.job(job.name, f"{job.n_token} tokens, seed {seed}, to learn from")
            errors: list[float] = []
            generator = torch.Generator().manual_seed(self.settings.seed + number)

            def learn(name: str, look: Look, progress: float = number / len(lessons)) -> None:
                errors.append(self.pupils[name].learn(look, progress, generator))  # noqa: B023

            if self.predict(job, seed, learn):
                self.reporter.job_done(f"error {statistics.mean(errors):.3f} on average before it was learnt")
            self.done = number + 1
            begun = time.monotonic()
            if cost <= _SHARE_OF_NOTES * (begun - noted) or self.done == len(lessons):
                self.note(lessons)
                noted = time.monotonic()
                cost = noted - begun

    def judge(self, aside: list[Job]) -> dict[str, dict[str, dict[str, list[float]]]]:
        """For each layer, way and rank, the errors of all its calls."""
        ranks, reach = self.ranks(), self.settings.reach
        found: dict[str, dict[str, dict[str, list[float]]]] = {}

        def measure(name: str, look: Look) -> None:
            for way, network in (("neural", self.pupils[name].network), ("lowrank", None)):
                for rank, error in zip(ranks, look.errors(network, ranks, reach), strict=True):
                    found.setdefault(name, {}).setdefault(way, {}).setdefault(str(rank), []).append(error)

        for job in aside:
            self.reporter.job(job.name, f"{job.n_token} tokens, kept aside to measure")
            if self.predict(job, self.settings.seed, measure):
                self.reporter.job_done("measured")
        if not found:
            raise UsageError("--inputs: none could be predicted: " + next(iter(self.failed.values())))
        return found

    def ranks(self) -> list[int]:
        """That errors are measured at; the first channels of a network of means are none of their own."""
        rank = self.settings.rank
        return [rank] if self.settings.network == MeanNetwork.kind else ranks_up_to(rank)

    def predict(self, job: Job, seed: int, see: Any) -> bool:
        """Predict an input while `see` looks on; whether that went well."""

        def at(name: str, x: Tensor, mask: Tensor | None, tokens: Tensor) -> None:
            see(name, Look.at(self.layers[name], x, mask, tokens))

        self.components.install_for(job.document)
        try:
            with watched(self.engine.network, at):
                self.engine.predict(job.document, seed, self.reporter)
        except JobError as error:
            self.failed[job.name] = str(error)
            self.reporter.error(f"error: job '{job.name}': {error}")
            self.reporter.job_done("failed")
            return False
        return True

    def write(
        self, errors: dict[str, dict[str, dict[str, list[float]]]], taught: list[Job], aside: list[Job]
    ) -> Result:
        """The file and its picture; what is only needed to go on is removed."""
        seen = [name for name, pupil in self.pupils.items() if pupil.looks and name in errors]
        file = FactorFile(
            model=self.model.name,
            weights=self.model.weights,
            kind=self.settings.network,
            rank=self.settings.rank,
            reach=self.settings.reach,
            networks={name: self.pupils[name].network for name in seen},
            sizes={name: self.sizes[name] for name in seen},
            errors={name: _summed_up(errors[name]) for name in seen},
            about={
                "settings": self.settings.identity(),
                "inputs": [job.name for job in taught],
                "kept_aside": [job.name for job in aside],
                "failed": self.failed,
                "looks": {name: self.pupils[name].looks for name in seen},
                "torch": torch.__version__,
            },
        )
        self.settings.out.parent.mkdir(parents=True, exist_ok=True)
        file.save(self.settings.out)
        write_atomic(self.settings.out.with_suffix(".svg"), picture(file))
        self.state_path.unlink(missing_ok=True)
        return Result(file, self.settings.out, self.failed)

    def note(self, lessons: list[tuple[int, Job]]) -> None:
        """Keep what is learnt so far, to go on from."""
        content = io.BytesIO()
        pupils = {name: pupil.state() for name, pupil in self.pupils.items()}
        torch.save({"of": self.identity(lessons), "done": self.done, "pupils": pupils}, content)
        self.state_path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.state_path, content.getvalue())

    def resume(self, lessons: list[tuple[int, Job]]) -> None:
        """Go on from what was noted, if anything was."""
        if not self.state_path.exists():
            return
        try:
            state = torch.load(self.state_path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises what it likes for a file that is none of its own
            raise UsageError(
                f"--resume: {self.state_path} cannot be read: remove it to begin anew"
            ) from error
        if state["of"] != self.identity(lessons):
            raise UsageError(
                f"--resume: {self.state_path} is of another model, other inputs or other options; "
                "remove it to begin anew"
            )
        for name, pupil in self.pupils.items():
            pupil.load(state["pupils"][name])
        self.done = state["done"]
        self.reporter.line(f"going on after {self.done} of {len(lessons)} predictions")

    def identity(self, lessons: list[tuple[int, Job]]) -> str:
        """What a calibration that goes on must have in common with the one that stopped."""
        inputs = [(seed, job.name, job.document) for seed, job in lessons]
        everything = (self.model.weights, self.settings.identity(), self.engine.dtype, inputs)
        return hashlib.sha256(json.dumps(everything, sort_keys=True, default=str).encode()).hexdigest()


def _parted(jobs: list[Job]) -> tuple[list[Job], list[Job]]:
    """Inputs to learn from, and inputs to measure on: of one alone there is no other."""
    if len(jobs) == 1:
        return jobs, jobs
    aside = jobs[_KEPT_ASIDE - 1 :: _KEPT_ASIDE] or jobs[-1:]
    return [job for job in jobs if job not in aside], aside


def _summed_up(errors: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        way: {
            rank: {"mean": statistics.mean(found), "largest": max(found)} for rank, found in by_rank.items()
        }
        for way, by_rank in errors.items()
    }
