"""How a folder of outputs stands: what is complete, what failed and why, and what `run.json` says of it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection, Mapping
from typing import Any

from flashbias_fold.inputs import InputSet, Job
from flashbias_fold.predict.account import difference, error_json, now, versions
from flashbias_fold.predict.folder import OutputFolder
from flashbias_fold.predict.prepare import seeds_of
from flashbias_fold.predict.settings import Settings, identity
from flashbias_fold.protenix_adapter.models import Model


def note_error(folder: OutputFolder, name: str, error: Exception) -> None:
    """`error.json` of a job; where a file stands in the place of its folder there can be none."""
    with contextlib.suppress(FileExistsError, NotADirectoryError):
        folder.job(name).write_error(error_json(error))


def note_rejected(folder: OutputFolder, inputs: InputSet) -> None:
    """`error.json` of the jobs that cannot run, unless there are results of such a name."""
    for rejected in inputs.rejected:
        if rejected.name is not None and folder.job(rejected.name).report() is None:
            note_error(folder, rejected.name, rejected.error)


def earlier(
    settings: Settings,
    job: Job,
    folder: OutputFolder,
    *,
    plan: str | None,
    weights: str,
    undecided: Collection[str] = (),
) -> tuple[dict[str, Any], str] | None:
    """The report of a job that is complete, and in which settings it differs; None if it is to be done.

    Args:
        settings: What was asked for.
        job: The job.
        folder: Where its outputs would be.
        plan: The plan's digest.
        weights: What tells the model's weights from others.
        undecided: Settings that do not count, as nobody has asked for a value of them.
    """
    report = folder.job(job.name).report()
    if settings.overwrite or report is None:
        return None
    if not set(seeds_of(settings, job)) <= {sample.get("seed") for sample in report["samples"]}:
        return None
    try:
        wanted = identity(settings, plan, weights, job.document)
    except OSError:  # a file that the input names has gone since it was read; who does the job says so
        return None
    changed = difference(
        report["settings"], {key: value for key, value in wanted.items() if key not in undecided}
    )
    folder.job(job.name).forget_error()
    return report, f" ({changed}; --overwrite predicts it again)" if changed else ""


def run_record(
    status: str,
    *,
    started: str,
    settings: Settings,
    model: Model,
    plan: Any,
    components: Any,
    inputs: InputSet,
    jobs: Mapping[str, str],
    device: str,
) -> dict[str, Any]:
    """What `run.json` holds.

    Args:
        status: Of the run: `running`, `done`, `failed` or `interrupted`.
        started: When it began.
        settings: What was asked for, everything decided.
        model: Which model.
        plan: How its attention layers are computed.
        components: Where the chemical components come from.
        inputs: The jobs, and those that cannot run.
        jobs: Their states, as far as they have one.
        device: Where they run, in words.
    """
    return {
        "status": status,
        "started": started,
        "updated": now(),
        "command": sys.argv,
        "arguments": settings.as_dict(),
        "model": {
            "name": model.name,
            "demo_model": model.is_demo,
            "checkpoint": str(model.checkpoint),
        },
        "plan": {"name": plan.name, "rules": plan.as_list()},
        "components": components.describe(),
        "jobs": {job.name: jobs.get(job.name, "pending") for job in inputs.jobs},
        "rejected": [{"name": rejected.name, "error": str(rejected.error)} for rejected in inputs.rejected],
        "versions": versions(),
        "device": device,
    }
