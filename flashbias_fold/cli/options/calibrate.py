"""The options of `calibrate`."""

from __future__ import annotations

from typing import Any

from flashbias_fold.choices import CHOICES, FACTOR_NETWORKS, REACH
from flashbias_fold.cli.options import values
from flashbias_fold.cli.options.common import add_common

_CALIBRATE_DESCRIPTION = """\
Train the networks that make factors of a model's pair biases, one for each triangle attention, on inputs
like those that the model will be used for. Each input is predicted, exactly, several times; every layer's
network learns from what comes to its layer on the way, and nothing of that is stored. One input in five is
kept aside: on these the error of each layer's output is measured, for the networks and, to compare, for
factors that are computed in the call.
"""

_CALIBRATE_EPILOG = """\
networks:
  sketch   a sketch of the bias and what a small network adds to it, made precise by weighted least
           squares, trained on the error of the layer's output; one network serves all ranks up to its own
  means    FlashBias's own: of the mean over each row and column, trained on the error of the bias

output:
  FILE.safetensors        networks, with the model's checksum and the errors: `predict` uses it in a plan
  FILE.svg                error of each layer against rank
  FILE.safetensors.part   while it runs: what is learnt so far, for --resume

examples:
  flashbias-fold calibrate --model demo --inputs data/examples --out factors.safetensors
  flashbias-fold calibrate --inputs targets/ --rank 64 --passes 4 --out factors.safetensors --resume
"""


def add(commands: Any) -> None:
    """Its options."""
    command = commands.add_parser(
        "calibrate",
        help="train factor networks for a model",
        description=_CALIBRATE_DESCRIPTION,
        epilog=_CALIBRATE_EPILOG,
    )
    command.add_argument(
        "--inputs",
        metavar="PATH",
        type=values.path,
        required=True,
        help="JSON or FASTA file, or a folder of them, as for predict",
    )
    command.add_argument(
        "--out",
        metavar="FILE",
        type=values.path,
        required=True,
        help="file for the networks, NAME.safetensors",
    )
    command.add_argument(
        "--resume", action="store_true", help="go on with an interrupted calibration, with the same options"
    )
    model = command.add_argument_group("model")
    model.add_argument("--model", metavar="NAME", default="auto", help="as for predict (default: auto)")
    model.add_argument(
        "--steps", metavar="N", type=values.count, help="denoising steps (default: the model's own)"
    )
    model.add_argument(
        "--cycles", metavar="N", type=values.count, help="recycling cycles (default: the model's own)"
    )
    model.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="load a checkpoint that holds more than tensors, which can run code",
    )
    training = command.add_argument_group("training")
    training.add_argument(
        "--network", choices=FACTOR_NETWORKS, default="sketch", help="which kind (default: sketch)"
    )
    training.add_argument(
        "--rank", metavar="N", type=values.count, default=32, help="the largest rank, 4 to 96 (default: 32)"
    )
    training.add_argument(
        "--reach",
        metavar="N",
        type=values.count_or_none,
        default=REACH,
        help="pairs at most so many places apart keep their exact bias beside the factors "
        f"(default: {REACH}; 0 for none)",
    )
    training.add_argument(
        "--passes",
        metavar="N",
        type=values.count,
        default=8,
        help="how many times each input is predicted, with another seed each time (default: 8)",
    )
    training.add_argument(
        "--seed", metavar="N", type=values.count, default=101, help="of everything (default: 101)"
    )
    running = command.add_argument_group("running")
    running.add_argument(
        "--device", choices=CHOICES["device"], default="auto", help="where to run (default: auto)"
    )
    running.add_argument(
        "--dtype", choices=CHOICES["dtype"], help="precision on a GPU (default: bf16); a CPU computes in fp32"
    )
    add_common(command)
