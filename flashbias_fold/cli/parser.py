"""The command line as a whole; each command's options are in `options`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from flashbias_fold import __version__
from flashbias_fold.cli.options import bench, calibrate, compare, doctor, fetch, plan, predict, status
from flashbias_fold.cli.options.common import Parser

_MAIN_EPILOG = """\
examples:
  flashbias-fold doctor                                what this machine has, and what is missing
  flashbias-fold fetch protenix_base_default_v1.0.0    get official weights, once
  flashbias-fold predict target.json --out preds/      predict every job of a Protenix JSON file
  flashbias-fold predict targets.fasta --out preds/    one job for each record, chains separated by ':'
  flashbias-fold status preds/                         how a run stands, in another terminal
  flashbias-fold compare targets/ --out cmp/           is it the same as stock, and how much faster: a page
  flashbias-fold calibrate --inputs targets/ --out f.safetensors
                                                       train factor networks for a model
  flashbias-fold plan f.safetensors --out plan.yaml    choose rank and way for each layer by their errors
  flashbias-fold bench kernels                         time triangle attention against its peers, here
  flashbias-fold bench model                           time whole predictions against stock, here

`flashbias-fold COMMAND --help` explains a command.
exit status: 0 all done, 1 some jobs failed, 2 wrong input or arguments, 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser(
        prog="flashbias-fold",
        description="Protein structure prediction with Protenix, its pair-bias attention replaced and timed.",
        epilog=_MAIN_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"flashbias-fold {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for command in (predict, status, compare, fetch, calibrate, plan, bench, doctor):
        command.add(commands)
    return parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse, raising UsageError for what is wrong."""
    return build_parser().parse_args(arguments)
