"""Sums of the rows that belong together, in a fixed order: the same bytes in every run, on a GPU too.

torch's `scatter_add_` adds on a GPU in the order in which threads come.
"""

from __future__ import annotations

import math
from importlib.util import find_spec

import torch
from torch import Tensor

from flashbias_kernels.launch import interpreted

_HAVE_TRITON = find_spec("triton") is not None
_WIDEST = 512  # columns of a program


def sum_rows(rows: Tensor, index: Tensor, n: int) -> Tensor:
    """Sum the rows of the same index, one after the other as they lie, in fp32.

    Without gradients. Without a GPU, or without Triton, torch's segmented sum does it.

    Args:
        rows: ``(..., R, C)``.
        index: ``(R,)``, which of the sums each row belongs to: integers from 0 to `n - 1`, in any order.
        n: How many sums there are; one that has no row is 0.

    Returns:
        ``(..., n, C)``, of the type of `rows`.
    """
    order = torch.argsort(index, stable=True)
    starts = torch.searchsorted(index[order], torch.arange(n + 1, device=index.device))
    batch = rows.reshape(math.prod(rows.shape[:-2]), *rows.shape[-2:])
    if _HAVE_TRITON and (rows.is_cuda or interpreted()) and 1 in (batch.stride(-1), batch.shape[-1]):
        sums = _launch(batch, order, starts, n)
    else:
        sums = reference_sums(batch, order, starts)
    return sums.reshape(*rows.shape[:-2], n, rows.shape[-1])


def reference_sums(batch: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """Sum by torch what `order` brings together and `starts` divides.

    Args:
        batch: ``(B, R, C)``.
        order: ``(R,)``, the rows of the first sum, then those of the second, and so on.
        starts: ``(n + 1,)``, where in `order` each sum begins.
    """
    sorted_rows = batch.index_select(1, order).float()
    offsets = starts.expand(len(batch), -1).contiguous()
    sums = torch.segment_reduce(sorted_rows, "sum", offsets=offsets, axis=1, unsafe=True, initial=0)
    return sums.to(batch.dtype)


def _launch(batch: Tensor, order: Tensor, starts: Tensor, n: int) -> Tensor:
    from flashbias_kernels.row_sums_kernel import row_sums_kernel

    columns = batch.shape[-1]
    out = batch.new_empty((len(batch), n, columns))
    width = min(_WIDEST, max(16, 1 << (columns - 1).bit_length()))
    if out.numel():
        row_sums_kernel[(len(batch) * n, -(-columns // width))](
            batch, order, starts, out,
            n, columns, batch.stride(0), batch.stride(1),
            WIDTH=width,
            num_warps=4,
        )  # fmt: skip
    return out
