"""What jobs need of a worker, estimated without being one: the driver may have no GPU."""

from __future__ import annotations

from collections.abc import Callable

from flashbias_fold.campaign.queue import Task, estimated_cost
from flashbias_fold.errors import InputError
from flashbias_fold.inputs import InputSet, Job, Rejected
from flashbias_fold.predict.prepare import seeds_of
from flashbias_fold.predict.settings import Settings
from flashbias_fold.protenix_adapter.models import Model


def in_the_format(inputs: InputSet, settings: Settings) -> InputSet:
    """Reject the jobs whose structures the format has no room for."""
    from flashbias_fold.protenix_adapter.writer import pdb_problem_of

    if settings.format == "cif":
        return inputs
    jobs, rejected = [], list(inputs.rejected)
    for job in inputs.jobs:
        problem = pdb_problem_of(job.document, n_atom=job.n_atom, n_chain=job.n_chain)
        if problem is None:
            jobs.append(job)
        else:
            rejected.append(Rejected(error=no_room(job, problem), name=job.name))
    return InputSet(jobs=tuple(jobs), rejected=tuple(rejected))


def no_room(job: Job, problem: str) -> InputError:
    """The error of a job that is too large for something."""
    return InputError(problem, file=job.source, job=job.name, field="sequences")


def tasks_of(settings: Settings, model: Model, attention: str) -> Callable[[Job], Task]:
    """What tells a job's size to the queue, for settings of which everything is decided.

    Args:
        settings: What was asked for.
        model: Which model.
        attention: What stock Protenix computes triangle attention with on the workers.
    """
    import torch

    from flashbias_fold.protenix_adapter.memory_model import Need
    from flashbias_fold.protenix_adapter.models import build_config

    config = build_config(model)
    config.dtype = settings.dtype
    samples, steps, cycles = settings.samples, settings.steps, settings.cycles
    assert samples is not None and steps is not None and cycles is not None
    need = Need.of(
        config,
        model.checkpoint.stat().st_size,
        samples,
        torch.device(settings.device),
        bias=settings.bias,
        attention=attention,
    )

    def task(job: Job) -> Task:
        cost = estimated_cost(
            n_token=job.n_token,
            seeds=len(seeds_of(settings, job)),
            samples=samples,
            steps=steps,
            cycles=cycles,
        )
        return Task(job.name, cost, need.bytes_of(job.n_token))

    return task
