"""The options of `doctor`."""

from __future__ import annotations

from typing import Any

from flashbias_fold.cli.options.common import add_common

_DOCTOR_DESCRIPTION = """\
Show versions, GPU and driver, which kernels will run and why not the others, where weights and chemical
components come from, and the command that mends what is missing; then run a small self-test. The exit
status is 1 if something that prediction needs is broken.
"""


def add(commands: Any) -> None:
    """Its options."""
    command = commands.add_parser(
        "doctor",
        help="what this machine has, and what is missing",
        description=_DOCTOR_DESCRIPTION,
    )
    command.add_argument("--json", action="store_true", help="print the findings as JSON")
    add_common(command)
