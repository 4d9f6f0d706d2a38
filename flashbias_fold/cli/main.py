"""From the arguments to an exit status."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from flashbias_fold.cli import signals, streams
from flashbias_fold.cli.encoding import use_utf8
from flashbias_fold.cli.parser import parse
from flashbias_fold.errors import FlashbiasError, UsageError
from flashbias_fold.protenix_adapter.environment import absence

if TYPE_CHECKING:
    from flashbias_fold.predict import RunResult, Settings
    from flashbias_fold.predict.progress import Reporter

FAILED = 1
WRONG = 2
INTERRUPTED = 130

# How a command that was interrupted is continued; the others do not do again what is done.
_AGAIN = {"bench": "", "calibrate": "; --resume continues after the last prediction that was learnt from"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is DESIGN's: 0, 1, 2 or 130."""
    if arguments is None:
        use_utf8()
    streams.settle()
    status = _run(sys.argv[1:] if arguments is None else arguments)
    streams.complain()
    return status


def _run(arguments: Sequence[str]) -> int:
    debug, command = False, ""
    try:
        options = parse(arguments)
        debug, command = options.debug, options.command
        _settle(debug)
        return _COMMANDS[command](options)
    except SystemExit:  # --help and --version: argparse has printed them
        return 0
    except FlashbiasError as error:
        return _fail(f"error: {error}", WRONG, debug)
    except KeyboardInterrupt:
        again = _AGAIN.get(command, "; the same command continues where it stopped")
        streams.complain(f"interrupted{again}")
        return INTERRUPTED
    except OSError as error:
        # The disk is full, a folder has gone: nothing of ours, but the user has to know which.
        return _fail(
            f"error: {error.filename or 'input or output'}: {error.strerror or error}", FAILED, debug
        )
    except Exception as error:
        # Whatever needs Protenix may be the first to find that it is not there.
        missing = absence(error)
        return _fail(f"error: {missing or _unexpected(error)}", WRONG if missing else FAILED, debug)


def _unexpected(error: Exception) -> str:
    return f"unexpected {type(error).__name__}: {' '.join(str(error).split())} (--debug shows where)"


def _fail(line: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    streams.complain(line)
    return status


def _settle(debug: bool) -> None:
    # Read when torch is first imported. Threads that spin while they wait for each other cost a run on a
    # busy machine twenty times its time, and gain an idle one nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A scheduler that wants its node back sends SIGTERM; that is an interruption like any other.
    signals.catch()
    if debug:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr)
        return
    warnings.simplefilter("ignore")
    # Protenix and rdkit log by the page; what a user has to know is said by us.
    logging.disable(logging.CRITICAL)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The options of the command itself."""
    return {key: value for key, value in vars(options).items() if key not in ("command", "quiet", "debug")}


def _predict(options: argparse.Namespace) -> int:
    from flashbias_fold.cli.render import render_result
    from flashbias_fold.predict import Settings
    from flashbias_fold.predict.progress import Reporter

    given = _given(options)
    engine, where = given.pop("engine"), {key: given.pop(key) for key in ("address", "devices")}
    settings = Settings(**given)
    with Reporter(quiet=options.quiet) as reporter:
        result = _engine(engine, where)(settings, reporter)
    if result.jobs and not options.quiet:
        render_result(result)
    return result.exit_status


def _engine(name: str, where: dict[str, Any]) -> Callable[[Settings, Reporter], RunResult]:
    """What predicts, of which `where` tells where it runs."""
    if name == "ray":
        from flashbias_fold.campaign.run import campaign
        from flashbias_fold.campaign.settings import Cluster, require_ray

        require_ray()
        return functools.partial(campaign, cluster=Cluster(**where))
    for option, value in where.items():
        if value is not None:
            raise UsageError(f"--{option}: is for --engine ray, not for {name}")
    from flashbias_fold.predict import predict

    return predict


def _compare(options: argparse.Namespace) -> int:
    from flashbias_fold.cli.render import render_comparison
    from flashbias_fold.compare.run import compare
    from flashbias_fold.compare.settings import Settings
    from flashbias_fold.predict import Settings as Predictions
    from flashbias_fold.predict.progress import Reporter

    given = _given(options)
    own = {key: given.pop(key) for key in ("methods", "truth", "repeats")}
    settings = Settings(predictions=Predictions(**given), **own)
    with Reporter(quiet=options.quiet) as reporter:
        result = compare(settings, reporter)
    if not options.quiet:
        render_comparison(result)
    return result.exit_status


def _fetch(options: argparse.Namespace) -> int:
    from flashbias_fold.fetch import fetch

    fetch(options.name, quiet=options.quiet)
    return 0


def _status(options: argparse.Namespace) -> int:
    from flashbias_fold.campaign.status import described, status_of

    status = status_of(options.folder)
    if not options.quiet:
        streams.say(json.dumps(status, indent=2) if options.json else described(status))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from flashbias_fold.cli.render import render_findings
    from flashbias_fold.doctor import examine

    findings = examine()
    render_findings(findings, as_json=options.json, quiet=options.quiet)
    return 0 if all(finding.ok is not False for finding in findings) else 1


def _calibrate(options: argparse.Namespace) -> int:
    from flashbias_fold.calibrate import Settings, calibrate
    from flashbias_fold.cli.render import render_calibration
    from flashbias_fold.predict.progress import Reporter

    given = _given(options)
    settings = Settings(**given)
    with Reporter(quiet=options.quiet) as reporter:
        result = calibrate(settings, reporter)
    if not options.quiet:
        render_calibration(result)
    return result.exit_status


def _plan(options: argparse.Namespace) -> int:
    from flashbias_fold.calibrate.planning import plan_from
    from flashbias_fold.calibrate.speed import Speed
    from flashbias_fold.cli.render import render_plan

    speed = None if options.speed is None else Speed.load(options.speed)
    found = plan_from(options.factors, options.tolerance, options.out, speed)
    if not options.quiet:
        render_plan(found, options.out, speed)
    return 0


def _bench(options: argparse.Namespace) -> int:
    return _BENCHMARKS[options.benchmark](options)


def _bench_kernels(options: argparse.Namespace) -> int:
    from flashbias_fold.bench.kernels.options import KernelOptions

    names = (field.name for field in dataclasses.fields(KernelOptions))
    asked = KernelOptions(**{name: getattr(options, name) for name in names})

    from flashbias_fold.bench.kernels import record, run
    from flashbias_fold.cli.render import render_kernels
    from flashbias_fold.predict.progress import Reporter

    if asked.out is not None:  # what cannot be written is better known before than after
        asked.out.mkdir(parents=True, exist_ok=True)
    with Reporter(quiet=options.quiet) as reporter:
        result = run.run(asked, reporter)
    if asked.out is not None:
        record.write(result, asked.out)
    if not options.quiet:
        render_kernels(result, asked.out)
    return result.exit_status


def _bench_model(options: argparse.Namespace) -> int:
    from flashbias_fold.bench.model.options import ModelOptions

    names = (field.name for field in dataclasses.fields(ModelOptions))
    asked = ModelOptions(**{name: getattr(options, name) for name in names})

    from flashbias_fold.bench.model import record, run
    from flashbias_fold.cli.render import render_model
    from flashbias_fold.predict.progress import Reporter

    out = asked.out
    if out is not None:  # what cannot be written is better known before than after
        out.mkdir(parents=True, exist_ok=True)
    keep = None if out is None else functools.partial(record.write, folder=out)
    with Reporter(quiet=options.quiet) as reporter:
        result = run.run(asked, reporter, after_each=keep)
    if not options.quiet:
        render_model(result, out)
    return result.exit_status


_BENCHMARKS = {"kernels": _bench_kernels, "model": _bench_model}
_COMMANDS = {
    "predict": _predict,
    "status": _status,
    "compare": _compare,
    "fetch": _fetch,
    "calibrate": _calibrate,
    "plan": _plan,
    "bench": _bench,
    "doctor": _doctor,
}
