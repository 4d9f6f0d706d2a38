"""The forward pass in Triton: a program for a block of queries of one head, walking over the keys.

Softmax needs a number near each row's maximum, so that exponentials stay in range. The usual loop follows
the maximum from tile to tile and rescales what it has. Floating point is more patient than that: fp32 and
bf16 reach 2^127, so the maximum over one tile will do as a level, unless a later score exceeds it by far.
The loop here looks for a maximum in its first tile alone, which is that of the queries' own places: where a
bias falls off with distance, the highest scores are there. Whether a row ran over shows at the end, and such
a block looks for its true maxima and goes over its keys once more.
"""

from __future__ import annotations

import triton
import triton.language as tl

from flashbias_kernels.tiles import (
    LN_2,
    NEVER,
    product,
    query_channels,
    scaled,
    scores_of,
    values_of,
    weights_of,
)

# A row's sum is kept in as many parts as the tile has columns in one matrix instruction: so each thread adds
# up what it has, and only the end brings the threads together. The same for the maximum.
PARTS = tl.constexpr(8)


@triton.jit
def _folded(tile):
    """With one dimension more, in which a sum or a maximum leaves PARTS of each row."""
    return tl.reshape(tile, [tile.shape[0], tile.shape[1] // PARTS, PARTS])


@triton.jit
def _level(highest):
    """The level of rows whose highest scores are these; 0 where there is none."""
    highest = tl.max(highest, 1)
    return tl.where(highest == NEVER, 0.0, highest)


@triton.jit
def _band_of(band, band_m, band_d, rows, keys, M, N, REACH: tl.constexpr):
    """What a band has for a tile of queries down and keys across; zero beyond its reach."""
    place = keys[None, :] - rows[:, None] + REACH
    inside = (place >= 0) & (place <= 2 * REACH) & (rows < M)[:, None] & (keys < N)[None, :]
    pointers = band + rows.to(tl.int64)[:, None] * band_m + place * band_d
    return tl.load(pointers, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _highest(
    highest, begin, end,
    q, qf0, qf1, qf2, qf3, k, kf, bias, band, closed,
    k_n, k_d, kf_n, kf_r, bias_m, bias_n, band_m, band_d,
    rows, M, N, rank,
    D: tl.constexpr, RANK: tl.constexpr,
    C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr, REACH: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, HAS_RANKS: tl.constexpr, CAUSAL: tl.constexpr,
    BINARY: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_D: tl.constexpr,
    KEYS: tl.constexpr, LAST: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Raise what is known of the highest scores by keys from `begin` to `end`."""
    zero = tl.zeros([rows.shape[0]], tl.float32)
    for first in tl.range(begin, end, KEYS, num_stages=STAGES):
        start = tl.zeros([], tl.int32) + first  # makes a tensor of what the interpreter has as a plain number
        near = None
        if REACH >= 0:
            near = _band_of(band, band_m, band_d, rows, start + tl.arange(0, KEYS), M, N, REACH)
        scores = scores_of(
            q, qf0, qf1, qf2, qf3, k, kf, bias, closed,
            k_n, k_d, kf_n, kf_r, bias_m, bias_n,
            rows, zero, start, tl.arange(0, KEYS), M, N, rank,
            D, RANK, C0, C1, C2, C3, HAS_BIAS, HAS_MASK, HAS_RANKS, CAUSAL,
            BINARY, PRECISION, WIDEN, BLOCK_D, LAST, near,
        )  # fmt: skip
        highest = tl.maximum(highest, tl.max(_folded(scores), 1))
    return highest


@triton.jit
def _attend(
    acc, sums, level, begin, end, turn, limit, jump, v, v_n, v_d,
    q, qf0, qf1, qf2, qf3, k, kf, bias, band, closed,
    k_n, k_d, kf_n, kf_r, bias_m, bias_n, band_m, band_d,
    rows, M, N, rank,
    D: tl.constexpr, RANK: tl.constexpr,
    C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr, REACH: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, HAS_RANKS: tl.constexpr, CAUSAL: tl.constexpr,
    BINARY: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DV: tl.constexpr, BLOCK_DV: tl.constexpr, KEYS: tl.constexpr,
    LAST: tl.constexpr, STAGES: tl.constexpr, FIND: tl.constexpr,
):  # fmt: skip
    """Add what keys contribute, as many as from `begin` to `end`, tile by tile; LAST as for `scores_of`.

    They are these keys `turn` further on; those at `limit` or beyond it are `jump` from there. FIND to take
    the level, which is 0 before, from the first tile of all; else it is returned as it came.
    """
    keys = tl.arange(0, KEYS)
    for first in tl.range(begin, end, KEYS, num_stages=STAGES):
        start = tl.zeros([], tl.int32) + first + turn
        start = tl.where(start < limit, start, start + jump)
        near = None
        if REACH >= 0:
            near = _band_of(band, band_m, band_d, rows, start + keys, M, N, REACH)
        scores = scores_of(
            q, qf0, qf1, qf2, qf3, k, kf, bias, closed,
            k_n, k_d, kf_n, kf_r, bias_m, bias_n,
            rows, level, start, keys, M, N, rank,
            D, RANK, C0, C1, C2, C3, HAS_BIAS, HAS_MASK, HAS_RANKS, CAUSAL,
            BINARY, PRECISION, WIDEN, BLOCK_D, LAST, near,
        )  # fmt: skip
        if FIND:
            if first == 0:
                level = _level(scores)  # folded, Triton 3.3 would crash here
                if BINARY:
                    scores -= level[:, None]
        weights = weights_of(scores, level[:, None], BINARY, q.dtype == tl.float32)
        values = values_of(v, v_n, v_d, start, keys, N, DV, BLOCK_DV, LAST)
        acc = product(weights.to(values.dtype), values, acc, PRECISION, WIDEN)
        sums += tl.sum(_folded(weights), 1)
    return acc, sums, level


@triton.jit
def forward_kernel(
    q_ptr, k_ptr, v_ptr, qf_ptr, kf_ptr, bias_ptr, band_ptr, gate_ptr, ranks_ptr, closed_ptr, span_ptr,
    out_ptr, lse_ptr,
    q_y, q_z, q_h, q_m, q_d,
    k_y, k_z, k_h, k_n, k_d,
    v_y, v_z, v_h, v_n, v_d,
    qf_y, qf_z, qf_h, qf_m, qf_r,
    kf_y, kf_z, kf_h, kf_n, kf_r,
    bias_y, bias_z, bias_h, bias_m, bias_n,
    band_y, band_z, band_h, band_m, band_d,
    gate_y, gate_z, gate_h, gate_m, gate_d,
    out_y, out_z, out_h, out_m, out_d,
    closed_y, closed_z, closed_n,
    span_y, span_z, span_n,
    Y, Z, H, M, N,
    scale,
    D: tl.constexpr, DV: tl.constexpr, RANK: tl.constexpr,
    C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr, REACH: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, HAS_GATE: tl.constexpr, HAS_RANKS: tl.constexpr,
    CAUSAL: tl.constexpr, BINARY: tl.constexpr, PATIENCE: tl.constexpr, STAGES: tl.constexpr,
    PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """Write a block of rows of the output, and the logarithms of their sums.

    Leading dimensions are two, y and z. Strides are in elements, zero along what is broadcast; `lse`,
    `closed` and `span` (see mask.py) are contiguous. PATIENCE is the sum up to which the level of one tile is
    trusted.
    """
    # One grid dimension: the others end at 65,535. Blocks of a head are neighbours, and share its keys in L2.
    blocks = tl.cdiv(M, BLOCK_M)
    program = tl.program_id(0)
    block = program % blocks
    h = ((program // blocks) % H).to(tl.int64)
    z = ((program // (blocks * H)) % Z).to(tl.int64)
    y = (program // (blocks * H * Z)).to(tl.int64)
    k = k_ptr + y * k_y + z * k_z + h * k_h
    v = v_ptr + y * v_y + z * v_z + h * v_h
    kf = kf_ptr + y * kf_y + z * kf_z + h * kf_h
    bias = bias_ptr + y * bias_y + z * bias_z + h * bias_h
    band = band_ptr + y * band_y + z * band_z + h * band_h
    closed = closed_ptr + y * closed_y + z * closed_z

    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    q = query_channels(q_ptr + y * q_y + z * q_z + h * q_h, q_m, q_d, rows, M, 0, BLOCK_D, D)
    q = scaled(q, scale, BINARY)
    rank = RANK
    if HAS_RANKS:
        rank = tl.minimum(tl.load(ranks_ptr + h), RANK)
    qf = qf_ptr + y * qf_y + z * qf_z + h * qf_h
    qf0, qf1, qf2, qf3 = q, q, q, q
    if C0:
        qf0 = query_channels(qf, qf_m, qf_r, rows, M, 0, C0, rank)
    if C1:
        qf1 = query_channels(qf, qf_m, qf_r, rows, M, C0, C1, rank)
    if C2:
        qf2 = query_channels(qf, qf_m, qf_r, rows, M, C0 + C1, C2, rank)
    if C3:
        qf3 = query_channels(qf, qf_m, qf_r, rows, M, C0 + C1 + C2, C3, rank)

    # Keys up to `free` are there for all queries of the block, in whole tiles; from `end` on there are none.
    free, end = N, N
    if HAS_MASK:
        span = span_ptr + y * span_y + z * span_z
        free, end = tl.load(span), tl.load(span + 1)
    if CAUSAL:
        free, end = tl.minimum(free, block * BLOCK_M + 1), tl.minimum(end, (block + 1) * BLOCK_M)
    free = tl.minimum(free, end) // BLOCK_N * BLOCK_N

    level = tl.zeros([BLOCK_M], tl.float32)
    sums = tl.zeros([BLOCK_M, PARTS], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    # A band takes registers, which the widest tiles have no need of: narrower ones read it.
    NEAR: tl.constexpr = BLOCK_N if REACH < 0 else max(BLOCK_N // 2, 16)
    if REACH >= 0:  # first come the tiles that the band reaches, then the others around them
        near = tl.minimum(tl.maximum(block * BLOCK_M - REACH, 0) // BLOCK_N * BLOCK_N, free)
        beyond = tl.minimum(tl.cdiv((block + 1) * BLOCK_M + REACH, BLOCK_N) * BLOCK_N, free)
        own = tl.maximum(tl.minimum(block * BLOCK_M, beyond - NEAR) // NEAR * NEAR, near)
        acc, sums, level = _attend(
            acc, sums, level, 0, beyond - near, own, beyond, near - beyond, v, v_n, v_d,
            q, qf0, qf1, qf2, qf3, k, kf, bias, band, closed,
            k_n, k_d, kf_n, kf_r, bias_m, bias_n, band_m, band_d, rows, M, N, rank,
            D, RANK, C0, C1, C2, C3, REACH, HAS_BIAS, HAS_MASK, HAS_RANKS, CAUSAL,
            BINARY, PRECISION, WIDEN, BLOCK_D,
            DV, BLOCK_DV, NEAR, False, STAGES, True,
        )  # fmt: skip
        begin, turn, limit, jump = beyond - near, near - beyond, near, beyond - near
    else:
        # The first of all tiles is that of the keys at the queries' own places.
        turn = tl.maximum(tl.minimum(block * BLOCK_M, free - BLOCK_N), 0) // BLOCK_N * BLOCK_N
        begin, limit, jump = 0, free, -free
    acc, sums, level = _attend(
        acc, sums, level, begin, free, turn, limit, jump, v, v_n, v_d,
        q, qf0, qf1, qf2, qf3, k, kf, bias, band, closed,
        k_n, k_d, kf_n, kf_r, bias_m, bias_n, band_m, band_d, rows, M, N, rank,
        D, RANK, C0, C1, C2, C3, -1, HAS_BIAS, HAS_MASK, HAS_RANKS, CAUSAL,
        BINARY, PRECISION, WIDEN, BLOCK_D,
        DV, BLOCK_DV, BLOCK_N, False, STAGES, True,
    )  # fmt: skip
    acc, sums, level = _attend(
        acc, sums, level, free, end, 0, end, 0, v, v_n, v_d,
        q, qf0, qf1, qf2, qf3, k, kf, bias, band, closed,
        k_n, k_d, kf_n, kf_r, bias_m, bias_n, band_m, band_d, rows, M, N, rank,
        D, RANK, C0, C1, C2, C3, REACH, HAS_BIAS, HAS_MASK, HAS_RANKS, CAUSAL,
        BINARY, PRECISION, WIDEN, BLOCK_D,
        DV, BLOCK_DV, NEAR, True, 1, True,
    )  # fmt: skip
    total = tl.sum(sums, 1)

    # A key that set the level has a weight of 1; a row with less in all saw none. NaN is not finite.
    trusted = (total > 0.5) & (total <= PATIENCE) | (rows >= M)
    # The accumulator is asked in one step: at two, Triton 3.6 does not compile for sm_100.
    finite = tl.where(tl.abs(acc) < float("inf"), 1, 0)
    if (tl.min(trusted.to(tl.int32), 0) == 0) | (tl.min(finite) == 0):
        SMALLER: tl.constexpr = max(NEAR // 2, 16)  # for want of registers
        highest = tl.full([BLOCK_M, PARTS], NEVER, tl.float32)
        highest = _highest(
            highest, 0, free,
            q, qf0, qf1, qf2, qf3, k, kf, bias, band, closed,
            k_n, k_d, kf_n, kf_r, bias_m, bias_n, band_m, band_d, rows, M, N, rank,
            D, RANK, C0, C1, C2, C3, REACH, HAS_BIAS, HAS_MASK, HAS_RANKS, CAUSAL,
            BINARY, PRECISION, WIDEN, BLOCK_D,
            SMALLER, False, STAGES,
        )  # fmt: skip
        highest = _highest(
            highest, free, end,
            q, qf0, qf1, qf2, qf3, k, kf, bias, band, closed,
            k_n, k_d, kf_n, kf_r, bias_m, bias_n, band_m, band_d, rows, M, N, rank,
            D, RANK, C0, C1, C2, C3, REACH, HAS_BIAS, HAS_MASK, HAS_RANKS, CAUSAL,
            BINARY, PRECISION, WIDEN, BLOCK_D,
            SMALLER, True, 1,
        )  # fmt: skip
        level = _level(highest)
        sums = tl.zeros([BLOCK_M, PARTS], tl.float32)
        acc = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
        acc, sums, level = _attend(
            acc, sums, level, 0, free, 0, free, 0, v, v_n, v_d,
            q, qf0, qf1, qf2, qf3, k, kf, bias, band, closed,
            k_n, k_d, kf_n, kf_r, bias_m, bias_n, band_m, band_d, rows, M, N, rank,
            D, RANK, C0, C1, C2, C3, REACH, HAS_BIAS, HAS_MASK, HAS_RANKS, CAUSAL,
            BINARY, PRECISION, WIDEN, BLOCK_D,
            DV, BLOCK_DV, SMALLER, False, STAGES, False,
        )  # fmt: skip
        acc, sums, level = _attend(
            acc, sums, level, free, end, 0, end, 0, v, v_n, v_d,
            q, qf0, qf1, qf2, qf3, k, kf, bias, band, closed,
            k_n, k_d, kf_n, kf_r, bias_m, bias_n, band_m, band_d, rows, M, N, rank,
            D, RANK, C0, C1, C2, C3, REACH, HAS_BIAS, HAS_MASK, HAS_RANKS, CAUSAL,
            BINARY, PRECISION, WIDEN, BLOCK_D,
            DV, BLOCK_DV, SMALLER, True, 1, False,
        )  # fmt: skip
        total = tl.sum(sums, 1)

    some = total != 0  # NaN is passed on
    out = tl.where(some[:, None], acc / tl.where(some, total, 1.0)[:, None], 0.0)
    dims = tl.arange(0, BLOCK_DV)
    kept = (rows < M)[:, None] & (dims < DV)[None, :]
    row = rows.to(tl.int64)[:, None]
    if HAS_GATE:
        gate = tl.load(
            gate_ptr + y * gate_y + z * gate_z + h * gate_h + row * gate_m + dims[None, :] * gate_d,
            mask=kept, other=0.0,
        )  # fmt: skip
        out = out * tl.sigmoid(gate.to(tl.float32))
    tl.store(
        out_ptr + y * out_y + z * out_z + h * out_h + row * out_m + dims[None, :] * out_d,
        out.to(out_ptr.dtype.element_ty), mask=kept,
    )  # fmt: skip
    if BINARY:
        level = level * LN_2
    lse = tl.where(some, level + tl.log2(tl.where(some, total, 1.0)) * LN_2, NEVER)
    tl.store(lse_ptr + ((y * Z + z) * H + h) * M + rows, lse, mask=rows < M)
