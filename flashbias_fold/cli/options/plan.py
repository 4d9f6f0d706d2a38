"""The options of `plan`."""

from __future__ import annotations

from typing import Any

from flashbias_fold.cli.options import values
from flashbias_fold.cli.options.common import add_common

_PLAN_DESCRIPTION = """\
Write a plan for `predict --plan` from what `calibrate` measured: for each layer the smallest rank at which
the largest error of its output, on the inputs kept aside, is within the tolerance, by its network or by
factors that are computed in the call; the exact bias where no rank is near enough. Says why for each layer.
With --speed also where, by GPU and number of tokens, factors gain no time: there the plan has the exact bias
for all layers.
"""

_PLAN_EPILOG = """\
A call that turns out to be beyond the tolerance uses the exact bias all the same, and the report counts it.

example:
  flashbias-fold plan factors.safetensors --tolerance 0.05 --out plan.yaml
  flashbias-fold predict target.json --out preds/ --plan plan.yaml

example, by measured speed:
  flashbias-fold bench model --model demo --methods dense,flashbias --plan plan.yaml --out speed/
  flashbias-fold plan factors.safetensors --speed speed/model.json --out plan.yaml
"""


def add(commands: Any) -> None:
    """Its options."""
    command = commands.add_parser(
        "plan",
        help="choose a way for each layer from a calibration",
        description=_PLAN_DESCRIPTION,
        epilog=_PLAN_EPILOG,
    )
    command.add_argument("factors", metavar="FACTORS", type=values.path, help="a file that `calibrate` made")
    command.add_argument(
        "--out", metavar="FILE", type=values.path, required=True, help="file for the plan, in YAML"
    )
    command.add_argument(
        "--tolerance",
        metavar="X",
        type=float,
        default=0.05,
        help="the largest relative error of a layer's output, above 0, up to 1 (default: 0.05)",
    )
    command.add_argument(
        "--speed",
        metavar="RECORD",
        type=values.path,
        help="model.json of `bench model --out`, with the methods dense and flashbias: on its GPU the exact "
        "bias is used at sizes where it was at least as fast (default: by error alone)",
    )
    add_common(command)
