"""The options of `predict`."""

from __future__ import annotations

from typing import Any

from flashbias_fold.choices import CHOICES, ENGINES
from flashbias_fold.cli.options import values
from flashbias_fold.cli.options.common import add_common, add_model, add_predictions

_PREDICT_DESCRIPTION = """\
Predict structures with Protenix, its attention replaced as --bias says. INPUT is a Protenix JSON file (one
job, or a list of jobs), a FASTA file (each record a job, chains separated by ':'; a chain is a protein
unless it begins with 'dna|' or 'rna|'), or a folder of these. Paths inside a JSON file are taken from the
file's own folder, then from the working directory.
"""

_PREDICT_EPILOG = """\
output, in Protenix's own tree:
  DIR/NAME/seed_S/predictions/NAME_sample_K.cif                       structures, 0 is the best of its seed
  DIR/NAME/seed_S/predictions/NAME_summary_confidence_sample_K.json   its confidences
  DIR/NAME/report.json    what ran, how long each stage took, how much memory it needed
  DIR/NAME/error.json     instead, why the job failed
  DIR/summary.csv         a row for each sample of every job
  DIR/run.json            arguments, versions, status by job
  DIR/NAME/log.txt        with --engine ray, what was said of the job
  DIR/campaign.html       with --engine ray, the whole campaign as a page

A job whose outputs are complete is skipped, so an interrupted run is continued by the same command.
Nothing contacts a network unless --msa-server is given: sequences are confidential.

examples:
  flashbias-fold predict target.json --out preds/ --bias stock          untouched Protenix, timed
  flashbias-fold predict targets/ --out preds/ --seeds 1,2,3 --samples 5
  flashbias-fold predict target.fasta --out preds/ --msa-server colabfold
  flashbias-fold predict targets/ --out preds/ --engine ray             on every GPU of this machine
"""


def add(commands: Any) -> None:
    """Its options."""
    command = commands.add_parser(
        "predict",
        help="predict structures",
        description=_PREDICT_DESCRIPTION,
        epilog=_PREDICT_EPILOG,
    )
    command.add_argument(
        "input", metavar="INPUT", type=values.path, help="JSON or FASTA file, or a folder of them"
    )
    command.add_argument(
        "--out", metavar="DIR", type=values.path, required=True, help="folder for the results"
    )
    model = add_model(command)
    model.add_argument(
        "--bias",
        choices=CHOICES["bias"],
        default="flashbias",
        help="how the pair bias of triangle attention is computed. stock: Protenix's own code; dense: the "
        "exact bias in a fused attention; none: left out (an ablation, the structures are wrong); flashbias: "
        "factors where the plan says so and dense elsewhere, which without a plan is everywhere (default: "
        "flashbias)",
    )
    model.add_argument(
        "--plan",
        metavar="FILE",
        type=values.path,
        help="for --bias flashbias: which layers are computed by factors, of which rank, within which error, "
        "on which GPUs and at which sizes (docs/plans.md; default: the one that ships for the model, if any)",
    )
    add_predictions(command, seeds="seeds, separated by commas (default: modelSeeds of the job, else 101)")
    campaign = command.add_argument_group("campaign")
    campaign.add_argument(
        "--engine",
        choices=ENGINES,
        default="local",
        help="local: one job after the other, here; ray: many at once, on all GPUs of this machine or of a "
        "cluster, what dies being replaced (docs/campaigns.md; needs Ray; default: local)",
    )
    campaign.add_argument(
        "--address",
        metavar="A",
        help="for --engine ray: the cluster to join, as HOST:PORT or 'auto' for the one of this machine "
        "(default: one of its own on this machine, which ends with it)",
    )
    campaign.add_argument(
        "--devices",
        metavar="N",
        type=values.count,
        help="for --engine ray: workers on each machine, each with a GPU, or on CPUs with an equal share of "
        "the cores and of the memory (default: every GPU, or a worker for every 4 cores)",
    )
    add_common(command)
