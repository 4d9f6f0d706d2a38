"""Sums of rows in Triton: a program for some columns of one sum."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row_sums_kernel(
    rows_ptr, order_ptr, starts_ptr, out_ptr,
    n, columns, rows_batch, rows_row,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Add the rows of one sum, one after the other, in fp32; batches of rows lie `rows_batch` apart."""
    batch, target = (tl.program_id(0) // n).to(tl.int64), tl.program_id(0) % n
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    there = column < columns
    first, last = tl.load(starts_ptr + target), tl.load(starts_ptr + target + 1)
    total = tl.zeros([WIDTH], dtype=tl.float32)
    for place in range(first, last):
        row = rows_ptr + batch * rows_batch + tl.load(order_ptr + place) * rows_row
        total += tl.load(row + column, mask=there, other=0.0).to(tl.float32)
    out = out_ptr + (batch * n + target) * columns + column
    tl.store(out, total.to(out_ptr.dtype.element_ty), mask=there)
