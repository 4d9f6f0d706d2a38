"""What a job costs and needs of a worker, estimated without being one: the driver may have no GPU."""

from __future__ import annotations

from collections.abc import Callable

from flashbias_fold.campaign.queue import Task, estimated_cost
from flashbias_fold.inputs import Job
from flashbias_fold.predict.prepare import need_of, seeds_of
from flashbias_fold.predict.settings import Settings
from flashbias_fold.protenix_adapter.models import Model


def tasks_of(settings: Settings, model: Model, attention: str) -> Callable[[Job], Task]:
    """What tells a job's size to the queue, for settings of which everything is decided.

    Args:
        settings: What was asked for.
        model: Which model.
        attention: What stock Protenix computes triangle attention with on the workers.
    """
    import torch

    samples, steps, cycles = settings.samples, settings.steps, settings.cycles
    assert samples is not None and steps is not None and cycles is not None
    need = need_of(settings, model, torch.device(settings.device), attention)

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
