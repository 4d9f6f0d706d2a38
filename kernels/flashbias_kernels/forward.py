"""The forward pass in Triton: a program for a block of queries of one head, walking over the keys.

Softmax needs a number near each row's maximum, so that exponentials stay in range. The usual loop follows
the maximum from tile to tile and rescales what it has. Floating point is more patient than that: fp32 and
bf16 reach 2^127, so the maximum over a few keys will do as a level, unless a later score exceeds it by far.
The loop here carries no maximum. Whether a row ran over shows at the end, and such a block looks for its
true maxima and goes over its keys once more.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
NEVER = tl.constexpr(float("-inf"))
LEVEL_KEYS = tl.constexpr(16)


@triton.jit
def _product(a, b, start, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """`start` plus the matrix product; WIDEN for the interpreter, which cannot multiply bf16."""
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, start, input_precision=PRECISION)


@triton.jit
def _query_channels(base, stride_m, stride_r, rows, M, START: tl.constexpr, COUNT: tl.constexpr, rank):
    channels = START + tl.arange(0, COUNT)
    return tl.load(
        base + rows.to(tl.int64)[:, None] * stride_m + channels[None, :] * stride_r,
        mask=(rows < M)[:, None] & (channels < rank)[None, :],
        other=0.0,
    )


@triton.jit
def _key_channels(
    base, stride_n, stride_r, start, keys, N,
    FIRST: tl.constexpr, COUNT: tl.constexpr, ALL: tl.constexpr, rank, LAST: tl.constexpr,
):  # fmt: skip
    """Channels down, keys across: ready for the product with the queries."""
    channels = FIRST + tl.arange(0, COUNT)
    # What is the same for all tiles is apart, so that a tile costs one addition of a scalar.
    pointers = (base + start.to(tl.int64) * stride_n) + (
        channels[:, None] * stride_r + keys[None, :] * stride_n
    )
    if LAST:
        return tl.load(pointers, mask=(channels < rank)[:, None] & (start + keys < N)[None, :], other=0.0)
    if ALL:
        return tl.load(pointers)
    return tl.load(pointers, mask=(channels < rank)[:, None], other=0.0)


@triton.jit
def _scores(
    q, qf0, qf1, qf2, qf3, k, kf, bias, mask,
    k_n, k_d, kf_n, kf_r, bias_m, bias_n, mask_n,
    rows, start, keys, M, N, rank,
    D: tl.constexpr, RANK: tl.constexpr,
    C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, HAS_RANKS: tl.constexpr, CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr, FACTOR_PRECISION: tl.constexpr, WIDEN: tl.constexpr, BLOCK_D: tl.constexpr,
    LAST: tl.constexpr,
):  # fmt: skip
    """Scores of the tile at `start`, -inf where a key may not be attended; LAST where the keys end within."""
    WHOLE: tl.constexpr = (C0 + C1 + C2 + C3 == RANK) and not HAS_RANKS
    tile = _key_channels(k, k_n, k_d, start, keys, N, 0, BLOCK_D, BLOCK_D == D, D, LAST)
    if HAS_BIAS:
        pointers = (bias + start.to(tl.int64) * bias_n) + (
            rows.to(tl.int64)[:, None] * bias_m + keys[None, :] * bias_n
        )
        if LAST:
            known = tl.load(pointers, mask=(rows < M)[:, None] & (start + keys < N)[None, :], other=0.0)
        else:
            known = tl.load(pointers, mask=(rows < M)[:, None], other=0.0)
        known = known.to(tl.float32)
        if q.dtype == tl.float32:  # a large bias is added last, so that it is rounded once
            scores = _product(q, tile, tl.zeros_like(known), PRECISION, WIDEN) + known
        else:
            scores = _product(q, tile, known, PRECISION, WIDEN)
    else:
        scores = tl.zeros([rows.shape[0], keys.shape[0]], tl.float32)
        scores = _product(q, tile, scores, PRECISION, WIDEN)
    if C0:
        tile = _key_channels(kf, kf_n, kf_r, start, keys, N, 0, C0, WHOLE, rank, LAST)
        scores = _product(qf0, tile, scores, FACTOR_PRECISION, WIDEN)
    if C1:
        tile = _key_channels(kf, kf_n, kf_r, start, keys, N, C0, C1, WHOLE, rank, LAST)
        scores = _product(qf1, tile, scores, FACTOR_PRECISION, WIDEN)
    if C2:
        tile = _key_channels(kf, kf_n, kf_r, start, keys, N, C0 + C1, C2, WHOLE, rank, LAST)
        scores = _product(qf2, tile, scores, FACTOR_PRECISION, WIDEN)
    if C3:
        tile = _key_channels(kf, kf_n, kf_r, start, keys, N, C0 + C1 + C2, C3, WHOLE, rank, LAST)
        scores = _product(qf3, tile, scores, FACTOR_PRECISION, WIDEN)
    if HAS_MASK:
        pointers = (mask + start.to(tl.int64) * mask_n) + keys * mask_n
        if LAST:
            allowed = tl.load(pointers, mask=start + keys < N, other=0)
        else:
            allowed = tl.load(pointers)
        scores = tl.where((allowed != 0)[None, :], scores, NEVER)
    elif LAST:
        scores = tl.where((start + keys < N)[None, :], scores, NEVER)
    if CAUSAL:
        scores = tl.where((start + keys)[None, :] <= rows[:, None], scores, NEVER)
    return scores


@triton.jit
def _values(v, v_n, v_d, start, keys, N, DV: tl.constexpr, BLOCK_DV: tl.constexpr, LAST: tl.constexpr):
    dims = tl.arange(0, BLOCK_DV)
    pointers = (v + start.to(tl.int64) * v_n) + (keys[:, None] * v_n + dims[None, :] * v_d)
    if LAST:
        return tl.load(pointers, mask=(start + keys < N)[:, None] & (dims < DV)[None, :], other=0.0)
    if BLOCK_DV == DV:
        return tl.load(pointers)
    return tl.load(pointers, mask=(dims < DV)[None, :], other=0.0)


@triton.jit
def _weights(scores, level, EXACT: tl.constexpr):
    """Exponentials of what the scores have over the level."""
    if EXACT:  # the difference of two large numbers is exact, that of their rounded multiples is not
        exponents = (scores - level[:, None]) * LOG2_E
    else:  # one instruction instead of two
        exponents = scores * LOG2_E - (level * LOG2_E)[:, None]
    return tl.exp2(exponents)


@triton.jit
def _add(acc, total, scores, level, values, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """Add what a tile of keys contributes."""
    weights = _weights(scores, level, values.dtype == tl.float32)
    acc = _product(weights.to(values.dtype), values, acc, PRECISION, WIDEN)
    return acc, total + tl.sum(weights, 1)


@triton.jit
def forward_kernel(
    q_ptr, k_ptr, v_ptr, qf_ptr, kf_ptr, bias_ptr, mask_ptr, gate_ptr, ranks_ptr, out_ptr, lse_ptr,
    q_y, q_z, q_h, q_m, q_d,
    k_y, k_z, k_h, k_n, k_d,
    v_y, v_z, v_h, v_n, v_d,
    qf_y, qf_z, qf_h, qf_m, qf_r,
    kf_y, kf_z, kf_h, kf_n, kf_r,
    bias_y, bias_z, bias_h, bias_m, bias_n,
    gate_y, gate_z, gate_h, gate_m, gate_d,
    out_y, out_z, out_h, out_m, out_d,
    mask_y, mask_z, mask_n,
    Z, H, M, N,
    scale,
    D: tl.constexpr, DV: tl.constexpr, RANK: tl.constexpr,
    C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, HAS_GATE: tl.constexpr, HAS_RANKS: tl.constexpr,
    CAUSAL: tl.constexpr, PATIENCE: tl.constexpr,
    PRECISION: tl.constexpr, FACTOR_PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """Write a block of rows of the output, and the logarithms of their sums.

    Leading dimensions are two, y and z. Strides are in elements, zero along what is broadcast; `lse` is
    contiguous. PATIENCE is the sum up to which a level from a few keys is trusted.
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
    mask = mask_ptr + y * mask_y + z * mask_z

    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    q = _query_channels(q_ptr + y * q_y + z * q_z + h * q_h, q_m, q_d, rows, M, 0, BLOCK_D, D)
    q = (q.to(tl.float32) * scale).to(q.dtype)
    rank = RANK
    if HAS_RANKS:
        rank = tl.minimum(tl.load(ranks_ptr + h), RANK)
    qf = qf_ptr + y * qf_y + z * qf_z + h * qf_h
    qf0, qf1, qf2, qf3 = q, q, q, q
    if C0:
        qf0 = _query_channels(qf, qf_m, qf_r, rows, M, 0, C0, rank)
    if C1:
        qf1 = _query_channels(qf, qf_m, qf_r, rows, M, C0, C1, rank)
    if C2:
        qf2 = _query_channels(qf, qf_m, qf_r, rows, M, C0 + C1, C2, rank)
    if C3:
        qf3 = _query_channels(qf, qf_m, qf_r, rows, M, C0 + C1 + C2, C3, rank)

    end = N
    if CAUSAL:
        end = tl.minimum(N, (block + 1) * BLOCK_M)
    whole = (end // BLOCK_N) * BLOCK_N
    keys = tl.arange(0, BLOCK_N)
    few_keys = tl.arange(0, LEVEL_KEYS)
    origin = tl.zeros([], tl.int32)  # makes a tensor of what the interpreter has as a plain number

    level = tl.zeros([BLOCK_M], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    looked_at = origin + LEVEL_KEYS
    attempts = origin + 1
    while attempts > 0:
        level = tl.full([BLOCK_M], NEVER, tl.float32)
        for first in range(0, looked_at, LEVEL_KEYS):
            scores = _scores(
                q, qf0, qf1, qf2, qf3, k, kf, bias, mask,
                k_n, k_d, kf_n, kf_r, bias_m, bias_n, mask_n, rows, origin + first, few_keys, M, N, rank,
                D, RANK, C0, C1, C2, C3, HAS_BIAS, HAS_MASK, HAS_RANKS, CAUSAL,
                PRECISION, FACTOR_PRECISION, WIDEN, BLOCK_D, True,
            )  # fmt: skip
            level = tl.maximum(level, tl.max(scores, 1))
        level = tl.where(level == NEVER, 0.0, level)  # of a row that has seen no key yet
        total = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
        for first in range(0, whole, BLOCK_N):
            scores = _scores(
                q, qf0, qf1, qf2, qf3, k, kf, bias, mask,
                k_n, k_d, kf_n, kf_r, bias_m, bias_n, mask_n, rows, origin + first, keys, M, N, rank,
                D, RANK, C0, C1, C2, C3, HAS_BIAS, HAS_MASK, HAS_RANKS, CAUSAL,
                PRECISION, FACTOR_PRECISION, WIDEN, BLOCK_D, False,
            )  # fmt: skip
            values = _values(v, v_n, v_d, origin + first, keys, N, DV, BLOCK_DV, False)
            acc, total = _add(acc, total, scores, level, values, PRECISION, WIDEN)
        if whole < end:
            scores = _scores(
                q, qf0, qf1, qf2, qf3, k, kf, bias, mask,
                k_n, k_d, kf_n, kf_r, bias_m, bias_n, mask_n, rows, origin + whole, keys, M, N, rank,
                D, RANK, C0, C1, C2, C3, HAS_BIAS, HAS_MASK, HAS_RANKS, CAUSAL,
                PRECISION, FACTOR_PRECISION, WIDEN, BLOCK_D, True,
            )  # fmt: skip
            values = _values(v, v_n, v_d, origin + whole, keys, N, DV, BLOCK_DV, True)
            acc, total = _add(acc, total, scores, level, values, PRECISION, WIDEN)
        # A key that set the level has a weight of 1. A row with less in all saw none; NaN compares as false.
        trusted = (total > 0.5) & (total <= PATIENCE) & (tl.max(tl.abs(acc), 1) < float("inf"))
        unsure = tl.min((trusted | (rows >= M)).to(tl.int32), 0) == 0
        again = unsure & (looked_at < end)
        attempts = again.to(tl.int32)
        looked_at = origin + end

    some = total > 0
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
    lse = tl.where(some, level + tl.log2(tl.where(some, total, 1.0)) * LN_2, NEVER)
    tl.store(lse_ptr + ((y * Z + z) * H + h) * M + rows, lse, mask=rows < M)
