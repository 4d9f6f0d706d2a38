"""Layer normalisation in Triton: a program for some places of a row, all channels of each."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def norm_kernel(
    x_ptr, weight_ptr, bias_ptr, out_ptr,
    inner, x_outer, x_inner, C, eps,
    HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr,
    PLACES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Write it; the output is contiguous, places of the input lie `x_outer` and `x_inner` apart."""
    blocks = tl.cdiv(inner, PLACES)
    outer = (tl.program_id(0) // blocks).to(tl.int64)
    first = (tl.program_id(0) % blocks) * PLACES
    place, channel = tl.arange(0, PLACES), tl.arange(0, WIDTH)
    there = (first + place < inner)[:, None] & (channel < C)[None, :]
    start = x_ptr + outer * x_outer + first.to(tl.int64) * x_inner
    x = tl.load(start + place[:, None] * x_inner + channel[None, :], mask=there, other=0.0).to(tl.float32)
    away = tl.where(there, x - (tl.sum(x, 1) / C)[:, None], 0.0)
    away = tl.where(there, away - (tl.sum(away, 1) / C)[:, None], 0.0)  # what rounding left of a large mean
    found = away * tl.rsqrt(tl.sum(away * away, 1) / C + eps)[:, None]
    if HAS_WEIGHT:
        found = found * tl.load(weight_ptr + channel, mask=channel < C, other=0.0).to(tl.float32)[None, :]
    if HAS_BIAS:
        found = found + tl.load(bias_ptr + channel, mask=channel < C, other=0.0).to(tl.float32)[None, :]
    target = out_ptr + (outer * inner + first) * C
    tl.store(target + place[:, None] * C + channel[None, :], found.to(out_ptr.dtype.element_ty), mask=there)
