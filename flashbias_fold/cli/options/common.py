"""Options that several commands share."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from flashbias_fold.choices import CHOICES
from flashbias_fold.cli.options import values
from flashbias_fold.cli.streams import say
from flashbias_fold.errors import UsageError


class Parser(argparse.ArgumentParser):
    """One line for an error, and no abbreviated options (a typo must not become another option)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise it, for `main` to say."""
        raise UsageError(f"{message} (see {self.prog} --help)")

    def _print_message(self, message: str, file: object = None) -> None:
        say(message, end="")


def add_common(command: argparse.ArgumentParser) -> None:
    """Of every command."""
    command.add_argument("--quiet", action="store_true", help="say nothing but errors")
    command.add_argument(
        "--debug", action="store_true", help="show the traceback of an error, and Protenix's own log"
    )


def add_model(command: argparse.ArgumentParser) -> Any:
    """Which model; returns the group, for what a command adds to it."""
    model = command.add_argument_group("model")
    model.add_argument(
        "--model",
        metavar="NAME",
        default="auto",
        help="'demo' (ships with the package), a model of Protenix 2.0 such as protenix_base_default_v1.0.0 "
        "or protenix-v2, or 'auto': official weights where they are on disk, else demo (default: auto)",
    )
    model.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="load a checkpoint that holds more than tensors: that can run code, so only for one you trust",
    )
    return model


def add_predictions(command: argparse.ArgumentParser, *, seeds: str) -> None:
    """How it is predicted, where, and what is written of it.

    Args:
        command: Whose options.
        seeds: What the seeds are for.
    """
    sampling = command.add_argument_group("sampling")
    sampling.add_argument(
        "--seeds",
        metavar="S,S,...",
        type=values.seeds,
        help=seeds,
    )
    sampling.add_argument(
        "--samples", metavar="N", type=values.count, help="structures for each seed (default: 5)"
    )
    sampling.add_argument(
        "--steps",
        metavar="N",
        type=values.count,
        help="denoising steps (default: the model's own, 200 for base models)",
    )
    sampling.add_argument(
        "--cycles",
        metavar="N",
        type=values.count,
        help="recycling cycles (default: the model's own, 10 for base models)",
    )
    machine = command.add_argument_group("machine")
    machine.add_argument(
        "--device",
        choices=CHOICES["device"],
        default="auto",
        help="where to run (default: auto, a GPU where there is one)",
    )
    machine.add_argument(
        "--dtype",
        choices=CHOICES["dtype"],
        help="arithmetic on a GPU (default: bf16, as in Protenix); a CPU always computes in fp32",
    )
    alignments = command.add_argument_group("alignments")
    alignments.add_argument(
        "--msa-server",
        choices=CHOICES["msa_server"],
        help="send the protein sequences that come without an alignment to this public server and use what "
        "it finds (default: nothing is sent, such chains are predicted from their sequence alone)",
    )
    alignments.add_argument(
        "--rna-msa",
        action="store_true",
        help="use the alignments of RNA chains too, which Protenix by default does not",
    )
    output = command.add_argument_group("output")
    output.add_argument(
        "--format",
        choices=CHOICES["format"],
        help="format of the structures (default: cif); what PDB has no room for is written as mmCIF",
    )
    output.add_argument(
        "--write-pae",
        action="store_true",
        help="write NAME_pae_sample_K.npz too: predicted aligned and distance errors, contact probabilities",
    )
    output.add_argument(
        "--overwrite",
        action="store_true",
        help="predict again what is complete; each result is replaced when the new one is complete",
    )
