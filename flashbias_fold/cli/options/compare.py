"""The options of `compare`."""

from __future__ import annotations

from typing import Any

from flashbias_fold.choices import CHOICES, METHODS, PLAN_SUFFIXES
from flashbias_fold.cli.options import values
from flashbias_fold.cli.options.common import add_common, add_model, add_predictions

_DESCRIPTION = """\
Is it the same structure, and how much faster was it? Predicts every entry by each method, with the same
features, seed and noise, and compares the structures with stock Protenix's, and with experimental ones
where there are any. Stock is predicted under a second seed too: a difference to stock counts only where it
is larger than the one between two seeds. Methods take turns, after one prediction each to warm up, with the
device synchronised at each stage; the model is loaded once.

INPUT is what `predict` takes, or an experimental structure ({endings}; each also .gz), or a
folder of these: then the sequences of its biological assembly 1 are predicted, and it is their truth.
"""

_EPILOG = """\
output:
  DIR/report.html    verdict, ratio, tables, charts, structures in 3-D: one file that opens offline
  DIR/report.json    every number of it, with machine, versions, seeds (docs/compare.schema.json)
  DIR/report.csv     a line for each entry and method
  DIR/NAME/METHOD/seed_S/predictions/    the structures and confidences
  DIR/NAME/entry.json                    the entry's part of the report: what is complete is not done again

The structure that is compared is the plausible one that stock ranks highest, and of every other method the
one from the same noise. Same within noise: the mean difference to stock, in pTM, ipTM, pLDDT, PAE and
C-alpha LDDT, is not above that between two seeds of stock.

examples:
  flashbias-fold compare targets/ --out cmp/
  flashbias-fold compare targets.json --out cmp/ --truth structures/ --methods stock,flashbias
  flashbias-fold compare 1abc.cif.gz --out cmp/ --methods flashbias,my_plan.yaml
"""


def add(commands: Any) -> None:
    """Its options."""
    command = commands.add_parser(
        "compare",
        help="compare with stock Protenix: same structures, how much faster",
        description=_DESCRIPTION.format(endings=".cif, .mmcif, .pdb or .ent"),
        epilog=_EPILOG,
    )
    command.add_argument(
        "input", metavar="INPUT", type=values.path, help="JSON, FASTA or structure file, or a folder of them"
    )
    command.add_argument(
        "--out", metavar="DIR", type=values.path, required=True, help="folder for the results"
    )
    what = command.add_argument_group("what is compared")
    what.add_argument(
        "--methods",
        metavar="NAME,NAME,...",
        type=values.names(CHOICES["bias"], PLAN_SUFFIXES),
        default=METHODS,
        help=f"some of {', '.join(METHODS)}, which are those of predict's --bias, and files of plans "
        f"({' or '.join(PLAN_SUFFIXES)}); stock is always among them (default: {','.join(METHODS)})",
    )
    what.add_argument(
        "--truth",
        metavar="PATH",
        type=values.path,
        help="experimental structures: a folder of files that are named after the entries, or one file",
    )
    what.add_argument(
        "--repeats",
        metavar="N",
        type=values.count,
        default=2,
        help="how often each prediction is timed, after one to warm up; times are medians (default: 2)",
    )
    model = add_model(command)
    model.add_argument(
        "--plan",
        metavar="FILE",
        type=values.path,
        help="the plan of the method flashbias (default: the one that ships for the model, if any does)",
    )
    add_predictions(
        command,
        seeds="one or two: that of all methods, and the second one of stock, which shows the noise "
        "(default: 101,102)",
    )
    add_common(command)
