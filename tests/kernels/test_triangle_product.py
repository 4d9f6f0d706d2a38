"""Fused triangle multiplication against float64, over odd sizes, dtypes, masks, layouts, extremes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lengths import at_length
from problems import DEVICE
from rounding import DTYPES, OPERANDS, ROUNDING, bar, distance, normal

from flashbias_kernels import (
    Norm,
    TriangleWeights,
    reference_triangle_multiplication,
    triangle_multiplication,
    tuning,
)
from flashbias_kernels.triangle_product import edges_call, update_call, why_not_fused


def some_weights(channels, hidden, dtype=torch.float16, scaled=True, shifted=True, seed=0):
    """Weights with the spread of trained ones, in float32 and as the kernels have them."""
    shapes = [(hidden, channels)] * 4 + [(channels, hidden), (channels, channels)]
    linears = [normal(*shape, seed=seed + i, scale=shape[1] ** -0.5) for i, shape in enumerate(shapes)]
    *edges, update, update_gate = (weight.to(DEVICE) for weight in linears)
    norms = [
        Norm(
            (1 + 0.3 * normal(width, seed=seed + 7)).to(DEVICE) if scaled else None,
            (0.3 * normal(width, seed=seed + 8)).to(DEVICE) if shifted else None,
        )
        for width in (channels, hidden)
    ]
    return tuple(
        TriangleWeights.pack(tuple(edges[:2]), tuple(edges[2:]), update, update_gate, *norms, dtype=own)
        for own in (None, dtype)
    )


@settings(max_examples=at_length(8, 40))
@given(data=st.data())
def test_as_right_as_torch_in_the_same_dtype(data):
    some = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731
    leading, length = some((), (), (2,), (1, 2)), some(1, 2, 7, 15, 16, 17, 33)
    channels, hidden = some((16, 16), (32, 32), (32, 16), (16, 64), (64, 64))
    dtype, operands = some(*DTYPES), some(*OPERANDS)
    seed = data.draw(st.integers(0, 99))
    exact, weights = some_weights(channels, hidden, operands, some(True, False), some(True, False), seed)
    x = normal(*leading, length, length, channels, seed=seed)
    x = (x * some(1e-4, 1.0, 30.0, 1e4) + some(0.0, 3.0)).clamp(-6e4, 6e4).to(DEVICE, dtype)
    if some(True, False):
        x = x.transpose(-2, -3)
    mask = None
    if some(True, False):
        kept = torch.rand(x.shape[:-1], generator=torch.Generator().manual_seed(seed)) > 0.3
        mask = kept.to(DEVICE, some(torch.float32, dtype))
    options = {"outgoing": some(True, False), "add_input": some(True, False)}
    in_place = some(True, False)
    assert why_not_fused(x, hidden, operands) is None
    right = reference_triangle_multiplication(x, exact, mask, **options)
    theirs = reference_triangle_multiplication(x, weights, mask, operands, **options).to(dtype)
    own = x.clone(memory_format=torch.preserve_format)
    found = triangle_multiplication(own, weights, mask, in_place=in_place, **options)
    assert (found.dtype, found.shape) == (dtype, x.shape)
    assert found is own if in_place else torch.equal(own, x)
    assert distance(found, right) <= bar(theirs, right, dtype, operands)


@pytest.mark.parametrize("outgoing", [True, False])
def test_the_reference_is_the_definition(outgoing):
    """As AlphaFold 3's algorithms 12 and 13 have it, in plain loops."""
    exact, _ = some_weights(16, 16)
    n, x, mask = 3, normal(3, 3, 16).double().to(DEVICE), (normal(3, 3, seed=1) > 0).to(DEVICE)
    y = exact.norm.of(x)
    edges = torch.sigmoid(y @ exact.gate.double().T) * (y @ exact.value.double().T) * mask[..., None]
    a, b = edges[..., :16], edges[..., 16:]
    products = torch.zeros_like(a)
    for i in range(n):
        for j in range(n):
            for k in range(n):
                products[i, j] += a[i, k] * b[j, k] if outgoing else a[k, i] * b[k, j]
    gate = torch.sigmoid(y @ exact.update_gate.double().T)
    right = exact.product_norm.of(products) @ exact.update.double().T * gate
    found = reference_triangle_multiplication(x, exact, mask, outgoing=outgoing)
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("outgoing", [True, False])
def test_masked_edges_have_no_part_in_it(outgoing):
    """Whatever their numbers are, as long as they are finite."""
    _, weights = some_weights(16, 16)
    x = normal(9, 9, 16).to(DEVICE)
    mask = torch.ones(9, 9, device=DEVICE)
    mask[6:], mask[:, 6:] = 0, 0
    first = triangle_multiplication(x, weights, mask, outgoing=outgoing)
    x[6:], x[:, 6:] = 1e4, -1e4
    second = triangle_multiplication(x, weights, mask, outgoing=outgoing)
    assert torch.equal(first[:6, :6], second[:6, :6])
    alone = triangle_multiplication(x[:6, :6].contiguous(), weights, outgoing=outgoing)
    torch.testing.assert_close(first[:6, :6], alone, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("outgoing", [True, False])
def test_what_is_not_a_number_stays_in_its_triangles(outgoing):
    _, weights = some_weights(16, 16)
    x = normal(20, 20, 16).to(DEVICE)
    clean = triangle_multiplication(x, weights, outgoing=outgoing)
    x[3, 5, 7] = float("nan")
    found = triangle_multiplication(x, weights, outgoing=outgoing)
    row, column = (3, 3) if outgoing else (5, 5)
    assert (
        torch.isnan(found[row]).all()
        and torch.isnan(found[:, column]).all()
        and torch.isnan(found[3, 5]).all()
    )
    others = torch.ones(20, 20, dtype=torch.bool, device=DEVICE)
    others[row], others[:, column], others[3, 5] = False, False, False
    assert torch.equal(found[others], clean[others])


def test_every_place_is_written_and_nothing_else():
    """Next to the outputs lies poison; so it does in what is not written of the products."""
    _, weights = some_weights(16, 16)
    pairs = normal(1, 19, 19, 16).to(DEVICE)
    edges = torch.full((33, 19, 32), float("nan"), device=DEVICE, dtype=torch.float16)
    edges_call(pairs, weights, None, edges[:32]).run()
    assert torch.isfinite(edges[:32]).all() and torch.isnan(edges[32]).all()
    assert not edges[:32, :, 19:].any()  # so that it may be summed over
    buffer = torch.full((60 + pairs.numel(),), float("nan"), device=DEVICE)
    out = buffer[30:-30].view(pairs.shape)
    products = edges[:16]
    products[..., 19:] = float("nan")
    update_call(pairs, products, weights, out, add_input=True).run()
    assert torch.isfinite(out).all()
    assert torch.isnan(buffer[:30]).all() and torch.isnan(buffer[-30:]).all()


@pytest.mark.parametrize(
    ("channels", "hidden", "operands", "reason"),
    [
        (24, 16, torch.bfloat16, "24 channels"),
        (16, 48, torch.float16, "edges of 48"),
        (16, 16, torch.float64, "float64"),
        (16, 16, torch.float32, "float32"),
    ],
)
def test_what_the_kernels_do_not_take_torch_computes(channels, hidden, operands, reason):
    _, weights = some_weights(channels, hidden, operands)
    x = normal(5, 5, channels).to(DEVICE)
    assert reason in why_not_fused(x, hidden, operands)
    found = triangle_multiplication(x, weights, outgoing=True, add_input=True)
    right = reference_triangle_multiplication(x, weights, None, operands, outgoing=True, add_input=True)
    assert torch.equal(found, right.to(x.dtype))
    assert triangle_multiplication(x, weights, outgoing=True, add_input=True, in_place=True) is x
    assert torch.equal(x, found)


def test_shapes_that_do_not_fit_are_named():
    _, weights = some_weights(16, 16)
    with pytest.raises(ValueError, match=r"x: expected \(\.\.\., N, N, C\), got \(3, 4, 16\)"):
        triangle_multiplication(torch.zeros(3, 4, 16), weights, outgoing=True)
    with pytest.raises(ValueError, match=r"mask: expected \(3, 3\), got \(3,\)"):
        triangle_multiplication(torch.zeros(3, 3, 16), weights, torch.ones(3), outgoing=True)


def test_nothing_in_nothing_out():
    _, weights = some_weights(16, 16)
    x = torch.empty(0, 5, 5, 16, device=DEVICE)
    assert triangle_multiplication(x, weights, outgoing=False).shape == x.shape


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="tiles as large as a GPU's take the interpreter minutes")
@pytest.mark.parametrize("channels", [64, 128, 256])
@pytest.mark.parametrize("length", [100, 257])
@pytest.mark.parametrize("outgoing", [True, False])
def test_the_block_sizes_of_a_gpu_are_right(channels, length, outgoing):
    exact, weights = some_weights(channels, channels, torch.bfloat16)
    x = normal(length, length, channels).to(DEVICE, torch.bfloat16)
    right = reference_triangle_multiplication(x, exact, outgoing=outgoing, add_input=True)
    theirs = reference_triangle_multiplication(
        x, weights, None, torch.bfloat16, outgoing=outgoing, add_input=True
    )
    found = triangle_multiplication(x, weights, outgoing=outgoing, add_input=True)
    assert distance(found, right) <= 1.5 * distance(theirs.to(x.dtype), right) + ROUNDING[x.dtype] / 8


def test_tables_end_with_a_row_for_all():
    for table in tuning.PAIR_TABLES.values():
        assert table[-1].channels == 256 and table[-1].since == 80
