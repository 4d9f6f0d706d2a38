"""The story of a comparison: read and check, predict by every method in turn, measure, report."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashbias_fold.bench import machine
from flashbias_fold.compare.entries import Truths, read_jobs
from flashbias_fold.compare.methods import Method, methods_of
from flashbias_fold.compare.outcome import FORMAT, outcome
from flashbias_fold.compare.settings import Settings
from flashbias_fold.compare.table import table
from flashbias_fold.compare.turns import WARM_UPS, Stage, Turns
from flashbias_fold.errors import SetupError, UsageError
from flashbias_fold.files import read_json, write_atomic, write_json
from flashbias_fold.inputs import InputSet, Job
from flashbias_fold.predict.account import difference, now, one_line, versions
from flashbias_fold.predict.folder import OutputFolder
from flashbias_fold.predict.job import stops_a_run
from flashbias_fold.predict.prepare import decided, engine_of, that_fit, warnings_of, warnings_of_run
from flashbias_fold.predict.progress import Reporter
from flashbias_fold.predict.replacement import Replacement, is_result
from flashbias_fold.predict.settings import identity
from flashbias_fold.predict.state import skipped
from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.components import open_components
from flashbias_fold.protenix_adapter.models import Model, find_model
from flashbias_fold.report import page

REPORT, TABLE, PAGE = "report.json", "report.csv", "report.html"
ENTRY = "entry.json"
# Of more entries than these the page draws those that differ most.
_MOST_DRAWN = 24


@dataclass
class Result:
    """How the comparison went.

    Attributes:
        out: The output folder.
        report: As in `report.json`; nothing where no entry could be compared.
        failed: What went wrong, by entry.
    """

    out: Path
    report: dict[str, Any] | None = None
    failed: list[dict[str, str]] = field(default_factory=list)
    rejected: int = 0

    @property
    def exit_status(self) -> int:
        """0 all compared, 1 some not, or not in full, 2 nothing in the input could be run."""
        if self.report is None and self.rejected == len(self.failed):
            return 2
        return 1 if self.failed else 0


def compare(settings: Settings, reporter: Reporter | None = None) -> Result:
    """Predict every entry by every method, and say whether it is the same and how much faster.

    Raises:
        FlashbiasError: The arguments, the input as a whole or the installation are wrong. What is wrong with
            a single entry is in the result instead.
    """
    reporter = reporter or Reporter(quiet=True)
    model = find_model(settings.predictions.model)
    components = open_components()
    truths = None if settings.truth is None else Truths.find(settings.truth)
    inputs, own = read_jobs(settings.predictions.input, components, reporter)
    environment.prepare()
    common, device = decided(settings.predictions, model)
    methods = methods_of(settings, common, model)  # a mistake in a plan leaves no folder
    inputs = that_fit(inputs, methods[0].settings, model, device)  # stock needs the most
    result = Result(common.out)
    for line in inputs.error_lines():
        reporter.error(f"error: {line}")
    for rejected in inputs.rejected:
        result.failed.append(
            {"name": rejected.name or Path(str(rejected.error.file)).name, "why": str(rejected.error)}
        )
    result.rejected = len(result.failed)
    if not inputs.jobs:
        return result
    by_name = own if truths is None else {**own, **truths.of(inputs.jobs)}
    if model.banner:
        reporter.line(model.banner)
    reporter.warn(warnings_of_run(common, model))
    with OutputFolder(common.out) as folder:
        run = _Comparison(settings, model, device, methods, by_name, folder, reporter, components, result)
        return run.go(inputs)


class _Comparison:
    """The state of one comparison, from the first entry to the report."""

    def __init__(
        self,
        settings: Settings,
        model: Model,
        device: Any,
        methods: list[Method],
        truths: dict[str, Path],
        folder: OutputFolder,
        reporter: Reporter,
        components: Any,
        result: Result,
    ) -> None:
        self.settings = settings
        self.model = model
        self.device = device
        self.methods = methods
        self.truths = truths
        self.folder = folder
        self.reporter = reporter
        self.components = components
        self.result = result
        self.stage: Stage | None = None
        self.overwrite_id: str | None = None

    def go(self, inputs: InputSet) -> Result:
        """Every entry, then the report."""
        found: dict[str, dict[str, Any]] = {}
        if self.settings.predictions.overwrite:
            self.overwrite_id = self.folder.begin_overwriting(self.request())
        pending = [job for job in inputs.jobs if not self.kept(job, found)]
        self.reporter.begin(len(pending))
        for job in pending:
            try:
                self.take(job, self.made(job, found), found)
            except (SetupError, UsageError):
                raise  # the next entry would meet it too
            except Exception as error:
                if stops_a_run(error):
                    raise
                self.note(job.name, one_line(error))
                self.reporter.job_done("failed")
        if found:
            self.result.report = self.report([found[job.name] for job in inputs.jobs if job.name in found])
            self.publish(self.result.report)
        if self.settings.predictions.overwrite:
            self.folder.end_overwriting()
        return self.result

    def request(self) -> str:
        """Tell this command from others: the same command gives the same."""
        whole = {
            "input": os.path.realpath(self.settings.predictions.input),
            "truth": str(self.settings.truth),
            "repeats": self.settings.repeats,
            "methods": {
                method.key: {"seed": method.seed}
                | identity(method.settings, method.plan.digest, self.model.weights, {})
                for method in self.methods
            },
        }
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def note(self, name: str, why: str) -> None:
        """Something is amiss with an entry; the others go on."""
        self.result.failed.append({"name": name, "why": why})
        self.reporter.error(f"error: entry '{name}': {why}")

    def kept(self, job: Job, found: dict[str, dict[str, Any]]) -> bool:
        """Take an entry of an earlier run, if there is one; one that was asked for otherwise stays."""
        folder = self.folder.path / job.name
        record = _complete(read_json(folder / ENTRY), self.folder.path)
        overwrites = self.settings.predictions.overwrite
        if record is None or (overwrites and record.get("overwrite_id") != self.overwrite_id):
            return False
        try:
            changed = _difference(record["settings"], self.identity(job))
        except OSError:  # a file that the input names has gone since it was read; `made` says so
            return False
        if changed and overwrites:
            return False
        if changed:
            self.note(
                job.name,
                f"{folder} holds a comparison {changed}; give the entry another name, choose another --out, "
                "or add --overwrite to replace it",
            )
            return True
        if not _was_checked(record):
            self.reporter.line(
                f"{job.name}: an earlier version did not check its structures: predicted again"
            )
            return False
        self.reporter.line(f"{job.name}: {skipped(overwrites=overwrites)}")
        self.take(job, record, found)
        return True

    def take(self, job: Job, record: dict[str, Any], found: dict[str, dict[str, Any]]) -> None:
        """An entry, and what is amiss with it."""
        for line in record["amiss"]:
            self.note(job.name, line)
        implausible = [one for one in record["entry"]["results"] if not one["plausible"]]
        if implausible:
            first = implausible[0]
            self.reporter.line(
                f"warning: entry '{job.name}': {len(implausible)} of {len(record['entry']['results'])} "
                f"structures are not plausible, such as that of {first['method']}: {first['problems'][0]}"
            )
        found[job.name] = record["entry"]

    def identity(self, job: Job) -> dict[str, Any]:
        """What an entry depends on: two with the same identity are the same but for the time they took."""
        truth = self.truths.get(job.name)
        return {
            "methods": {
                method.key: {"seed": method.seed}
                | identity(method.settings, method.plan.digest, self.model.weights, job.document)
                for method in self.methods
            },
            "truth": None if truth is None else hashlib.sha256(truth.read_bytes()).hexdigest(),
            "repeats": self.settings.repeats,
        }

    def made(self, job: Job, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """An entry from new predictions, kept for the next run.

        Args:
            job: Which.
            found: The entries that are done, for a report that is written meanwhile.
        """
        stage, folder = self.ready(), self.folder.path / job.name
        others = f"{len(self.methods)} methods, {self.settings.repeats} times after {WARM_UPS} to warm up"
        self.reporter.job(job.name, f"{job.n_token} tokens, {job.n_atom} atoms, {others}")
        warnings = warnings_of(job, self.methods[0].settings, self.model)
        for warning in warnings:
            self.reporter.line(f"    {job.name}: {warning}")
        if self.settings.truth is not None and job.name not in self.truths:
            self.reporter.line(f"    {job.name}: no experimental structure in {self.settings.truth}")
        settings = self.identity(job)
        self.folder.check()
        folder.mkdir(exist_ok=True)
        with Replacement(folder) as new:
            turns = Turns(stage, job, folder, new.folder, self.truths.get(job.name))
            entry = turns.entry()
            entry["warnings"] = [
                *warnings_of_run(self.methods[0].settings, self.model),
                *stage.engine.load_warnings,
                *warnings,
                *turns.warnings,
            ]
            record = {
                "settings": settings,
                "entry": entry,
                "amiss": turns.amiss,
                "overwrite_id": self.overwrite_id,
            }
            write_json(new.folder / ENTRY, record)
            new.keep(lambda path: not is_result(path))
            self.folder.check()
            self.withdraw(job.name, found)
            new.put_in_place()
        stock = entry["results"][0]
        self.reporter.job_done(
            f"done, {self.methods[0].label} {stock['wall_s']:.1f} s, pTM {stock['ptm']:.3f}"
        )
        return record

    def withdraw(self, name: str, found: dict[str, dict[str, Any]]) -> None:
        """Have the report of an earlier run say nothing of an entry that is about to be replaced."""
        earlier = read_json(self.folder.path / REPORT)
        listed = earlier.get("entries") if isinstance(earlier, dict) else None
        if not isinstance(listed, list) or not any(entry.get("name") == name for entry in listed):
            return
        if found:
            self.publish(self.report(list(found.values())))
            return
        for file in (PAGE, TABLE, REPORT):
            (self.folder.path / file).unlink(missing_ok=True)

    def ready(self) -> Stage:
        """The model, loaded once, with every plan tried on it."""
        if self.stage is not None:
            return self.stage
        start = time.perf_counter()
        first = self.methods[0]
        engine = engine_of(first.settings, self.model, first.plan, self.device)
        for method in self.methods[1:]:
            engine.use(method.plan)
        self.stage = Stage(engine, self.methods, self.settings.repeats, self.components, self.reporter)
        seconds = time.perf_counter() - start
        self.reporter.line(
            f"model {self.model.name} on {self.device} in {engine.dtype}, ready in {seconds:.1f} s"
        )
        self.reporter.warn(engine.load_warnings)
        return self.stage

    def report(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        """All of `report.json`."""
        methods = [method.as_dict() for method in self.methods]
        noise = self.methods[-1].key
        found = outcome(entries, methods, noise)
        return {
            "format": FORMAT,
            "model": self.model.name,
            "demo_model": self.model.is_demo,
            "methods": methods,
            **found,
            "entries": _drawn(entries, found["verdict"]["method"]),
            "failed": self.result.failed,
            "provenance": self.provenance(),
        }

    def provenance(self) -> dict[str, Any]:
        """Where, when and how."""
        code = machine.commit()
        changed = " with changes" if code["changed"] else ""
        return {
            "created": now(),
            "command": sys.argv,
            "commit": None if code["commit"] is None else f"{code['commit']}{changed}",
            "seeds": sorted({method.seed for method in self.methods}),
            "repeats": self.settings.repeats,
            "warm_ups": WARM_UPS,
            "machine": _flat(machine.describe(self.device)),
            "versions": {**versions(), **machine.versions()},
        }

    def publish(self, report: dict[str, Any]) -> None:
        """The three files, each complete whenever it is seen; `withdraw` goes by the last."""
        write_atomic(self.folder.path / PAGE, page(report))
        write_atomic(self.folder.path / TABLE, table(report))
        write_json(self.folder.path / REPORT, report)


def _complete(record: Any, folder: Path) -> dict[str, Any] | None:
    """A record of ours whose structures are all there."""
    if not isinstance(record, dict) or not {"settings", "entry", "amiss"} <= record.keys():
        return None
    files = [folder / result["structure"] for result in record["entry"]["results"]]
    return record if all(file.is_file() for file in files) else None


def _was_checked(record: dict[str, Any]) -> bool:
    """Tell whether an entry says of its structures if they are plausible, which earlier versions did not."""
    return all("plausible" in result for result in record["entry"]["results"])


def _difference(made: dict[str, Any], wanted: dict[str, Any]) -> str:
    """In what an earlier comparison differs from what is wanted, in words; nothing if in nothing."""
    before, after = made.get("methods") or {}, wanted["methods"]
    if list(before) != list(after):
        return f"of {', '.join(before) or 'nothing'} instead of {', '.join(after)}"
    changed = (difference(before[key], after[key]) for key in after)
    if found := next(filter(None, changed), ""):
        return found
    if made.get("truth") != wanted["truth"]:
        return "with another experimental structure"
    return "" if made.get("repeats") == wanted["repeats"] else f"of {made.get('repeats')} repeats"


def _drawn(entries: Sequence[dict[str, Any]], judged: str) -> list[dict[str, Any]]:
    """The entries, of many without the drawings of those that differ least."""
    if len(entries) <= _MOST_DRAWN:
        return list(entries)

    def likeness(entry: dict[str, Any]) -> float:
        found = next((one for one in entry["results"] if one["method"] == judged), None)
        score = found["to_stock"]["lddt_ca"] if found and found["to_stock"] else None
        return 1.0 if score is None else score

    kept = {entry["name"] for entry in sorted(entries, key=likeness)[:_MOST_DRAWN]}
    nothing: dict[str, Any] = {"traces": [], "pae_maps": []}
    return [entry if entry["name"] in kept else {**entry, **nothing} for entry in entries]


def _flat(found: dict[str, Any]) -> dict[str, Any]:
    """Texts and numbers alone."""
    return {
        key: ".".join(map(str, value)) if isinstance(value, list) else value for key, value in found.items()
    }
