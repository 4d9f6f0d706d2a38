"""The options of `status`."""

from __future__ import annotations

from typing import Any

from flashbias_fold.cli.options import values
from flashbias_fold.cli.options.common import add_common

_STATUS_DESCRIPTION = """\
Say how a run stands, from its folder, in another terminal and on any machine that sees the folder: how many
jobs are done, how fast they go, what each worker does, the newest failures and their reasons, and whether the
run still lives. It only reads. The exit status is 2 if the folder is not a run's.
"""

_STATUS_EPILOG = """\
examples:
  flashbias-fold status preds/
  watch -n 10 flashbias-fold status preds/     again every ten seconds
"""


def add(commands: Any) -> None:
    """Its options."""
    command = commands.add_parser(
        "status",
        help="how a run stands, from its folder",
        description=_STATUS_DESCRIPTION,
        epilog=_STATUS_EPILOG,
    )
    command.add_argument(
        "folder", metavar="DIR", type=values.path, help="what was given to `predict` as --out"
    )
    command.add_argument("--json", action="store_true", help="print the same as JSON")
    add_common(command)
