"""The transition in Triton: a program for some places at a time, all channels of each.

The hidden layer is walked in pieces, which never leave the multiprocessor: a piece is two products with the
normalised places, and one into the accumulator. The weights come from L2 again for each tile of places.
"""

from __future__ import annotations

import triton
import triton.language as tl

from flashbias_kernels.tiles import normalise, product, sigmoid

# So many rows of the two weights take turns: a matrix instruction gives a thread the same columns of each
# group of eight, so that a hidden unit's two products are in one thread.
GROUP = tl.constexpr(8)


@triton.jit
def _normalised(
    x_ptr, scale_ptr, shift_ptr, tile, rows, eps,
    HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The places of a tile, normalised: [ROWS, C]; those beyond the last are some finite numbers."""
    row, channel = tl.arange(0, ROWS), tl.arange(0, C)
    first = tile.to(tl.int64) * ROWS
    there = (row < (rows - first).to(tl.int32))[:, None]
    places = row[:, None] * C + channel[None, :]
    x = tl.load(x_ptr + first * C + places, mask=there, other=0.0).to(tl.float32)
    return normalise(x, scale_ptr, shift_ptr, eps, HAS_SCALE, HAS_SHIFT, C)


@triton.jit
def _hidden(both, ROWS: tl.constexpr, PIECE: tl.constexpr):
    """SiLU of the first product times the second, of [ROWS, 2 * PIECE] in which they take turns."""
    both = tl.permute(tl.reshape(both, [ROWS, PIECE // GROUP, 2, GROUP]), [0, 1, 3, 2])
    gate, value = tl.split(both)
    share = sigmoid(gate)  # before the product: the other way round 256 channels spill
    return tl.reshape(gate * value * share, [ROWS, PIECE])


@triton.jit
def transition_kernel(
    x_ptr, scale_ptr, shift_ptr, in_ptr, out_weight_ptr, out_ptr,
    rows, eps,
    HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr, ADD: tl.constexpr,
    C: tl.constexpr, HIDDEN: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr, PIECE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Write the transition of all places, which may be where they were read; ADD: and the places to it.

    Places are (rows, C), the weights (2 * HIDDEN, C), see GROUP, and (C, HIDDEN). Each program takes every
    so-manyth tile of ROWS places.
    """
    dtype = in_ptr.dtype.element_ty
    EARLY: tl.constexpr = ADD and x_ptr.dtype.element_ty != tl.float32
    tiles, programs = tl.cdiv(rows, ROWS), tl.num_programs(0)
    row, channel = tl.arange(0, ROWS), tl.arange(0, C)
    places = row[:, None] * C + channel[None, :]
    # In 64 bits, so that a thread's addresses are one and constants, which take no registers.
    wide = channel.to(tl.int64)
    piece, both_pieces = tl.arange(0, PIECE).to(tl.int64), tl.arange(0, 2 * PIECE).to(tl.int64)
    in_places = both_pieces[:, None] * C + wide[None, :]
    out_places = wide[:, None] * HIDDEN + piece[None, :]
    # Normalised a tile ahead: what comes from a loop is in shared memory for the product, anything else in
    # registers, of which there are none to spare.
    tile = tl.program_id(0)
    normalised = _normalised(x_ptr, scale_ptr, shift_ptr, tile, rows, eps, HAS_SCALE, HAS_SHIFT, C, ROWS).to(
        dtype
    )
    for index in tl.range(tl.program_id(0), tiles, programs, num_stages=1):
        tile = tl.zeros([], tl.int32) + index  # makes a tensor of what the interpreter has as a plain number
        first = tile.to(tl.int64) * ROWS
        there = (row < (rows - first).to(tl.int32))[:, None]
        acc = tl.zeros([ROWS, C], tl.float32)
        if EARLY:
            acc = tl.load(x_ptr + first * C + places, mask=there, other=0.0).to(tl.float32)
        for start in tl.range(0, HIDDEN, PIECE, num_stages=STAGES):
            weight = tl.load(in_ptr + start * (2 * C) + in_places)
            both = product(
                normalised, tl.trans(weight), tl.zeros([ROWS, 2 * PIECE], tl.float32), "ieee", WIDEN
            )
            hidden = _hidden(both, ROWS, PIECE).to(dtype)
            weight = tl.load(out_weight_ptr + start + out_places)
            acc = product(hidden, tl.trans(weight), acc, "ieee", WIDEN)
        if ADD and not EARLY:
            # Another policy than above: else the compiler would keep the places in registers all the while.
            own = tl.load(x_ptr + first * C + places, mask=there, other=0.0, eviction_policy="evict_first")
            acc += own.to(tl.float32)
        tl.store(out_ptr + first * C + places, acc.to(out_ptr.dtype.element_ty), mask=there)
        normalised = _normalised(
            x_ptr, scale_ptr, shift_ptr, tile + programs, rows, eps, HAS_SCALE, HAS_SHIFT, C, ROWS
        ).to(dtype)
