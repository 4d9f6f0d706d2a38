"""The story of a run, top to bottom: read and check everything, load the model, do the jobs, report."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import platform
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flashbias_fold import __version__
from flashbias_fold.errors import FlashbiasError, InputError, JobError, SetupError
from flashbias_fold.files import write_json
from flashbias_fold.inputs import NO_ALIGNMENT, InputSet, Job, Rejected, load_inputs
from flashbias_fold.predict.folder import RUN, JobFolder, OutputFolder
from flashbias_fold.predict.progress import Reporter
from flashbias_fold.predict.settings import Settings, identity, run_defaults
from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.components import open_components
from flashbias_fold.protenix_adapter.models import Model, build_config, find_model
from flashbias_fold.resources import resource

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_REPORTED_VERSIONS = ("protenix", "torch", "triton", "numpy", "rdkit", "biotite", "cuequivariance-torch")


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
        settings, device = _decided(settings, model)
        inputs = _that_fit(inputs, settings, model, device)
    result = RunResult(settings.out, rejected=len(inputs.rejected))
    for rejected in inputs.rejected:
        reporter.error(f"error: {rejected.error}")
    if not inputs.jobs:
        return result
    _plan(settings, model)  # a mistake in it leaves no folder
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
        self.plan = _plan(settings, model)
        self.started = _now()
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
            self.folder.job(name).write_error(_error_json(error))

    def skip(self, job: Job) -> bool:
        """Whether the job's outputs are complete; says so, and in which settings they differ."""
        report = self.folder.job(job.name).report()
        if self.settings.overwrite or report is None:
            return False
        if not set(_seeds(self.settings, job)) <= {sample.get("seed") for sample in report["samples"]}:
            return False
        try:
            wanted = identity(self.settings, self.plan.digest, self.weights, job.document)
        except OSError:  # a file that the input names has gone since it was read; `do` says so
            return False
        difference = _difference(report["settings"], wanted)
        hint = f" ({difference}; --overwrite predicts it again)" if difference else ""
        self.reporter.line(f"{job.name}: already complete, skipped{hint}")
        self.folder.job(job.name).forget_error()
        self.result.jobs[job.name] = "skipped"
        self.result.reports.append(report)
        return True

    def load_model(self) -> None:
        from flashbias_fold.protenix_adapter.engine import Engine

        start = time.perf_counter()
        assert self.settings.samples is not None and self.settings.dtype is not None
        self.engine = Engine(
            self.model,
            self.plan,
            device=self.device,
            dtype=self.settings.dtype,
            samples=self.settings.samples,
            steps=self.settings.steps,
            cycles=self.settings.cycles,
            rna_msa=self.settings.rna_msa,
            trust_checkpoint=self.settings.trust_checkpoint,
        )
        seconds = time.perf_counter() - start
        self.reporter.line(
            f"model {self.model.name} on {self.device} in {self.engine.dtype}, bias {self.settings.bias}, "
            f"ready in {seconds:.1f} s"
        )

    def do(self, job: Job) -> None:
        """One job; an error of its own is noted and the run goes on."""
        seeds = ", ".join(str(seed) for seed in _seeds(self.settings, job))
        self.reporter.job(job.name, f"{job.n_token} tokens, {job.n_atom} atoms, seeds {seeds}")
        for warning in self.warnings(job):
            self.reporter.line(f"    {job.name}: {warning}")
        folder = self.folder.job(job.name)
        try:
            report = self.predict_job(job, folder)
        except SetupError:
            raise  # the next job would meet it too
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise  # the next job would meet it too
            self.note_error(job.name, error)
            self.result.jobs[job.name] = "failed"
            self.reporter.error(f"error: job '{job.name}': {_one_line(error)}")
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
                    f"{folder.path} holds results {_difference(record['settings'], wanted)}; "
                    "add --overwrite, or choose another --out"
                )
        document = self.with_alignments(job, folder)
        self.components.install_for(document)
        for seed in _seeds(self.settings, job):
            if folder.seed_record(seed) is None:
                self.predict_seed(job, document, seed, folder, wanted)
        report = _job_report(list(folder.seed_records()))
        folder.write_report(report)
        self.folder.note(report)
        return report

    def warnings(self, job: Job) -> list[str]:
        """What to say of a job beforehand."""
        said = list(job.warnings)
        if self.settings.msa_server is not None or not self.model.reads_alignments:
            said = [text for text in said if NO_ALIGNMENT not in text]
        if not self.model.reads_alignments:
            said.append(f"{self.model.name} reads no alignments: those of the input are not used")
        elif not self.settings.rna_msa and _has_rna_alignment(job.document):
            said.append("the alignment of RNA is not used (--rna-msa uses it)")
        return said

    def with_alignments(self, job: Job, folder: JobFolder) -> dict[str, Any]:
        """The job with alignments from a server, where one was asked for."""
        if self.settings.msa_server is None or not self.model.reads_alignments:
            return job.document
        from flashbias_fold.protenix_adapter.alignment_server import add_alignments

        self.reporter.stage("alignments")
        return add_alignments(job.document, folder.path / "msa", self.settings.msa_server)

    def predict_seed(
        self, job: Job, document: dict[str, Any], seed: int, folder: JobFolder, wanted: dict[str, Any]
    ) -> None:
        from flashbias_fold.protenix_adapter.writer import write_prediction

        start = time.perf_counter()
        prediction = self.engine.predict(document, seed, self.reporter)
        self.reporter.stage("write")
        writing = time.perf_counter()
        formats = {"cif": ("cif",), "pdb": ("pdb",), "both": ("cif", "pdb")}[str(self.settings.format)]
        with tempfile.TemporaryDirectory(prefix="flashbias-fold-") as scratch:
            samples = write_prediction(
                prediction, job.name, seed, Path(scratch), formats=formats, pae=self.settings.write_pae
            )
            files = folder.publish_seed(seed, Path(scratch, "predictions"))
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
            "device": _device_name(self.device),
            "dtype": self.engine.dtype,
            "layers": prediction.layers,
            "stages_s": {**prediction.stages_s, "write": end - writing},
            "wall_s": end - start,
            "peak_memory_bytes": prediction.peak_memory_bytes,
            "peak_process_memory_bytes": prediction.peak_process_memory_bytes,
            "chunk_size": prediction.chunk_size,
            "warnings": self.warnings(job),
            "samples": [
                {"seed": seed, **dataclasses.asdict(sample), "cif": f"{predictions}/{sample.cif}"}
                for sample in samples
            ],
            "files": files,
            "settings": wanted,
            "versions": _versions(),
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
                "updated": _now(),
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
                "versions": _versions(),
                "device": _device_name(self.device),
            },
        )
        self.folder.write_summary()


def _decided(settings: Settings, model: Model) -> tuple[Settings, Any]:
    """Fill in what the user left open, so that reports name what was really used."""
    from flashbias_fold.protenix_adapter.kernels import chosen_device, usable_dtype

    defaults = run_defaults()
    config = build_config(model)
    device = chosen_device(settings.device)
    filled = settings.filled(
        model=model.name,
        device=device.type,
        dtype=usable_dtype(device, settings.dtype or "bf16"),
        samples=settings.samples or int(defaults.samples),
        steps=settings.steps or int(config.sample_diffusion.N_step),
        cycles=settings.cycles or int(config.model.N_cycle),
        format=settings.format or str(defaults.format),
    )
    return filled, device


def _plan(settings: Settings, model: Model) -> Any:
    """The user's, or for `flashbias` the one that ships for the model, if any does."""
    from flashbias_fold.pairformer import Plan

    if settings.plan is not None:
        return Plan.load(settings.plan)
    shipped = resource("configs", "plans", f"{model.name}.yaml")
    if settings.bias == "flashbias" and shipped.is_file():
        return dataclasses.replace(Plan.load(shipped), name=settings.bias)
    return Plan.for_bias(settings.bias)


def _seeds(settings: Settings, job: Job) -> tuple[int, ...]:
    return settings.seeds or job.seeds or tuple(run_defaults().seeds)


def _that_fit(inputs: InputSet, settings: Settings, model: Model, device: Any) -> InputSet:
    """Reject the jobs that cannot fit the memory at hand or the format, before anything is loaded."""
    config = build_config(model)
    config.dtype = settings.dtype
    jobs, rejected = [], list(inputs.rejected)
    for job in inputs.jobs:
        problem = _memory_problem(job, settings, model, config, device) or _format_problem(job, settings)
        if problem is None:
            jobs.append(job)
            continue
        error = InputError(problem, file=job.source, job=job.name, field="sequences")
        rejected.append(Rejected(error=error, name=job.name))
    return InputSet(jobs=tuple(jobs), rejected=tuple(rejected))


def _memory_problem(job: Job, settings: Settings, model: Model, config: Any, device: Any) -> str | None:
    from flashbias_fold.protenix_adapter.kernels import stock_kernels
    from flashbias_fold.protenix_adapter.memory import available_bytes, estimate_bytes

    assert settings.samples is not None
    needed = model.checkpoint.stat().st_size + estimate_bytes(
        config,
        n_token=job.n_token,
        samples=settings.samples,
        device=device,
        scores_kept=settings.bias == "stock" and stock_kernels(device).attention == "torch",
    )
    at_hand = available_bytes(device)
    # A GPU that has no room says so in time, and then smaller chunks are tried; a process that takes all of
    # the machine's memory is killed, maybe with others. So the estimate's own error is allowed for on a GPU.
    if needed <= at_hand * (2 if device.type == "cuda" else 1):
        return None
    return f"{job.n_token} tokens need about {_gib(needed)} on {device}, there are {_gib(at_hand)}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.0f} GiB"


def _format_problem(job: Job, settings: Settings) -> str | None:
    from flashbias_fold.protenix_adapter.writer import pdb_problem_of

    if settings.format == "cif":
        return None
    return pdb_problem_of(job.document, n_atom=job.n_atom, n_chain=job.n_chain)


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


def _has_rna_alignment(document: dict[str, Any]) -> bool:
    chains = [entity["rnaSequence"] for entity in document["sequences"] if "rnaSequence" in entity]
    return any(chain.get("unpairedMsa") or chain.get("unpairedMsaPath") for chain in chains)


def _difference(made: dict[str, Any], wanted: dict[str, Any]) -> str:
    """In which settings results differ from what is wanted, in words; nothing if in none."""
    changed = [key for key in wanted if made.get(key) != wanted[key]]
    if not changed:
        return ""
    digests = {"input_sha256": "another input", "weights": "other weights", "plan": "another plan"}
    shown = ", ".join(digests.get(key, f"{key} {made.get(key)} instead of {wanted[key]}") for key in changed)
    return f"made with {shown}"


def _error_json(error: Exception) -> dict[str, Any]:
    known = isinstance(error, FlashbiasError)
    kind = "file" if isinstance(error, OSError) else "unexpected"
    return {
        "error": _one_line(error),
        "kind": error.kind if isinstance(error, FlashbiasError) else kind,
        "file": getattr(error, "file", None),
        "job": getattr(error, "job", None),
        "field": getattr(error, "field", None),
        # For whoever has to mend it; a user's own mistake needs no trace.
        "trace": None if known and error.__cause__ is None else traceback.format_exception(error),
        "versions": _versions(),
    }


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, FlashbiasError) else f"unexpected {type(error).__name__}: {text}"


def _device_name(device: Any) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"flashbias-fold": __version__, "python": platform.python_version()}
    for name in _REPORTED_VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
