"""What lies around triangle attention, in Triton: all that pairs are projected to, what is added to them."""

from __future__ import annotations

import triton
import triton.language as tl

from flashbias_kernels.tiles import normalise, product

# A matrix instruction has no fewer columns.
LEAST_HEADS = tl.constexpr(16)


@triton.jit
def _write_bias(
    y, weight_ptr, own, bias_h, there,
    HEADS: tl.constexpr, C: tl.constexpr, WIDEN: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Project normalised places to one bias for each head, to where `own` is that of the first."""
    head, channel = tl.arange(0, LEAST_HEADS), tl.arange(0, C)
    has_head = (head < HEADS)[:, None]
    weight = tl.load(weight_ptr + head[:, None] * C + channel[None, :], mask=has_head, other=0.0)
    bias = product(y, tl.trans(weight), tl.zeros([PLACES, LEAST_HEADS], tl.float32), "ieee", WIDEN)
    bias = tl.trans(bias.to(weight.dtype))
    tl.store(own + head.to(tl.int64)[:, None] * bias_h, bias, mask=has_head & tl.trans(there))


@triton.jit
def heads_kernel(
    x_ptr, scale_ptr, shift_ptr, heads_ptr, bias_weight_ptr, out_ptr, bias_ptr,
    N, J, x_b, x_i, x_j, bias_b, bias_h, bias_i, eps,
    HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr, HAS_HEADS: tl.constexpr, HAS_BIAS: tl.constexpr,
    C: tl.constexpr, UNITS: tl.constexpr, HEADS: tl.constexpr, WIDEN: tl.constexpr,
    PLACES: tl.constexpr, PIECE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Normalise all places and project them: to UNITS, and to one bias for each of HEADS.

    Places are (B, N, J, C) with any strides but the last, which is 1; the weights (UNITS, C) and (HEADS, C);
    the output (B, N, J, UNITS), the bias (B, HEADS, N, J or more). HAS_HEADS and HAS_BIAS: which are wanted.
    """
    dtype = out_ptr.dtype.element_ty
    tiles = tl.cdiv(J, PLACES)
    line = (tl.program_id(0) // tiles).to(tl.int64)
    batch, row = line // N, line % N
    place = (tl.program_id(0) % tiles) * PLACES + tl.arange(0, PLACES)
    channel, there = tl.arange(0, C), (place < J)[:, None]
    pointers = x_ptr + batch * x_b + row * x_i + (place.to(tl.int64)[:, None] * x_j + channel[None, :])
    x = tl.load(pointers, mask=there, other=0.0).to(tl.float32)
    y = normalise(x, scale_ptr, shift_ptr, eps, HAS_SCALE, HAS_SHIFT, C).to(dtype)
    if HAS_BIAS:
        own_bias = bias_ptr + batch * bias_b + row * bias_i + place[None, :]
        _write_bias(y, bias_weight_ptr, own_bias, bias_h, there, HEADS, C, WIDEN, PLACES)
    if HAS_HEADS:
        unit = tl.arange(0, PIECE)
        weights = unit[:, None] * C + channel[None, :]
        own = line * J * UNITS + (place[:, None] * UNITS + unit[None, :])
        for start in tl.range(0, UNITS, PIECE, num_stages=STAGES):
            weight = tl.load(heads_ptr + start * C + weights)
            found = product(y, tl.trans(weight), tl.zeros([PLACES, PIECE], tl.float32), "ieee", WIDEN)
            tl.store(out_ptr + start + own, found.to(dtype), mask=there)


@triton.jit
def output_kernel(
    heads_ptr, weight_ptr, pairs_ptr,
    N, J, pairs_b, pairs_i, pairs_j,
    C: tl.constexpr, UNITS: tl.constexpr, WIDEN: tl.constexpr,
    PLACES: tl.constexpr, PIECE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Project (B, N, J, UNITS) by (C, UNITS), add it to pairs (B, N, J, C) with any strides but the last."""
    tiles = tl.cdiv(J, PLACES)
    line = (tl.program_id(0) // tiles).to(tl.int64)
    batch, row = line // N, line % N
    place = (tl.program_id(0) % tiles) * PLACES + tl.arange(0, PLACES)
    there = (place < J)[:, None]
    unit, channel = tl.arange(0, UNITS), tl.arange(0, PIECE)
    pointers = heads_ptr + line * J * UNITS + (place[:, None] * UNITS + unit[None, :])
    heads = tl.load(pointers, mask=there, other=0.0)
    weights = channel[:, None] * UNITS + unit[None, :]
    own = (
        pairs_ptr
        + batch * pairs_b
        + row * pairs_i
        + (place.to(tl.int64)[:, None] * pairs_j + channel[None, :])
    )
    for start in tl.range(0, C, PIECE, num_stages=STAGES):
        weight = tl.load(weight_ptr + start * UNITS + weights)
        update = product(heads, tl.trans(weight), tl.zeros([PLACES, PIECE], tl.float32), "ieee", WIDEN)
        update += tl.load(own + start, mask=there, other=0.0).to(tl.float32)
        tl.store(own + start, update.to(pairs_ptr.dtype.element_ty), mask=there)
