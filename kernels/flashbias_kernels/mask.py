"""The key mask as the kernels want it: what to add to the scores, and where there is nothing to add."""

from __future__ import annotations

import triton
import triton.language as tl

from flashbias_kernels.tiles import NEVER


@triton.jit
def mask_kernel(mask_ptr, closed_ptr, span_ptr, mask_line, mask_n, N, BLOCK: tl.constexpr):
    """Of a line of the mask: -inf for each closed key and 0 for the others; the first closed key, and the end
    of the open ones.
    """
    line = tl.program_id(0).to(tl.int64)
    first_closed = tl.full([BLOCK], N, tl.int32)
    end = tl.zeros([BLOCK], tl.int32)
    for first in range(0, N, BLOCK):
        keys = first + tl.arange(0, BLOCK)
        pointers = mask_ptr + line * mask_line + keys.to(tl.int64) * mask_n
        is_open = tl.load(pointers, mask=keys < N, other=1) != 0
        tl.store(closed_ptr + line * N + keys, tl.where(is_open, 0.0, NEVER), mask=keys < N)
        first_closed = tl.minimum(first_closed, tl.where(is_open, N, keys))
        end = tl.maximum(end, tl.where(is_open & (keys < N), keys + 1, 0))
    tl.store(span_ptr + line * 2, tl.min(first_closed, 0))
    tl.store(span_ptr + line * 2 + 1, tl.max(end, 0))
