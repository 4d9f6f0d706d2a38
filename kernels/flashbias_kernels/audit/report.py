"""The audit as a table, for reading, and as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from flashbias_kernels.audit import sass

if TYPE_CHECKING:
    from flashbias_kernels.audit.work import Finding

# A multiprocessor issues 128 instructions of threads a clock, and computes 16 exponentials.
ISSUED_DURING_AN_EXPONENTIAL = 128 / 16

COLUMNS = """\
  kernel       forward; backward are queries, keys and pairs (see flashbias_kernels/backward.py); transition,
               for which D is the channels, tiles are places x hidden units, a score is a hidden unit of a
               place, and bias says how many times as wide as the channels the hidden layer is; edges and
               update, around triangle multiplication, heads and output, around triangle attention, for which
               D is the channels, tiles are places x outputs, and bias says what the pairs are
  sm           the compute capability it was compiled for
  dtype        of queries, keys and values; tf32 is fp32 where torch may use tensor cores
  D            the heads' dimension
  bias         dense: its dtype; R: the channels of the factors, and their dtype if it is another;
               own: each row has its own factors; then other options that make a difference
  tile         queries x keys
  w, st        warps of a program; tiles that are in flight
  regs         registers of a thread, 255 at most
  spill        bytes that a thread keeps in memory for want of registers: there must be none
  in loop      instructions of the loop over the keys that store or load such bytes, the costly ones
  KB           shared memory of a program
  prog         programs that a multiprocessor has room for, by registers, shared memory and threads
  total        instructions in the loop over the keys, for each score (a warp's instruction is 32)
  of which     matrix products; exponentials (more than 1: warps repeat each other's work); conversions
               between types, packing included; loads, stores and copies; fp32 add, multiply, and both;
               minimum, maximum; all others: addresses, selection, comparison, registers, barriers
  issue        time to issue all these over the time that the one exponential takes in its unit: up to
               1.00 the exponentials set the pace, at 2.00 the rest makes them wait as long again
  s            it took to compile

Per score, for comparison, of a loop in Triton without mask on sm_90, tiles of 128 x 128 and D = 32:

  online softmax, dense bf16 bias                   8.7
  online softmax, factors R = 32                    6.7
  no maximum in the loop, factors R = 32            4.2
  the same, row sums from a column of ones in V     3.5
  the same, 4 warps                                 3.1
  the exponential alone                             1.0
"""

_HEADINGS = (
    *("kernel", "sm", "dtype", "D", "bias", "tile", "w", "st", "regs", "spill", "in loop", "KB", "prog"),
    *("total", *sass.KINDS, "issue", "s"),
)
_LEFT = {"kernel", "dtype", "bias"}


def table(findings: Iterable[Finding]) -> str:
    """All lines, aligned, under their headings."""
    lines = [list(_HEADINGS), *map(_cells, findings)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    return "\n".join(_aligned(line, widths) for line in lines)


def summary(findings: Sequence[Finding], failures: int) -> str:
    """The last line."""
    spilled = sum(finding.compiled.spilled > 0 for finding in findings)
    wrong = sum(bool(finding.compiled.unset) for finding in findings)
    too_large = sum(not finding.compiled.fits for finding in findings)
    return (
        f"{len(findings)} kernels compiled: {spilled} with spills; {too_large} beyond the shared memory; "
        f"{wrong} that read what nothing has set; {failures} failed"
    )


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.ljust(width) if heading in _LEFT else cell.rjust(width)
        for cell, width, heading in zip(line, widths, _HEADINGS, strict=True)
    ]
    return "  ".join(cells).rstrip()


def _cells(finding: Finding) -> list[str]:
    case, needs, blocks, per_score = finding.task.case, finding.compiled, finding.blocks, finding.per_score
    total = sum(per_score.values())
    wrong = " wrong" if needs.unset else ""
    return [
        *(finding.task.kernel + wrong, str(needs.arch), case.dtype, str(case.dim), case.words),
        *(f"{blocks.queries}x{blocks.keys}", str(blocks.warps), str(blocks.stages)),
        *map(str, (needs.registers, needs.spilled, needs.spills_in_loop)),
        f"{needs.shared / 1024:.0f}" + ("" if needs.fits else " too much"),
        str(needs.programs),
        *(f"{count:.2f}" for count in (total, *per_score.values())),
        f"{total / ISSUED_DURING_AN_EXPONENTIAL:.2f}",
        f"{needs.seconds:.1f}",
    ]
