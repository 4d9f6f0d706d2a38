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

from flashbias_kernels.tiles import NEVER, product, query_channels, scores_of, values_of, weights_of

LN_2 = tl.constexpr(0.6931471805599453)
LEVEL_KEYS = tl.constexpr(16)


@triton.jit
def _add(acc, total, scores, level, values, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """Add what a tile of keys contributes."""
    weights = weights_of(scores, level, values.dtype == tl.float32)
    acc = product(weights.to(values.dtype), values, acc, PRECISION, WIDEN)
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
    Y, Z, H, M, N,
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
    q = query_channels(q_ptr + y * q_y + z * q_z + h * q_h, q_m, q_d, rows, M, 0, BLOCK_D, D)
    q = (q.to(tl.float32) * scale).to(q.dtype)
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
    again = origin == 0  # true, and no constant
    for _ in range(2):  # Triton 3.3 has no `while` for sm_90
        if again:
            level = tl.full([BLOCK_M], NEVER, tl.float32)
            for first in range(0, looked_at, LEVEL_KEYS):
                scores = scores_of(
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
                scores = scores_of(
                    q, qf0, qf1, qf2, qf3, k, kf, bias, mask,
                    k_n, k_d, kf_n, kf_r, bias_m, bias_n, mask_n, rows, origin + first, keys, M, N, rank,
                    D, RANK, C0, C1, C2, C3, HAS_BIAS, HAS_MASK, HAS_RANKS, CAUSAL,
                    PRECISION, FACTOR_PRECISION, WIDEN, BLOCK_D, False,
                )  # fmt: skip
                values = values_of(v, v_n, v_d, origin + first, keys, N, DV, BLOCK_DV, False)
                acc, total = _add(acc, total, scores, level, values, PRECISION, WIDEN)
            if whole < end:
                scores = scores_of(
                    q, qf0, qf1, qf2, qf3, k, kf, bias, mask,
                    k_n, k_d, kf_n, kf_r, bias_m, bias_n, mask_n, rows, origin + whole, keys, M, N, rank,
                    D, RANK, C0, C1, C2, C3, HAS_BIAS, HAS_MASK, HAS_RANKS, CAUSAL,
                    PRECISION, FACTOR_PRECISION, WIDEN, BLOCK_D, True,
                )  # fmt: skip
                values = values_of(v, v_n, v_d, origin + whole, keys, N, DV, BLOCK_DV, True)
                acc, total = _add(acc, total, scores, level, values, PRECISION, WIDEN)
            # A key that set the level has a weight of 1; a row with less in all saw none. NaN is not finite.
            trusted = (total > 0.5) & (total <= PATIENCE)
            finite = tl.max(tl.where(tl.abs(acc) < float("inf"), 0, 1)) == 0
            unsure = tl.min((trusted | (rows >= M)).to(tl.int32), 0) == 0
            again = (unsure | ~finite) & (looked_at < end)
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
