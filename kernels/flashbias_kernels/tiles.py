"""What the kernels share: products, normalisation, loading tiles, and the scores and weights of one."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
NEVER = tl.constexpr(float("-inf"))


@triton.jit
def product(a, b, start, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """`start` plus the matrix product; WIDEN for the interpreter, which cannot multiply bf16."""
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, start, input_precision=PRECISION)


@triton.jit
def normalise(
    x, scale_ptr, shift_ptr, eps,
    HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Places down, all their C channels across, in fp32: layer normalisation of each."""
    channel = tl.arange(0, C)
    x = x - (tl.sum(x, 1) / C)[:, None]
    x = x - (tl.sum(x, 1) / C)[:, None]  # what rounding left of a large mean
    x = x * tl.rsqrt(tl.sum(x * x, 1) / C + eps)[:, None]
    if HAS_SCALE:
        x = x * tl.load(scale_ptr + channel).to(tl.float32)[None, :]
    if HAS_SHIFT:
        x = x + tl.load(shift_ptr + channel).to(tl.float32)[None, :]
    return x


@triton.jit
def sigmoid(x):
    """Of fp32; the square of a reciprocal root, since a division takes several instructions more."""
    root = tl.rsqrt(1.0 + tl.exp2(x * -LOG2_E))
    return root * root


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
def scaled(q, scale, BINARY: tl.constexpr):
    """Queries times what their scores are multiplied by; BINARY for scores that are exponents of 2."""
    if BINARY:
        scale = scale * LOG2_E
    return (q.to(tl.float32) * scale).to(q.dtype)


@triton.jit
def scores_of(
    q, qf0, qf1, qf2, qf3, k, kf, bias, closed,
    k_n, k_d, kf_n, kf_r, bias_m, bias_n,
    rows, level, start, keys, M, N, rank,
    D: tl.constexpr, RANK: tl.constexpr,
    C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, HAS_RANKS: tl.constexpr, CAUSAL: tl.constexpr,
    BINARY: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_D: tl.constexpr, LAST: tl.constexpr, near=None,
):  # fmt: skip
    """Scores of the tile at `start`; BINARY: what they have over their row's level, as exponents of 2.

    What a band has for the tile, `near`, is added too.

    What forbids a key is in the accumulator before the products: LAST where the keys end within the tile, or
    where the mask or CAUSAL may close some.
    """
    WHOLE: tl.constexpr = (C0 + C1 + C2 + C3 == RANK) and not HAS_RANKS
    EXACT: tl.constexpr = q.dtype == tl.float32
    # Nothing is added to zeros: they cost nothing where products start from them.
    scores = tl.zeros([rows.shape[0], keys.shape[0]], tl.float32)
    if HAS_BIAS:
        lines = tl.minimum(rows, M - 1).to(tl.int64)  # so that no load has to ask whether there is such a row
        pointers = (bias + start.to(tl.int64) * bias_n) + (lines[:, None] * bias_m + keys[None, :] * bias_n)
        if LAST:
            known = tl.load(pointers, mask=(start + keys < N)[None, :], other=0.0)
        else:
            known = tl.load(pointers)
        known = known.to(tl.float32)
        if BINARY:
            scores = known * LOG2_E - level[:, None]
        elif not EXACT:
            scores = known
    if near is not None:
        scores += near
    if LAST:
        scores += closed_keys(closed, start + keys, N, HAS_MASK)[None, :]
        if CAUSAL:
            scores = tl.where((start + keys)[None, :] <= rows[:, None], scores, NEVER)
    tile = key_channels(k, k_n, k_d, start, keys, N, 0, BLOCK_D, BLOCK_D == D, D, LAST)
    scores = product(q, tile, scores, PRECISION, WIDEN)
    if C0:
        tile = key_channels(kf, kf_n, kf_r, start, keys, N, 0, C0, WHOLE, rank, LAST)
        scores = product(qf0, tile, scores, PRECISION, WIDEN)
    if C1:
        tile = key_channels(kf, kf_n, kf_r, start, keys, N, C0, C1, WHOLE, rank, LAST)
        scores = product(qf1, tile, scores, PRECISION, WIDEN)
    if C2:
        tile = key_channels(kf, kf_n, kf_r, start, keys, N, C0 + C1, C2, WHOLE, rank, LAST)
        scores = product(qf2, tile, scores, PRECISION, WIDEN)
    if C3:
        tile = key_channels(kf, kf_n, kf_r, start, keys, N, C0 + C1 + C2, C3, WHOLE, rank, LAST)
        scores = product(qf3, tile, scores, PRECISION, WIDEN)
    if HAS_BIAS and EXACT:  # a large bias comes last, so that it is rounded once; Triton moves a sum forward
        scores = scores - (0.0 - known)
    return scores


@triton.jit
def closed_keys(closed, places, N, HAS_MASK: tl.constexpr):
    """-inf for keys that the mask closes or that there are not, 0 for the others."""
    if HAS_MASK:
        return tl.load(closed + places, mask=places < N, other=NEVER)
    return tl.where(places < N, 0.0, NEVER)


@triton.jit
def weights_of(scores, level, BINARY: tl.constexpr, EXACT: tl.constexpr):
    """Exponentials of what scores have over a level, which has their unit."""
    if BINARY:  # the level is taken away already
        exponents = scores
    elif EXACT:  # the difference of two large numbers is exact, that of their rounded multiples is not
        exponents = (scores - level) * LOG2_E
    else:  # one instruction instead of two
        exponents = scores * LOG2_E - level * LOG2_E
    return tl.exp2(exponents)


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
