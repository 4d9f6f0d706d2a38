"""The options of `fetch`."""

from __future__ import annotations

from typing import Any

from flashbias_fold.cli.options.common import add_common

_FETCH_DESCRIPTION = """\
Download the official weights of a model to where Protenix keeps them ($PROTENIX_ROOT_DIR, by default the
home folder). An interrupted download is continued by the same command; the checksum is kept beside the
file and verified when the weights are loaded.
"""


def add(commands: Any) -> None:
    """Its options."""
    command = commands.add_parser(
        "fetch",
        help="download official weights",
        description=_FETCH_DESCRIPTION,
        epilog="FLASHBIAS_FOLD_MIRROR=URL takes the files from a mirror with the same layout.",
    )
    command.add_argument(
        "name",
        metavar="NAME",
        help="a model of Protenix 2.0, such as protenix_base_default_v1.0.0, or 'components': Protenix's own "
        "chemical component files, which are used instead of the dictionary that ships with biotite",
    )
    add_common(command)
