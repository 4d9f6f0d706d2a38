"""Triangle multiplication in Triton: what comes before the product over the third corner, and what after it.

A program has some places of one row of the pair representation. The edges that are multiplied lie channel by
channel, a matrix each, as the product wants them: no tensor is transposed in memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

from flashbias_kernels.tiles import normalise, product, sigmoid


@triton.jit
def _places(x_ptr, line, J, place, C: tl.constexpr):
    """Some places of a row, channels across, in fp32; those beyond its end are zero."""
    row = x_ptr + line * J * C
    pointers = row + (place[:, None] * C + tl.arange(0, C)[None, :])
    return tl.load(pointers, mask=(place < J)[:, None], other=0.0).to(tl.float32)


@triton.jit
def edges_kernel(
    x_ptr, scale_ptr, shift_ptr, gate_ptr, value_ptr, mask_ptr, out_ptr,
    J, out_row, out_channel, eps,
    HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr, HAS_MASK: tl.constexpr,
    C: tl.constexpr, EDGES: tl.constexpr, WIDEN: tl.constexpr,
    PLACES: tl.constexpr, PIECE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Write the edges of all places: a gate times a value, each a product with the normalised place.

    Places are (lines, J, C), both weights (EDGES, C), the output (EDGES, lines, out_row), where out_row is J
    or more: what is beyond J is zero, so that it may be summed over.
    """
    dtype = gate_ptr.dtype.element_ty
    tiles = tl.cdiv(J, PLACES)
    line = (tl.program_id(0) // tiles).to(tl.int64)
    place = (tl.program_id(0) % tiles) * PLACES + tl.arange(0, PLACES)
    x = _places(x_ptr, line, J, place, C)
    y = normalise(x, scale_ptr, shift_ptr, eps, HAS_SCALE, HAS_SHIFT, C).to(dtype)
    counts = (place < J).to(tl.float32)  # what is beyond the row's end was normalised too, and is finite
    if HAS_MASK:
        counts = tl.load(mask_ptr + line * J + place, mask=place < J, other=0.0).to(tl.float32)
    unit, channel = tl.arange(0, PIECE), tl.arange(0, C)
    weights = unit[:, None] * C + channel[None, :]
    own = out_ptr + line * out_row
    edges = unit.to(tl.int64)[:, None] * out_channel + place[None, :]
    for start in tl.range(0, EDGES, PIECE, num_stages=STAGES):
        zeros = tl.zeros([PLACES, PIECE], tl.float32)
        gate = product(y, tl.trans(tl.load(gate_ptr + start * C + weights)), zeros, "ieee", WIDEN)
        value = product(y, tl.trans(tl.load(value_ptr + start * C + weights)), zeros, "ieee", WIDEN)
        edge = sigmoid(gate) * value * counts[:, None]
        first = own + tl.full([], start, tl.int64) * out_channel
        tl.store(first + edges, tl.trans(edge.to(out_ptr.dtype.element_ty)), mask=(place < out_row)[None, :])


@triton.jit
def update_kernel(
    x_ptr, in_scale_ptr, in_shift_ptr, product_ptr, out_scale_ptr, out_shift_ptr,
    update_ptr, gate_ptr, out_ptr,
    J, product_row, product_channel, in_eps, out_eps,
    HAS_IN_SCALE: tl.constexpr, HAS_IN_SHIFT: tl.constexpr,
    HAS_OUT_SCALE: tl.constexpr, HAS_OUT_SHIFT: tl.constexpr, ADD: tl.constexpr,
    C: tl.constexpr, HIDDEN: tl.constexpr, WIDEN: tl.constexpr,
    PLACES: tl.constexpr, PIECE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Write what the places become, which may be where they were read; ADD: with the places added.

    The products of edges, (HIDDEN, lines, product_row), are normalised over their channels, projected by
    (C, HIDDEN) and gated by the normalised places, projected by (C, C).
    """
    dtype = update_ptr.dtype.element_ty
    tiles = tl.cdiv(J, PLACES)
    line = (tl.program_id(0) // tiles).to(tl.int64)
    place = (tl.program_id(0) % tiles) * PLACES + tl.arange(0, PLACES)
    there = (place < J)[:, None]
    hidden, channel, unit = tl.arange(0, HIDDEN), tl.arange(0, C), tl.arange(0, PIECE)
    pointers = (
        product_ptr + line * product_row + (hidden.to(tl.int64)[:, None] * product_channel + place[None, :])
    )
    products = tl.trans(tl.load(pointers, mask=(place < J)[None, :], other=0.0).to(tl.float32))
    products = normalise(
        products, out_scale_ptr, out_shift_ptr, out_eps, HAS_OUT_SCALE, HAS_OUT_SHIFT, HIDDEN
    ).to(dtype)
    x = _places(x_ptr, line, J, place, C)
    y = normalise(x, in_scale_ptr, in_shift_ptr, in_eps, HAS_IN_SCALE, HAS_IN_SHIFT, C).to(dtype)
    updates = unit[:, None] * HIDDEN + hidden[None, :]
    gates = unit[:, None] * C + channel[None, :]
    own = line * J * C + (place[:, None] * C + unit[None, :])
    for start in tl.range(0, C, PIECE, num_stages=STAGES):
        zeros = tl.zeros([PLACES, PIECE], tl.float32)
        update = product(
            products, tl.trans(tl.load(update_ptr + start * HIDDEN + updates)), zeros, "ieee", WIDEN
        )
        gate = product(y, tl.trans(tl.load(gate_ptr + start * C + gates)), zeros, "ieee", WIDEN)
        update *= sigmoid(gate)
        if ADD:
            update += tl.load(x_ptr + start + own, mask=there, other=0.0).to(tl.float32)
        tl.store(out_ptr + start + own, update.to(out_ptr.dtype.element_ty), mask=there)
