"""Sums of rows in a fixed order, by the kernel and by torch, against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbias_kernels import row_sums, sum_rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Of the sum of all magnitudes: 30 additions in fp32, and a last rounding to the type of the rows, in which
# Triton's interpreter cuts bf16 off instead.
BAR = {torch.float32: 2e-6, torch.bfloat16: 4e-3 if DEVICE == "cuda" else 8e-3, torch.float16: 5e-4}


def expected_sums(rows, index, n):
    """In float64; and the sums of magnitudes."""
    sums = torch.zeros(*rows.shape[:-2], n, rows.shape[-1], dtype=torch.float64)
    sizes = torch.zeros_like(sums)
    for place, target in enumerate(index.tolist()):
        sums[..., target, :] += rows[..., place, :].double().cpu()
        sizes[..., target, :] += rows[..., place, :].double().abs().cpu()
    return sums, sizes


@pytest.mark.parametrize("by_torch", [False, True], ids=["kernel", "torch"])
@settings(deadline=None, max_examples=8)
@given(
    index=st.lists(st.integers(0, 5), min_size=1, max_size=30),
    batch=st.sampled_from([(), (1,), (3,), (2, 3)]),
    columns=st.sampled_from([1, 7, 33, 600]),
    dtype=st.sampled_from(list(BAR)),
)
def test_rows_are_summed_where_their_index_says(by_torch, index, batch, columns, dtype):
    rows = torch.randn(*batch, len(index), columns, device=DEVICE).to(dtype)
    index = torch.tensor(index, device=DEVICE)
    with pytest.MonkeyPatch.context() as patch:
        if by_torch:
            patch.setattr(row_sums, "_HAVE_TRITON", False)
        sums = sum_rows(rows, index, 6)
    expected, sizes = expected_sums(rows, index, 6)
    assert sums.dtype == dtype
    assert ((sums.double().cpu() - expected).abs() <= BAR[dtype] * sizes).all()


@pytest.mark.parametrize("by_torch", [False, True], ids=["kernel", "torch"])
def test_the_order_is_that_of_the_rows(by_torch, monkeypatch):
    """In fp32 the sum of these depends on their order, so an equal sum was added in theirs."""
    if by_torch:
        monkeypatch.setattr(row_sums, "_HAVE_TRITON", False)
    values = [1e8, 1.0, -1e8, 1.0, 3.0, 1e-8]
    rows = torch.tensor(values, device=DEVICE).unsqueeze(-1)
    sums = sum_rows(rows, torch.tensor([2, 2, 2, 2, 0, 0], device=DEVICE), 3)
    in_order = torch.zeros(())
    for value in values[:4]:
        in_order = in_order + value
    assert sums[:, 0].tolist() == [3.0, 0.0, in_order.item()]


def test_rows_that_lie_apart_and_no_rows_at_all():
    wide = torch.randn(2, 9, 40, device=DEVICE)
    index = torch.tensor([0, 0, 1, 1, 1, 3, 3, 3, 3], device=DEVICE)
    apart = wide[:, :, 8:24]
    assert torch.equal(sum_rows(apart, index, 4), sum_rows(apart.contiguous(), index, 4))
    across = wide.transpose(1, 2)[:, :9]  # columns that are not next to each other
    torch.testing.assert_close(sum_rows(across, index, 4), sum_rows(across.contiguous(), index, 4))
    assert sum_rows(wide[:, :0], index[:0], 3).tolist() == torch.zeros(2, 3, 40).tolist()


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE != "cuda", reason="needs an NVIDIA GPU")
def test_a_gpu_gives_the_same_bytes_in_every_run():
    rows = torch.randn(5, 8000, 768, device=DEVICE)
    index = torch.randint(0, 1024, (8000,), device=DEVICE)
    first = sum_rows(rows, index, 1024)
    assert all(torch.equal(sum_rows(rows, index, 1024), first) for _ in range(20))
    torch.testing.assert_close(
        first, torch.zeros_like(first).index_add_(1, index, rows), rtol=1e-4, atol=1e-4
    )
