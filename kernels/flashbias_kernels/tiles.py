"""What the kernels share: loading tiles, and the scores and weights of one."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
NEVER = tl.constexpr(float("-inf"))


@triton.jit
def product(a, b, start, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """`start` plus the matrix product; WIDEN for the interpreter, which cannot multiply bf16."""
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, start, input_precision=PRECISION)


@triton.jit
def query_channels(base, stride_m, stride_r, rows, M, START: tl.constexpr, COUNT: tl.constexpr, rank):
    """Queries down, channels across; or the same of keys."""
    channels = START + tl.arange(0, COUNT)
    return tl.load(
        base + rows.to(tl.int64)[:, None] * stride_m + channels[None, :] * stride_r,
        mask=(rows < M)[:, None] & (channels < rank)[None, :],
        other=0.0,
    )


@triton.jit
def key_channels(
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
def scores_of(
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
    tile = key_channels(k, k_n, k_d, start, keys, N, 0, BLOCK_D, BLOCK_D == D, D, LAST)
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
            scores = product(q, tile, tl.zeros_like(known), PRECISION, WIDEN) + known
        else:
            scores = product(q, tile, known, PRECISION, WIDEN)
    else:
        scores = tl.zeros([rows.shape[0], keys.shape[0]], tl.float32)
        scores = product(q, tile, scores, PRECISION, WIDEN)
    if C0:
        tile = key_channels(kf, kf_n, kf_r, start, keys, N, 0, C0, WHOLE, rank, LAST)
        scores = product(qf0, tile, scores, FACTOR_PRECISION, WIDEN)
    if C1:
        tile = key_channels(kf, kf_n, kf_r, start, keys, N, C0, C1, WHOLE, rank, LAST)
        scores = product(qf1, tile, scores, FACTOR_PRECISION, WIDEN)
    if C2:
        tile = key_channels(kf, kf_n, kf_r, start, keys, N, C0 + C1, C2, WHOLE, rank, LAST)
        scores = product(qf2, tile, scores, FACTOR_PRECISION, WIDEN)
    if C3:
        tile = key_channels(kf, kf_n, kf_r, start, keys, N, C0 + C1 + C2, C3, WHOLE, rank, LAST)
        scores = product(qf3, tile, scores, FACTOR_PRECISION, WIDEN)
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
def values_of(v, v_n, v_d, start, keys, N, DV: tl.constexpr, BLOCK_DV: tl.constexpr, LAST: tl.constexpr):
    """Keys down, channels across."""
    dims = tl.arange(0, BLOCK_DV)
    pointers = (v + start.to(tl.int64) * v_n) + (keys[:, None] * v_n + dims[None, :] * v_d)
    if LAST:
        return tl.load(pointers, mask=(start + keys < N)[:, None] & (dims < DV)[None, :], other=0.0)
    if BLOCK_DV == DV:
        return tl.load(pointers)
    return tl.load(pointers, mask=(dims < DV)[None, :], other=0.0)


@triton.jit
def weights_of(scores, level, EXACT: tl.constexpr):
    """Exponentials of what the scores have over the level."""
    if EXACT:  # the difference of two large numbers is exact, that of their rounded multiples is not
        exponents = (scores - level[:, None]) * LOG2_E
    else:  # one instruction instead of two
        exponents = scores * LOG2_E - (level * LOG2_E)[:, None]
    return tl.exp2(exponents)
