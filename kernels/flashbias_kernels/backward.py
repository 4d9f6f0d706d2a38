"""The backward pass in Triton: three kernels, each of which owns what it writes, so that no sum is atomic.

    queries   a block of queries walks over the keys: gradients of queries and of their own factors
    keys      a block of keys walks over the queries: gradients of keys, values and of their own factors
    pairs     a tile of pairs walks over the rows that share it: gradient of a bias, or of factors' product

All compute the weights anew, from the scores and the logarithm of their sum. The first also leaves, for the
others, the inner product of each output with its gradient.
"""

from __future__ import annotations

import triton
import triton.language as tl

from flashbias_kernels.tiles import (
    LN_2,
    LOG2_E,
    NEVER,
    closed_keys,
    key_channels,
    product,
    query_channels,
    scaled,
    scores_of,
    values_of,
    weights_of,
)

ALWAYS = tl.constexpr(float("inf"))


@triton.jit
def _sums(base, start, lines, M, BINARY: tl.constexpr):
    """Logarithms of sums, of base 2 if BINARY; infinite for a query without a key, which has no weights."""
    sums = tl.load(base + start + lines, mask=start + lines < M, other=NEVER)
    if BINARY:
        sums = sums * LOG2_E
    return tl.where(sums == NEVER, ALWAYS, sums)


@triton.jit
def _score_gradient(
    do, scores, sums, delta, v, v_n, v_d, start, keys, N,
    DV: tl.constexpr, BLOCK_DV: tl.constexpr, BINARY: tl.constexpr,
    PRECISION: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Of a tile of queries down and keys across."""
    values = key_channels(v, v_n, v_d, start, keys, N, 0, BLOCK_DV, BLOCK_DV == DV, DV, True)
    through = product(do, values, tl.zeros_like(scores), PRECISION, WIDEN)
    return weights_of(scores, sums[:, None], BINARY, do.dtype == tl.float32) * (through - delta[:, None])


@triton.jit
def _store(base, lines, L, tile, stride, FIRST: tl.constexpr, COUNT: tl.constexpr, channels):
    """Into rows of a contiguous gradient: as many channels as there are."""
    channel = FIRST + tl.arange(0, COUNT)
    tl.store(
        base + lines.to(tl.int64)[:, None] * stride + channel[None, :],
        tile.to(base.dtype.element_ty),
        mask=(lines < L)[:, None] & (channel < channels)[None, :],
    )


@triton.jit
def queries_kernel(
    q_ptr, k_ptr, v_ptr, qf_ptr, kf_ptr, bias_ptr, ranks_ptr, closed_ptr, out_ptr, do_ptr,
    lse_ptr, dlse_ptr, delta_ptr, dq_ptr, dqf_ptr,
    q_y, q_z, q_h, q_m, q_d,
    k_y, k_z, k_h, k_n, k_d,
    v_y, v_z, v_h, v_n, v_d,
    qf_y, qf_z, qf_h, qf_m, qf_r,
    kf_y, kf_z, kf_h, kf_n, kf_r,
    bias_y, bias_z, bias_h, bias_m, bias_n,
    out_y, out_z, out_h, out_m, out_d,
    do_y, do_z, do_h, do_m, do_d,
    closed_y, closed_z, closed_n,
    Y, Z, H, M, N,
    scale,
    D: tl.constexpr, DV: tl.constexpr, RANK: tl.constexpr,
    C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, HAS_RANKS: tl.constexpr, CAUSAL: tl.constexpr,
    BINARY: tl.constexpr, FACTORS: tl.constexpr,
    PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of queries; FACTORS if their factors are their own and want one too."""
    blocks = tl.cdiv(M, BLOCK_M)
    program = tl.program_id(0)
    block = program % blocks
    h = ((program // blocks) % H).to(tl.int64)
    z = ((program // (blocks * H)) % Z).to(tl.int64)
    y = (program // (blocks * H * Z)).to(tl.int64)
    line = (y * Z + z) * H + h  # of what is contiguous
    k = k_ptr + y * k_y + z * k_z + h * k_h
    v = v_ptr + y * v_y + z * v_z + h * v_h
    kf = kf_ptr + y * kf_y + z * kf_z + h * kf_h
    bias = bias_ptr + y * bias_y + z * bias_z + h * bias_h
    closed = closed_ptr + y * closed_y + z * closed_z
    origin = tl.zeros([], tl.int32)

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

    do = query_channels(do_ptr + y * do_y + z * do_z + h * do_h, do_m, do_d, rows, M, 0, BLOCK_DV, DV)
    out = query_channels(out_ptr + y * out_y + z * out_z + h * out_h, out_m, out_d, rows, M, 0, BLOCK_DV, DV)
    delta = tl.sum(do.to(tl.float32) * out.to(tl.float32), 1)
    delta -= tl.load(dlse_ptr + line * M + rows, mask=rows < M, other=0.0)
    tl.store(delta_ptr + line * M + rows, delta, mask=rows < M)
    sums = _sums(lse_ptr + line * M, origin, rows, M, BINARY)

    end = N
    if CAUSAL:
        end = tl.minimum(N, (block + 1) * BLOCK_M)
    keys = tl.arange(0, BLOCK_N)
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    d0, d1, d2, d3 = dq, dq, dq, dq
    if FACTORS:
        d0 = tl.zeros([BLOCK_M, C0 if C0 else 16], tl.float32)
        d1 = tl.zeros([BLOCK_M, C1 if C1 else 16], tl.float32)
        d2 = tl.zeros([BLOCK_M, C2 if C2 else 16], tl.float32)
        d3 = tl.zeros([BLOCK_M, C3 if C3 else 16], tl.float32)
    for first in range(0, end, BLOCK_N):
        start = origin + first
        scores = scores_of(
            q, qf0, qf1, qf2, qf3, k, kf, bias, closed,
            k_n, k_d, kf_n, kf_r, bias_m, bias_n, rows, sums, start, keys, M, N, rank,
            D, RANK, C0, C1, C2, C3, HAS_BIAS, HAS_MASK, HAS_RANKS, CAUSAL, BINARY,
            PRECISION, WIDEN, BLOCK_D, True,
        )  # fmt: skip
        ds = _score_gradient(
            do, scores, sums, delta, v, v_n, v_d, start, keys, N, DV, BLOCK_DV, BINARY, PRECISION, WIDEN
        )
        tile = values_of(k, k_n, k_d, start, keys, N, D, BLOCK_D, True)
        dq = product(ds.to(tile.dtype), tile, dq, PRECISION, WIDEN)
        if FACTORS:
            along = ds.to(kf_ptr.dtype.element_ty)
            there = start + keys
            if C0:
                tile = query_channels(kf, kf_n, kf_r, there, N, 0, C0, rank)
                d0 = product(along, tile, d0, PRECISION, WIDEN)
            if C1:
                tile = query_channels(kf, kf_n, kf_r, there, N, C0, C1, rank)
                d1 = product(along, tile, d1, PRECISION, WIDEN)
            if C2:
                tile = query_channels(kf, kf_n, kf_r, there, N, C0 + C1, C2, rank)
                d2 = product(along, tile, d2, PRECISION, WIDEN)
            if C3:
                tile = query_channels(kf, kf_n, kf_r, there, N, C0 + C1 + C2, C3, rank)
                d3 = product(along, tile, d3, PRECISION, WIDEN)

    _store(dq_ptr + line * M * D, rows, M, dq * scale, D, 0, BLOCK_D, D)
    if FACTORS:
        dqf = dqf_ptr + line * M * RANK
        if C0:
            _store(dqf, rows, M, d0, RANK, 0, C0, RANK)
        if C1:
            _store(dqf, rows, M, d1, RANK, C0, C1, RANK)
        if C2:
            _store(dqf, rows, M, d2, RANK, C0 + C1, C2, RANK)
        if C3:
            _store(dqf, rows, M, d3, RANK, C0 + C1 + C2, C3, RANK)


@triton.jit
def keys_kernel(
    q_ptr, k_ptr, v_ptr, qf_ptr, kf_ptr, bias_ptr, ranks_ptr, closed_ptr, do_ptr,
    lse_ptr, delta_ptr, dk_ptr, dv_ptr, dkf_ptr,
    q_y, q_z, q_h, q_m, q_d,
    k_y, k_z, k_h, k_n, k_d,
    v_y, v_z, v_h, v_n, v_d,
    qf_y, qf_z, qf_h, qf_m, qf_r,
    kf_y, kf_z, kf_h, kf_n, kf_r,
    bias_y, bias_z, bias_h, bias_m, bias_n,
    do_y, do_z, do_h, do_m, do_d,
    closed_y, closed_z, closed_n,
    Y, Z, H, M, N,
    scale,
    D: tl.constexpr, DV: tl.constexpr, RANK: tl.constexpr,
    C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, HAS_RANKS: tl.constexpr, CAUSAL: tl.constexpr,
    BINARY: tl.constexpr, FACTORS: tl.constexpr,
    PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of keys and values; tiles have keys down and queries across."""
    blocks = tl.cdiv(N, BLOCK_N)
    program = tl.program_id(0)
    block = program % blocks
    h = ((program // blocks) % H).to(tl.int64)
    z = ((program // (blocks * H)) % Z).to(tl.int64)
    y = (program // (blocks * H * Z)).to(tl.int64)
    line = (y * Z + z) * H + h
    q = q_ptr + y * q_y + z * q_z + h * q_h
    do = do_ptr + y * do_y + z * do_z + h * do_h
    qf = qf_ptr + y * qf_y + z * qf_z + h * qf_h
    bias = bias_ptr + y * bias_y + z * bias_z + h * bias_h
    origin = tl.zeros([], tl.int32)

    keys = block * BLOCK_N + tl.arange(0, BLOCK_N)
    k = query_channels(k_ptr + y * k_y + z * k_z + h * k_h, k_n, k_d, keys, N, 0, BLOCK_D, D)
    v = query_channels(v_ptr + y * v_y + z * v_z + h * v_h, v_n, v_d, keys, N, 0, BLOCK_DV, DV)
    closed = closed_keys(closed_ptr + y * closed_y + z * closed_z, keys, N, HAS_MASK)
    rank = RANK
    if HAS_RANKS:
        rank = tl.minimum(tl.load(ranks_ptr + h), RANK)
    kf = kf_ptr + y * kf_y + z * kf_z + h * kf_h
    kf0, kf1, kf2, kf3 = k, k, k, k
    if C0:
        kf0 = query_channels(kf, kf_n, kf_r, keys, N, 0, C0, rank)
    if C1:
        kf1 = query_channels(kf, kf_n, kf_r, keys, N, C0, C1, rank)
    if C2:
        kf2 = query_channels(kf, kf_n, kf_r, keys, N, C0 + C1, C2, rank)
    if C3:
        kf3 = query_channels(kf, kf_n, kf_r, keys, N, C0 + C1 + C2, C3, rank)

    begin = 0
    if CAUSAL:
        begin = (block * BLOCK_N // BLOCK_M) * BLOCK_M
    EXACT: tl.constexpr = k.dtype == tl.float32
    lines = tl.arange(0, BLOCK_M)
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_DV], tl.float32)
    d0, d1, d2, d3 = dk, dk, dk, dk
    if FACTORS:
        d0 = tl.zeros([BLOCK_N, C0 if C0 else 16], tl.float32)
        d1 = tl.zeros([BLOCK_N, C1 if C1 else 16], tl.float32)
        d2 = tl.zeros([BLOCK_N, C2 if C2 else 16], tl.float32)
        d3 = tl.zeros([BLOCK_N, C3 if C3 else 16], tl.float32)
    for first in range(begin, M, BLOCK_M):
        start = origin + first
        rows = start + lines
        tile = key_channels(q, q_m, q_d, start, lines, M, 0, BLOCK_D, BLOCK_D == D, D, True)
        tile = scaled(tile, scale, BINARY)  # rounded as in the forward pass
        sums = _sums(lse_ptr + line * M, start, lines, M, BINARY)
        scores = tl.zeros([BLOCK_N, BLOCK_M], tl.float32) + closed[:, None]
        if CAUSAL:
            scores = tl.where(keys[:, None] <= rows[None, :], scores, NEVER)
        if HAS_BIAS:
            known = tl.load(
                bias + rows.to(tl.int64)[None, :] * bias_m + keys.to(tl.int64)[:, None] * bias_n,
                mask=(rows < M)[None, :] & (keys < N)[:, None], other=0.0,
            ).to(tl.float32)  # fmt: skip
            if BINARY:
                scores += known * LOG2_E - sums[None, :]
            elif not EXACT:
                scores += known
        scores = product(k, tile, scores, PRECISION, WIDEN)
        if C0:
            qf0 = key_channels(qf, qf_m, qf_r, start, lines, M, 0, C0, False, rank, True)
            scores = product(kf0, qf0, scores, PRECISION, WIDEN)
        if C1:
            qf1 = key_channels(qf, qf_m, qf_r, start, lines, M, C0, C1, False, rank, True)
            scores = product(kf1, qf1, scores, PRECISION, WIDEN)
        if C2:
            qf2 = key_channels(qf, qf_m, qf_r, start, lines, M, C0 + C1, C2, False, rank, True)
            scores = product(kf2, qf2, scores, PRECISION, WIDEN)
        if C3:
            qf3 = key_channels(qf, qf_m, qf_r, start, lines, M, C0 + C1 + C2, C3, False, rank, True)
            scores = product(kf3, qf3, scores, PRECISION, WIDEN)
        if HAS_BIAS and EXACT:
            scores = scores - (0.0 - known)
        weights = weights_of(scores, sums[None, :], BINARY, EXACT)
        through = key_channels(do, do_m, do_d, start, lines, M, 0, BLOCK_DV, BLOCK_DV == DV, DV, True)
        dv = product(weights.to(v.dtype), tl.trans(through), dv, PRECISION, WIDEN)
        delta = tl.load(delta_ptr + line * M + rows, mask=rows < M, other=0.0)
        ds = weights * (
            product(v, through, tl.zeros([BLOCK_N, BLOCK_M], tl.float32), PRECISION, WIDEN) - delta[None, :]
        )
        dk = product(ds.to(k.dtype), tl.trans(tile), dk, PRECISION, WIDEN)
        if FACTORS:
            along = ds.to(qf_ptr.dtype.element_ty)
            if C0:
                d0 = product(along, tl.trans(qf0), d0, PRECISION, WIDEN)
            if C1:
                d1 = product(along, tl.trans(qf1), d1, PRECISION, WIDEN)
            if C2:
                d2 = product(along, tl.trans(qf2), d2, PRECISION, WIDEN)
            if C3:
                d3 = product(along, tl.trans(qf3), d3, PRECISION, WIDEN)

    if BINARY:
        dk = dk * LN_2
    _store(dk_ptr + line * N * D, keys, N, dk, D, 0, BLOCK_D, D)
    _store(dv_ptr + line * N * DV, keys, N, dv, DV, 0, BLOCK_DV, DV)
    if FACTORS:
        dkf = dkf_ptr + line * N * RANK
        if C0:
            _store(dkf, keys, N, d0, RANK, 0, C0, RANK)
        if C1:
            _store(dkf, keys, N, d1, RANK, C0, C1, RANK)
        if C2:
            _store(dkf, keys, N, d2, RANK, C0 + C1, C2, RANK)
        if C3:
            _store(dkf, keys, N, d3, RANK, C0 + C1 + C2, C3, RANK)


@triton.jit
def pairs_kernel(
    q_ptr, k_ptr, v_ptr, qf_ptr, kf_ptr, bias_ptr, ranks_ptr, closed_ptr, do_ptr,
    lse_ptr, delta_ptr, dpairs_ptr,
    q_y, q_z, q_h, q_m, q_d,
    k_y, k_z, k_h, k_n, k_d,
    v_y, v_z, v_h, v_n, v_d,
    qf_y, qf_z, qf_h, qf_m, qf_r,
    kf_y, kf_z, kf_h, kf_n, kf_r,
    bias_y, bias_z, bias_h, bias_m, bias_n,
    do_y, do_z, do_h, do_m, do_d,
    dpairs_y, dpairs_z, dpairs_h, dpairs_m, dpairs_n,
    closed_y, closed_z, closed_n,
    Y, Z, H, M, N,
    scale,
    D: tl.constexpr, DV: tl.constexpr, RANK: tl.constexpr,
    C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, HAS_RANKS: tl.constexpr, CAUSAL: tl.constexpr,
    BINARY: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """Add a tile's gradient of the scores, summed over the leading dimensions that share it: stride 0."""
    m_blocks, n_blocks = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    y_shared, z_shared = tl.where(dpairs_y == 0, Y, 1), tl.where(dpairs_z == 0, Z, 1)
    own_z = Z // z_shared
    program = tl.program_id(0)
    rows = (program // n_blocks) % m_blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    keys = tl.arange(0, BLOCK_N)
    start = program % n_blocks * BLOCK_N
    program = program // (m_blocks * n_blocks)
    h = (program % H).to(tl.int64)
    first_z = ((program // H) % own_z).to(tl.int64)
    first_y = (program // (H * own_z)).to(tl.int64)
    origin = tl.zeros([], tl.int32)
    rank = RANK
    if HAS_RANKS:
        rank = tl.minimum(tl.load(ranks_ptr + h), RANK)

    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for shared in range(y_shared * z_shared):
        y = first_y + (origin + shared) // z_shared
        z = first_z + (origin + shared) % z_shared
        line = (y * Z + z) * H + h
        q = query_channels(q_ptr + y * q_y + z * q_z + h * q_h, q_m, q_d, rows, M, 0, BLOCK_D, D)
        q = scaled(q, scale, BINARY)
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
        sums = _sums(lse_ptr + line * M, origin, rows, M, BINARY)
        scores = scores_of(
            q, qf0, qf1, qf2, qf3,
            k_ptr + y * k_y + z * k_z + h * k_h, kf_ptr + y * kf_y + z * kf_z + h * kf_h,
            bias_ptr + y * bias_y + z * bias_z + h * bias_h, closed_ptr + y * closed_y + z * closed_z,
            k_n, k_d, kf_n, kf_r, bias_m, bias_n, rows, sums, start, keys, M, N, rank,
            D, RANK, C0, C1, C2, C3, HAS_BIAS, HAS_MASK, HAS_RANKS, CAUSAL, BINARY,
            PRECISION, WIDEN, BLOCK_D, True,
        )  # fmt: skip
        do = query_channels(do_ptr + y * do_y + z * do_z + h * do_h, do_m, do_d, rows, M, 0, BLOCK_DV, DV)
        delta = tl.load(delta_ptr + line * M + rows, mask=rows < M, other=0.0)
        v = v_ptr + y * v_y + z * v_z + h * v_h
        total += _score_gradient(
            do, scores, sums, delta, v, v_n, v_d, start, keys, N, DV, BLOCK_DV, BINARY, PRECISION, WIDEN
        )

    tile = (
        dpairs_ptr + first_y * dpairs_y + first_z * dpairs_z + h * dpairs_h
        + rows.to(tl.int64)[:, None] * dpairs_m + (start + keys).to(tl.int64)[None, :] * dpairs_n
    )  # fmt: skip
    kept = (rows < M)[:, None] & (start + keys < N)[None, :]
    tl.store(tile, tl.load(tile, mask=kept, other=0.0) + total, mask=kept)
