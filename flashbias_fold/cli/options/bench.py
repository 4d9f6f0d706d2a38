"""The options of `bench`."""

from __future__ import annotations

from typing import Any

from flashbias_fold.bench.kernels import options as kernel_options
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
    command.add_argument(
        "--out", metavar="DIR", type=values.path, help="folder to write the results to, as below"
    )
    add_common(command)
