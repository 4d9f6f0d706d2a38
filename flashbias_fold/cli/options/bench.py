"""The options of `bench`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashbias_fold.bench.kernels import options as kernel_options
from flashbias_fold.bench.model import options as model_options
from flashbias_fold.cli.options import values
from flashbias_fold.cli.options.common import Parser, add_common

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

_MODEL_DESCRIPTION = """\
Time whole predictions, stock Protenix with each of its kernels against ours, on one loaded model: from
features that are made once to coordinates and confidences. Each method predicts once, which is the first
call of the table, with whatever is compiled then; after that they take turns, a prediction each, and the
median is given with the range of eight in ten. The ratio is the baseline's median over the method's, so
above 1 is faster; the baseline is what stock Protenix takes here: its cuEquivariance kernels on a GPU, plain
torch elsewhere. One more prediction of each method is taken apart by stage and kind of layer. A method that
cannot run, or runs out of memory, is listed with the reason.

Without official weights on disk the network gets random ones of the right shapes: times do not depend on
them, and the record says so. Without an input, chains of so many tokens are made up.
"""

_MODEL_EPILOG = """\
methods:
{methods}

Layers are timed by events on the device, so where the host is slower they have the time in which the device
waits. On a GPU whose rates are known (an H200) the share of the floor is given too: the time that the layer's
matrix products, exponentials or bytes need at least, over its time; and the record has the kernels that one
cycle and one step start. Memory is that of the device, on a CPU that of the process.

output, with --out; written anew after each size, so that a stop loses one size at most:
  DIR/model.csv     a line for each method, size, stage and kind of layer
  DIR/model.json    the same with every single time, the kernels, the plan, the machine, versions and commit
  DIR/model.svg     median time against size, of the whole and of each stage

The exit status is 1 if one of ours broke, or if nothing could be timed.

examples:
  flashbias-fold bench model                                    the demonstration model on a CPU, in about two
                                                                minutes; a full-size one on a GPU
  flashbias-fold bench model --model demo --device cpu --tokens 32 --steps 20 --methods stock,dense
  flashbias-fold bench model --model protenix-v2 --weights random --tokens 512,1024 --out bench/
  flashbias-fold bench model --input target.json --seconds 120 --out bench/
"""


def add(commands: Any) -> None:
    """Its options."""
    command = commands.add_parser("bench", help="measure on this machine", description=_BENCH_DESCRIPTION)
    benchmarks = command.add_subparsers(
        dest="benchmark",
        metavar="BENCHMARK",
        required=True,
        parser_class=Parser,
        help="what to measure; `flashbias-fold bench BENCHMARK --help` explains one",
    )
    _add_bench_kernels(benchmarks)
    _add_bench_model(benchmarks)


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
        type=values.numbers(kernel_options.LARGEST_TOKENS),
        help="sizes, separated by commas "
        f"(default: {values.listed(kernel_options.TOKENS['cpu'])} on a CPU, "
        f"{values.listed(kernel_options.TOKENS['cuda'])} on a GPU)",
    )
    problem.add_argument(
        "--heads",
        metavar="N",
        type=values.count,
        default=defaults.heads,
        help=f"heads (default: {defaults.heads})",
    )
    problem.add_argument(
        "--dim",
        metavar="N",
        type=values.count,
        default=defaults.dim,
        help=f"dimension of a head (default: {defaults.dim})",
    )
    problem.add_argument(
        "--ranks",
        metavar="R,R,...",
        type=values.numbers(kernel_options.LARGEST_RANK),
        default=defaults.ranks,
        help=f"ranks of the factors that flashbias gets (default: {values.listed(defaults.ranks)})",
    )
    problem.add_argument(
        "--padding",
        metavar="N",
        type=values.count_or_none,
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
        type=values.names(kernel_options.METHODS),
        help="only these (default: all that can run; flex on a CPU only if named)",
    )
    what.add_argument(
        "--repeats",
        metavar="N",
        type=values.count,
        help="rounds that count "
        f"(default: {kernel_options.REPEATS['cpu']} on a CPU, {kernel_options.REPEATS['cuda']} on a GPU)",
    )
    _add_machine(
        command, kernel_options.CHOICES, dtype="type of all tensors (default: bf16 on a GPU, fp32 on a CPU)"
    )


def _add_bench_model(benchmarks: Any) -> None:
    width = max(map(len, model_options.METHODS))
    methods = "\n".join(f"  {name:{width}}   {what}" for name, what in model_options.NAMES.items())
    command = benchmarks.add_parser(
        "model",
        help="whole predictions, stock Protenix against ours, by stage and kind of layer",
        description=_MODEL_DESCRIPTION,
        epilog=_MODEL_EPILOG.format(methods=methods),
    )
    _add_problem(command.add_argument_group("problem"))
    _add_timed(command.add_argument_group("what to time"))
    _add_machine(
        command,
        model_options.CHOICES,
        dtype="arithmetic on a GPU (default: bf16, as in Protenix); a CPU always computes in fp32",
    )


def _add_machine(command: Any, choices: Mapping[str, tuple[str, ...]], *, dtype: str) -> None:
    """Where it runs and what is left of it, as of every benchmark; `dtype` is what the type is of."""
    machine = command.add_argument_group("machine")
    machine.add_argument(
        "--device",
        choices=choices["device"],
        default="auto",
        help="where to run (default: auto, a GPU where there is one)",
    )
    machine.add_argument("--dtype", choices=choices["dtype"], help=dtype)
    command.add_argument(
        "--out", metavar="DIR", type=values.path, help="folder to write the results to, as below"
    )
    add_common(command)


def _add_problem(problem: Any) -> None:
    problem.add_argument(
        "--model",
        metavar="NAME",
        help="'demo', a model of Protenix 2.0 such as protenix_base_default_v1.0.0 or protenix-v2, or 'auto' "
        f"as in predict (default: {model_options.MODEL['cpu']} on a CPU, {model_options.MODEL['cuda']} on a "
        "GPU)",
    )
    problem.add_argument(
        "--weights",
        choices=model_options.CHOICES["weights"],
        default="auto",
        help="real: those on disk; random: drawn here, nothing is read; auto: real ones where they are on "
        "disk, else random (default: auto)",
    )
    problem.add_argument(
        "--tokens",
        metavar="N,N,...",
        type=values.numbers(model_options.LARGEST_TOKENS),
        help="sizes of chains that are made up, separated by commas "
        f"(default: {values.listed(model_options.TOKENS['cpu'])} on a CPU, "
        f"{values.listed(model_options.TOKENS['cuda'])} on a GPU)",
    )
    problem.add_argument(
        "--alignment",
        metavar="N",
        type=values.count,
        default=1,
        help="rows of the alignment of such a chain, the chain's own included (default: 1)",
    )
    problem.add_argument(
        "--input",
        metavar="FILE",
        type=values.path,
        help="predict these jobs instead: a Protenix JSON file, a FASTA file or a folder, as for predict",
    )
    problem.add_argument(
        "--samples", metavar="N", type=values.count, help="structures of a prediction (default: 5)"
    )
    problem.add_argument(
        "--steps",
        metavar="N",
        type=values.count,
        help="denoising steps (default: the model's own, 200 for base models)",
    )
    problem.add_argument(
        "--cycles",
        metavar="N",
        type=values.count,
        help="recycling cycles (default: the model's own, 10 for base models)",
    )


def _add_timed(what: Any) -> None:
    what.add_argument(
        "--methods",
        metavar="NAME,NAME,...",
        type=values.names(model_options.NAMES),
        help="only these (default: all that can run)",
    )
    what.add_argument(
        "--plan",
        metavar="FILE",
        type=values.path,
        help="plan of flashbias (default: the one that ships for the model, else factors of rank 32 for "
        "every triangle attention, computed on the fly)",
    )
    what.add_argument(
        "--repeats",
        metavar="N",
        type=values.count,
        help="rounds that count "
        f"(default: {model_options.REPEATS['cpu']} on a CPU, {model_options.REPEATS['cuda']} on a GPU)",
    )
    what.add_argument(
        "--seconds",
        metavar="N",
        type=values.count,
        help="fewer rounds of a size where they would take longer than this, but at least one (default: no "
        "limit)",
    )
    what.add_argument(
        "--warm-up",
        choices=model_options.CHOICES["warm_up"],
        default="whole",
        help="what each method's first call is. whole: a whole prediction, and its time is told; short: one "
        "of few cycles and steps, for inputs of which a whole one takes minutes (default: whole)",
    )
    what.add_argument(
        "--no-layers",
        dest="layers",
        action="store_false",
        help="leave out the prediction that is taken apart by kind of layer",
    )
