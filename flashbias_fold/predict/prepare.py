"""From what was asked for to what will run: values that were left open, the plan, the jobs that fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flashbias_fold.errors import InputError
from flashbias_fold.inputs import NO_ALIGNMENT, InputSet, Job, Rejected
from flashbias_fold.predict.progress import Reporter
from flashbias_fold.predict.settings import Settings, run_defaults
from flashbias_fold.protenix_adapter.models import Model, build_config
from flashbias_fold.resources import resource


def decided(settings: Settings, model: Model) -> tuple[Settings, Any]:
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


def plan_file(settings: Settings, model: Model) -> Path | None:
    """The user's plan, or for `flashbias` the one that ships for the model, if any does."""
    shipped = resource("configs", "plans", f"{model.name}.yaml")
    if settings.plan is None and settings.bias == "flashbias" and shipped.is_file():
        return shipped
    return settings.plan


def plan_of(settings: Settings, model: Model) -> Any:
    """The plan of that file, or what `--bias` alone stands for."""
    from flashbias_fold.pairformer import Plan

    path = plan_file(settings, model)
    if path is None:
        return Plan.for_bias(settings.bias)
    plan = Plan.load(path)
    return plan if settings.plan is not None else dataclasses.replace(plan, name=settings.bias)


def engine_of(settings: Settings, model: Model, plan: Any, device: Any) -> Any:
    """The loaded model, for settings of which everything is decided."""
    from flashbias_fold.protenix_adapter.engine import Engine

    assert settings.samples is not None and settings.dtype is not None
    return Engine(
        model,
        plan,
        device=device,
        dtype=settings.dtype,
        samples=settings.samples,
        steps=settings.steps,
        cycles=settings.cycles,
        rna_msa=settings.rna_msa,
        trust_checkpoint=settings.trust_checkpoint,
    )


def seeds_of(settings: Settings, job: Job) -> tuple[int, ...]:
    """The user's, else the job's own."""
    return settings.seeds or job.seeds or tuple(run_defaults().seeds)


def that_fit(inputs: InputSet, settings: Settings, model: Model, device: Any) -> InputSet:
    """Reject the jobs that cannot fit the memory at hand, before anything is loaded.

    One that may not fit is warned of.
    """
    from flashbias_fold.protenix_adapter.kernels import stock_kernels
    from flashbias_fold.protenix_adapter.memory import available_bytes

    need = need_of(settings, model, device, stock_kernels(device).attention)
    at_hand = available_bytes(device)
    fitting = _without(inputs, lambda job: _memory_problem(job, need, device, at_hand))
    return dataclasses.replace(fitting, jobs=warned(fitting.jobs, need, device))


def _without(inputs: InputSet, problem_of: Callable[[Job], str | None]) -> InputSet:
    """Reject the jobs that have a problem."""
    jobs, rejected = [], list(inputs.rejected)
    for job in inputs.jobs:
        problem = problem_of(job)
        if problem is None:
            jobs.append(job)
        else:
            rejected.append(Rejected(error=no_room(job, problem), name=job.name))
    return InputSet(jobs=tuple(jobs), rejected=tuple(rejected))


def no_room(job: Job, problem: str) -> InputError:
    """The error of a job that is too large for something."""
    return InputError(problem, file=job.source, job=job.name, field="sequences")


def need_of(settings: Settings, model: Model, device: Any, attention: str) -> Any:
    """What tells how much memory a job needs, for settings of which everything is decided.

    Args:
        settings: What was asked for.
        model: Which model.
        device: Where it runs, which need not be here.
        attention: What stock Protenix computes triangle attention with there.
    """
    from flashbias_fold.protenix_adapter.memory_model import Need

    assert settings.samples is not None
    config = build_config(model)
    config.dtype = settings.dtype
    config.model.N_cycle = settings.cycles or config.model.N_cycle
    weights = model.checkpoint.stat().st_size
    return Need.of(config, weights, settings.samples, device, bias=settings.bias, attention=attention)


def warned(jobs: tuple[Job, ...], need: Any, device: Any) -> tuple[Job, ...]:
    """The jobs, with a warning for those that are begun although they may not fit what is free now."""
    from flashbias_fold.protenix_adapter.memory import free_bytes

    free = free_bytes(device)
    if all(need.bytes_of(job.n_token) <= free for job in jobs):
        return jobs
    then = "smaller chunks are tried if it runs out" if device.type == "cuda" else "it may be killed"
    rest = f"{gib(free)} are free: {then}; up to about {need.largest(free):,} tokens fit"
    return tuple(
        job
        if need.bytes_of(job.n_token) <= free
        else dataclasses.replace(job, warnings=(*job.warnings, f"{_needed(job, need, device)}, {rest}"))
        for job in jobs
    )


def _memory_problem(job: Job, need: Any, device: Any, at_hand: int) -> str | None:
    """Why a job is not begun: a process that takes all of the memory is killed, and maybe others with it."""
    # A GPU that has no room says so in time; then smaller chunks are tried: what they spare is allowed for.
    if need.bytes_of(job.n_token) <= at_hand * (2 if device.type == "cuda" else 1):
        return None
    return f"{_needed(job, need, device)}, there are {gib(at_hand)}"


def _needed(job: Job, need: Any, device: Any) -> str:
    return f"{job.n_token} tokens need about {gib(need.bytes_of(job.n_token))} on {device}"


def gib(size: int) -> str:
    """Bytes in words."""
    return f"{size / 2**30:.0f} GiB" if size >= 10 * 2**30 else f"{size / 2**30:.1f} GiB"


def warnings_of(job: Job, settings: Settings, model: Model) -> list[str]:
    """What to say of a job beforehand."""
    said = list(job.warnings)
    if settings.msa_server is not None or not model.reads_alignments:
        said = [text for text in said if NO_ALIGNMENT not in text]
    if not model.reads_alignments:
        said.append(f"{model.name} reads no alignments: those of the input are not used")
    elif not settings.rna_msa and _has_rna_alignment(job.document):
        said.append("the alignment of RNA is not used (--rna-msa uses it)")
    if "constraint" in job.document and not model.reads_constraints:
        said.append(
            f"the constraints are not used: {model.name} has no constraint embedder; models whose names say "
            "constraint have one"
        )
    if any("templatesPath" in chain for entity in job.document["sequences"] for chain in entity.values()):
        said.append("the templates are not used: no model is given any")
    if problem := _format_problem(job, settings):
        said.append(f"--format {settings.format}: {problem}: its structures are written as mmCIF alone")
    return said


def warnings_of_run(settings: Settings, model: Model) -> list[str]:
    """Return what to say of every job of a run, for settings of which everything is decided."""
    from flashbias_fold.protenix_adapter.driver import why_no_gpu

    config = build_config(model)
    own = {"steps": int(config.sample_diffusion.N_step), "cycles": int(config.model.N_cycle)}
    said = [
        f"--{option} {asked}: the model's own number is {number}; structures may be unfinished"
        for option, number in own.items()
        if (asked := getattr(settings, option)) is not None and asked < number
    ]
    if settings.device == "cpu" and (problem := why_no_gpu()):
        said.append(f"predicting on the CPU, as torch cannot use the NVIDIA GPU that is here: {problem[0]}")
    return said


def fit_format(settings: Settings, job: Job) -> Settings:
    """Return the settings with a format that has room for the job's structures, as far as the input tells."""
    return settings.filled(format="cif") if _format_problem(job, settings) else settings


def _format_problem(job: Job, settings: Settings) -> str | None:
    """Return why the format has no room for the job's structures, as far as the input tells."""
    from flashbias_fold.protenix_adapter.writer import pdb_problem_of

    if settings.format == "cif":
        return None
    return pdb_problem_of(job.document, n_atom=job.n_atom, n_chain=job.n_chain)


def _has_rna_alignment(document: dict[str, Any]) -> bool:
    chains = [entity["rnaSequence"] for entity in document["sequences"] if "rnaSequence" in entity]
    return any(chain.get("unpairedMsa") or chain.get("unpairedMsaPath") for chain in chains)


def with_alignments(
    job: Job, settings: Settings, model: Model, folder: Path, reporter: Reporter
) -> dict[str, Any]:
    """The job with alignments from a server, where one was asked for; they are kept in a folder."""
    if settings.msa_server is None or not model.reads_alignments:
        return job.document
    from flashbias_fold.protenix_adapter.alignment_server import add_alignments

    reporter.stage("alignments")
    return add_alignments(job.document, folder / "msa", settings.msa_server)
