"""The least time that triangle attention takes on a GPU, whatever the kernel.

Over all rows there are ``tokens^3 * heads`` scores. For each of them

- one exponential, and a multiprocessor has units for 16 a clock, forward and backward alike (the half2 form
  ``ex2.approx.f16x2`` is two instructions of the same unit);
- ``4 dim`` operations of the matrix units (queries with keys, weights with values), ``2 rank`` more with
  factors; backward ``10 dim`` (the scores again, the gradients of weights, queries, keys and values) and the
  same ``2 rank``, since the gradients of the factors come after the sum over the rows.

The two kinds of units work at the same time, so the floor is the longer one. A dense bias is read from the L2
cache for each row anew, unless a program serves several rows; since it need not be, that time is given beside
the floor and is no part of it. Device memory is no limit from ``8 dim`` tokens on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """What the floor depends on.

    Attributes:
        capability: Compute capability.
        multiprocessors: How many.
        clock_hz: The highest clock.
    """

    capability: tuple[int, int]
    multiprocessors: int
    clock_hz: float


@dataclass(frozen=True)
class Rates:
    """What a multiprocessor does in a clock."""

    exponentials: float
    matrix_operations: float
    l2_bytes: float


# Measured on an H200 (132 multiprocessors, 1980 MHz): 790e12 operations a second with bf16, 74 % of the data
# sheet, and 5.5e12 bytes a second. Of other architectures we have no measurement, hence no floor.
RATES = {(9, 0): Rates(exponentials=16, matrix_operations=3022, l2_bytes=21)}


@dataclass(frozen=True)
class Floor:
    """Milliseconds that each kind of unit needs at least."""

    exponential_ms: float
    matrix_ms: float
    dense_bias_ms: float

    @property
    def ms(self) -> float:
        """The least time."""
        return max(self.exponential_ms, self.matrix_ms)


def floor(
    gpu: Gpu | None, *, tokens: int, heads: int, dim: int, rank: int, backward: bool, bias_bytes: int
) -> Floor | None:
    """The floor with operands of 16 bits; None where the rates are not known.

    Args:
        gpu: The device, None for a CPU.
        tokens: Rows, queries and keys.
        heads: How many heads.
        dim: Their dimension.
        rank: Of the factors, 0 without.
        backward: Of the backward pass.
        bias_bytes: Of each value of a dense bias, 0 without.
    """
    if gpu is None or gpu.capability not in RATES:
        return None
    rates = RATES[gpu.capability]
    scores = tokens**3 * heads
    ms_for_one = 1e3 / (gpu.multiprocessors * gpu.clock_hz)
    operations = (10 if backward else 4) * dim + 2 * rank
    return Floor(
        exponential_ms=scores / rates.exponentials * ms_for_one,
        matrix_ms=scores * operations / rates.matrix_operations * ms_for_one,
        dense_bias_ms=scores * bias_bytes / rates.l2_bytes * ms_for_one,
    )
