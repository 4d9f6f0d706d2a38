"""The commands and their options, with help that needs no manual."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from flashbias_fold import __version__
from flashbias_fold.bench.kernels import options as kernel_options
from flashbias_fold.choices import CHOICES, FACTOR_NETWORKS, REACH
from flashbias_fold.cli.streams import say
from flashbias_fold.errors import UsageError

_MOST_SHOWN = 60  # letters of a wrong value

_MAIN_EPILOG = """\
examples:
  flashbias-fold doctor                                what this machine has, and what is missing
  flashbias-fold fetch protenix_base_default_v1.0.0    get official weights, once
  flashbias-fold predict target.json --out preds/      predict every job of a Protenix JSON file
  flashbias-fold predict targets.fasta --out preds/    one job for each record, chains separated by ':'
  flashbias-fold calibrate --inputs targets/ --out f.safetensors
                                                       train factor networks for a model
  flashbias-fold plan f.safetensors --out plan.yaml    choose rank and way for each layer by their errors
  flashbias-fold bench kernels                         time triangle attention against its peers, here

`flashbias-fold COMMAND --help` explains a command.
exit status: 0 all done, 1 some jobs failed, 2 wrong input or arguments, 130 interrupted
"""

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

A job whose outputs are complete is skipped, so an interrupted run is continued by the same command.
Nothing contacts a network unless --msa-server is given: sequences are confidential.

examples:
  flashbias-fold predict target.json --out preds/ --bias stock          untouched Protenix, timed
  flashbias-fold predict targets/ --out preds/ --seeds 1,2,3 --samples 5
  flashbias-fold predict target.fasta --out preds/ --msa-server colabfold
"""

_FETCH_DESCRIPTION = """\
Download the official weights of a model to where Protenix keeps them ($PROTENIX_ROOT_DIR, by default the
home folder). An interrupted download is continued by the same command; the checksum is kept beside the
file and verified when the weights are loaded.
"""

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

_PLAN_DESCRIPTION = """\
Write a plan for `predict --plan` from what `calibrate` measured: for each layer the smallest rank at which
the largest error of its output, on the inputs kept aside, is within the tolerance, by its network or by
factors that are computed in the call; the exact bias where no rank is near enough. Says why for each layer.
"""

_PLAN_EPILOG = """\
A call that turns out to be beyond the tolerance uses the exact bias all the same, and the report counts it.

example:
  flashbias-fold plan factors.safetensors --tolerance 0.05 --out plan.yaml
  flashbias-fold predict target.json --out preds/ --plan plan.yaml
"""

_DOCTOR_DESCRIPTION = """\
Show versions, GPU and driver, which kernels will run and why not the others, where weights and chemical
components come from, and the command that mends what is missing; then run a small self-test. The exit
status is 1 if something that prediction needs is broken.
"""

_BENCH_DESCRIPTION = """\
Measure on this machine. Each benchmark checks that what it times is right, takes its times interleaved in
one process, and says where they were taken.
"""

_KERNELS_DESCRIPTION = """\
Time triangle attention, the operation alone, by every method that is installed: N rows of N queries and
keys that share one bias for each head. All methods get the same random tensors; the dense bias is the
product of the factors, and flashbias gets the factors. Each method is first compared with float64: the error
that is printed is relative, as root mean squares, of the output or of the worst gradient. One that is wrong
is marked so and not timed. The others take turns, a call each, after two rounds that do not count;
the median is given with the range of eight in ten calls. The ratio is the baseline's median over the
method's, so above 1 is faster; the baseline is what stock Protenix takes here: cuequivariance on a GPU,
protenix on a CPU, sdpa where that is not installed. A method that cannot run is listed with the reason.
"""

_KERNELS_EPILOG = """\
methods:
{methods}

On a GPU there are two more columns: the share of the floor, the time that exponentials and matrix products
alone need, where the rates of the GPU are known (16-bit types on compute capability 9.0), over the median;
and the peak of device memory beyond the inputs (backward: with the forward pass before it).

output, with --out:
  DIR/kernels.csv     a line for each method, size and pass
  DIR/kernels.json    the same with every single time, the machine, versions and commit
  DIR/kernels.svg     median time against size

The exit status is 1 if a method was wrong, if one of ours broke, or if none could be timed.

examples:
  flashbias-fold bench kernels                                   all that runs here, in about two minutes
  flashbias-fold bench kernels --device cpu --tokens 256 --passes forward --methods dense,protenix
  flashbias-fold bench kernels --tokens 512,1024 --ranks 32 --dtype bf16 --out bench/
"""


class _Parser(argparse.ArgumentParser):
    """One line for an error, and no abbreviated options (a typo must not become another option)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")

    def _print_message(self, message: str, file: object = None) -> None:
        say(message, end="")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="flashbias-fold",
        description="Protein structure prediction with Protenix, its pair-bias attention replaced and timed.",
        epilog=_MAIN_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"flashbias-fold {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    _add_predict(commands)
    _add_fetch(commands)
    _add_calibrate(commands)
    _add_plan(commands)
    _add_bench(commands)
    _add_doctor(commands)
    return parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse, raising UsageError for what is wrong."""
    return build_parser().parse_args(arguments)


def _add_predict(commands: Any) -> None:
    command = commands.add_parser(
        "predict",
        help="predict structures",
        description=_PREDICT_DESCRIPTION,
        epilog=_PREDICT_EPILOG,
    )
    command.add_argument("input", metavar="INPUT", type=_path, help="JSON or FASTA file, or a folder of them")
    command.add_argument("--out", metavar="DIR", type=_path, required=True, help="folder for the results")
    model = command.add_argument_group("model")
    model.add_argument(
        "--model",
        metavar="NAME",
        default="auto",
        help="'demo' (ships with the package), a model of Protenix 2.0 such as protenix_base_default_v1.0.0 "
        "or protenix-v2, or 'auto': official weights where they are on disk, else demo (default: auto)",
    )
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
        type=_path,
        help="for --bias flashbias: which layers are computed by factors, of which rank, within which error "
        "(docs/plans.md; default: none)",
    )
    model.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="load a checkpoint that holds more than tensors: that can run code, so only for one you trust",
    )
    sampling = command.add_argument_group("sampling")
    sampling.add_argument(
        "--seeds",
        metavar="S,S,...",
        type=_seeds,
        help="seeds, separated by commas (default: modelSeeds of the job, else 101)",
    )
    sampling.add_argument("--samples", metavar="N", type=_count, help="structures for each seed (default: 5)")
    sampling.add_argument(
        "--steps",
        metavar="N",
        type=_count,
        help="denoising steps (default: the model's own, 200 for base models)",
    )
    sampling.add_argument(
        "--cycles",
        metavar="N",
        type=_count,
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
    output.add_argument("--format", choices=CHOICES["format"], help="format of the structures (default: cif)")
    output.add_argument(
        "--write-pae",
        action="store_true",
        help="write NAME_pae_sample_K.npz too: predicted aligned and distance errors, contact probabilities",
    )
    output.add_argument(
        "--overwrite", action="store_true", help="predict again what is complete, replacing the results"
    )
    _add_common(command)


def _add_fetch(commands: Any) -> None:
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
    _add_common(command)


def _add_calibrate(commands: Any) -> None:
    command = commands.add_parser(
        "calibrate",
        help="train factor networks for a model",
        description=_CALIBRATE_DESCRIPTION,
        epilog=_CALIBRATE_EPILOG,
    )
    command.add_argument(
        "--inputs",
        metavar="PATH",
        type=_path,
        required=True,
        help="JSON or FASTA file, or a folder of them, as for predict",
    )
    command.add_argument(
        "--out", metavar="FILE", type=_path, required=True, help="file for the networks, NAME.safetensors"
    )
    command.add_argument(
        "--resume", action="store_true", help="go on with an interrupted calibration, with the same options"
    )
    model = command.add_argument_group("model")
    model.add_argument("--model", metavar="NAME", default="auto", help="as for predict (default: auto)")
    model.add_argument("--steps", metavar="N", type=_count, help="denoising steps (default: the model's own)")
    model.add_argument(
        "--cycles", metavar="N", type=_count, help="recycling cycles (default: the model's own)"
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
        "--rank", metavar="N", type=_count, default=32, help="the largest rank, 4 to 96 (default: 32)"
    )
    training.add_argument(
        "--reach",
        metavar="N",
        type=_count_or_none,
        default=REACH,
        help="pairs at most so many places apart keep their exact bias beside the factors "
        f"(default: {REACH}; 0 for none)",
    )
    training.add_argument(
        "--passes",
        metavar="N",
        type=_count,
        default=8,
        help="how many times each input is predicted, with another seed each time (default: 8)",
    )
    training.add_argument(
        "--seed", metavar="N", type=_count, default=101, help="of everything (default: 101)"
    )
    running = command.add_argument_group("running")
    running.add_argument(
        "--device", choices=CHOICES["device"], default="auto", help="where to run (default: auto)"
    )
    running.add_argument(
        "--dtype", choices=CHOICES["dtype"], help="precision on a GPU (default: bf16); a CPU computes in fp32"
    )
    _add_common(command)


def _add_plan(commands: Any) -> None:
    command = commands.add_parser(
        "plan",
        help="choose a way for each layer from a calibration",
        description=_PLAN_DESCRIPTION,
        epilog=_PLAN_EPILOG,
    )
    command.add_argument("factors", metavar="FACTORS", type=_path, help="a file that `calibrate` made")
    command.add_argument(
        "--out", metavar="FILE", type=_path, required=True, help="file for the plan, in YAML"
    )
    command.add_argument(
        "--tolerance",
        metavar="X",
        type=float,
        default=0.05,
        help="the largest relative error of a layer's output, above 0, up to 1 (default: 0.05)",
    )
    _add_common(command)


def _add_bench(commands: Any) -> None:
    command = commands.add_parser("bench", help="measure on this machine", description=_BENCH_DESCRIPTION)
    benchmarks = command.add_subparsers(
        dest="benchmark",
        metavar="BENCHMARK",
        required=True,
        parser_class=_Parser,
        help="what to measure; `flashbias-fold bench BENCHMARK --help` explains one",
    )
    _add_bench_kernels(benchmarks)


def _add_bench_kernels(benchmarks: Any) -> None:
    defaults = kernel_options.KernelOptions
    width = max(map(len, kernel_options.METHODS))
    methods = "\n".join(f"  {name:{width}}   {what}" for name, what in kernel_options.METHODS.items())
    command = benchmarks.add_parser(
        "kernels",
        help="triangle attention against every peer that is installed",
        description=_KERNELS_DESCRIPTION,
        epilog=_KERNELS_EPILOG.format(methods=methods),
    )
    problem = command.add_argument_group("problem")
    problem.add_argument(
        "--tokens",
        metavar="N,N,...",
        type=_numbers(kernel_options.LARGEST_TOKENS),
        help="sizes, separated by commas "
        f"(default: {_listed(kernel_options.TOKENS['cpu'])} on a CPU, "
        f"{_listed(kernel_options.TOKENS['cuda'])} on a GPU)",
    )
    problem.add_argument(
        "--heads",
        metavar="N",
        type=_count,
        default=defaults.heads,
        help=f"heads (default: {defaults.heads})",
    )
    problem.add_argument(
        "--dim",
        metavar="N",
        type=_count,
        default=defaults.dim,
        help=f"dimension of a head (default: {defaults.dim})",
    )
    problem.add_argument(
        "--ranks",
        metavar="R,R,...",
        type=_numbers(kernel_options.LARGEST_RANK),
        default=defaults.ranks,
        help=f"ranks of the factors that flashbias gets (default: {_listed(defaults.ranks)})",
    )
    problem.add_argument(
        "--padding",
        metavar="N",
        type=_count_or_none,
        default=0,
        help="mask so many tokens at the end (default: 0; then ours get no mask, as from Protenix's "
        "predictions, and Protenix's own kernels the zeros that Protenix makes itself)",
    )
    problem.add_argument(
        "--layout",
        choices=kernel_options.CHOICES["layout"],
        default="projected",
        help="how queries, keys and values lie in memory. projected: heads within tokens, as the layer's "
        "projections leave them; contiguous: tokens within heads, as some kernels want them (default: "
        "projected)",
    )
    what = command.add_argument_group("what to time")
    what.add_argument(
        "--passes",
        choices=kernel_options.CHOICES["passes"],
        default="both",
        help="the forward pass as in a prediction, the backward pass alone, or both (default: both)",
    )
    what.add_argument(
        "--backend",
        choices=kernel_options.CHOICES["backend"],
        default="auto",
        help="which code computes ours. auto: what a layer would run; triton: the fused kernels; sdpa: "
        "torch's attention (default: auto)",
    )
    what.add_argument(
        "--methods",
        metavar="NAME,NAME,...",
        type=_methods,
        help="only these (default: all that can run; flex on a CPU only if named)",
    )
    what.add_argument(
        "--repeats",
        metavar="N",
        type=_count,
        help="rounds that count "
        f"(default: {kernel_options.REPEATS['cpu']} on a CPU, {kernel_options.REPEATS['cuda']} on a GPU)",
    )
    machine = command.add_argument_group("machine")
    machine.add_argument(
        "--device",
        choices=kernel_options.CHOICES["device"],
        default="auto",
        help="where to run (default: auto, a GPU where there is one)",
    )
    machine.add_argument(
        "--dtype",
        choices=kernel_options.CHOICES["dtype"],
        help="type of all tensors (default: bf16 on a GPU, fp32 on a CPU)",
    )
    command.add_argument("--out", metavar="DIR", type=_path, help="folder to write the results to, as below")
    _add_common(command)


def _add_doctor(commands: Any) -> None:
    command = commands.add_parser(
        "doctor",
        help="what this machine has, and what is missing",
        description=_DOCTOR_DESCRIPTION,
    )
    command.add_argument("--json", action="store_true", help="print the findings as JSON")
    _add_common(command)


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--quiet", action="store_true", help="say nothing but errors")
    command.add_argument(
        "--debug", action="store_true", help="show the traceback of an error, and Protenix's own log"
    )


def _path(text: str) -> Path:
    # What `"$UNSET"` gives; Path would make the working directory of it.
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty string")
    return Path(text)


def _seeds(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\s*\d{1,20}\s*(,\s*\d{1,20}\s*)*", text, re.ASCII):
        raise argparse.ArgumentTypeError(
            f"expected whole numbers separated by commas, such as 101,102, got '{text[:_MOST_SHOWN]}'"
        )
    return tuple(int(seed) for seed in text.split(","))


def _count(text: str) -> int:
    if not re.fullmatch(r"0{0,9}[1-9]\d{0,8}", text, re.ASCII):
        raise argparse.ArgumentTypeError(
            f"expected a whole number from 1 to 999999999, got '{text[:_MOST_SHOWN]}'"
        )
    return int(text)


def _count_or_none(text: str) -> int:
    return 0 if re.fullmatch(r"0{1,9}", text, re.ASCII) else _count(text)


def _numbers(most: int) -> Callable[[str], tuple[int, ...]]:
    """A type of different numbers, separated by commas, in the order that they are given in."""

    def numbers(text: str) -> tuple[int, ...]:
        if re.fullmatch(r"\s*\d{1,9}\s*(,\s*\d{1,9}\s*)*", text, re.ASCII):
            found = tuple(dict.fromkeys(int(number) for number in text.split(",")))
            if all(1 <= number <= most for number in found):
                return found
        raise argparse.ArgumentTypeError(
            f"expected whole numbers from 1 to {most} separated by commas, such as 128,256, "
            f"got '{text[:_MOST_SHOWN]}'"
        )

    return numbers


def _methods(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in kernel_options.METHODS:
            raise argparse.ArgumentTypeError(
                f"expected some of {', '.join(kernel_options.METHODS)}, separated by commas, "
                f"got '{name[:_MOST_SHOWN]}'"
            )
    return names


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
