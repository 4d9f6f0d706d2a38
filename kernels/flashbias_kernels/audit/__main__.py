"""Compile the kernels for GPUs that need not be there, and print what their machine code needs.

Exits with 1 if a kernel spills registers; if it wants more shared memory than the GPU has; if it was compiled
wrongly, so that it reads a register which nothing has set; or if it could not be compiled.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashbias_kernels.audit.work import Outcome, Task

ARCHITECTURES = (80, 86, 89, 90, 100)
USUAL_ARCHITECTURES = (80, 90, 100)
# The release for an environment that has none, as the requirements of a machine without a GPU: the one that
# they install for the tests (requirements/dev-cpu.txt).
_TRITON = "triton==3.9.0"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    if obstacle := _obstacle():
        print(f"flashbias_kernels.audit: {obstacle}", file=sys.stderr)
        return 2
    from flashbias_kernels.audit import report
    from flashbias_kernels.audit.work import Finding, one_for_each_row, tasks

    findings, failures = [], 0
    work = one_for_each_row(options.arch) if options.rows else tasks(options.arch)
    for outcome in _outcomes(work, options.jobs):
        if isinstance(outcome, Finding):
            findings.append(outcome)
        else:
            failures += 1
            print(outcome, file=sys.stderr)
    print(report.table(findings))
    if options.json:
        options.json.write_text(json.dumps([finding.data() for finding in findings], indent=1) + "\n")
    print(report.summary(findings, failures))
    return int(failures > 0 or not all(finding.sound for finding in findings))


def _parser() -> argparse.ArgumentParser:
    from flashbias_kernels.audit.report import COLUMNS

    parser = argparse.ArgumentParser(
        prog="python -m flashbias_kernels.audit",
        description=__doc__,
        epilog=COLUMNS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--arch",
        type=_architectures,
        default=USUAL_ARCHITECTURES,
        metavar="SM,...",
        help=f"of {_listed(ARCHITECTURES)}; by default {_listed(USUAL_ARCHITECTURES)}",
    )
    parser.add_argument(
        "--rows",
        action="store_true",
        help="only one case for each row of the tables of block sizes, each kernel for one GPU in turn",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was found there too")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: %(default)s)"
    )
    return parser


def _architectures(text: str) -> tuple[int, ...]:
    names = [name.strip().removeprefix("sm_") for name in text.split(",")]
    unknown = [name for name in names if name not in map(str, ARCHITECTURES)]
    if unknown:
        raise argparse.ArgumentTypeError(f"{','.join(unknown)} is none of {_listed(ARCHITECTURES)}")
    return tuple(map(int, names))


def _listed(architectures: Sequence[int]) -> str:
    return ",".join(map(str, architectures))


def _obstacle() -> str | None:
    """Why there is nothing to compile with."""
    if find_spec("triton") is None:
        return f"the package triton is not installed: {sys.executable} -m pip install {_TRITON}"
    if "TRITON_INTERPRET" in os.environ:
        return "TRITON_INTERPRET is set, so that kernels would be interpreted and not compiled; unset it"
    return None


def _outcomes(work: Sequence[Task], jobs: int) -> Iterator[Outcome]:
    """In order, from several processes; Triton's cache is a new one, so that everything is compiled."""
    from flashbias_kernels.audit.work import run

    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as processes:
            for done, (task, outcome) in enumerate(zip(work, processes.map(run, work), strict=True), 1):
                print(f"{done}/{len(work)} {task}", file=sys.stderr)
                yield outcome


if __name__ == "__main__":
    sys.exit(main())
