"""The kernels around triangle attention against float64, over odd sizes, dtypes, layouts, extreme values."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lengths import at_length
from problems import DEVICE
from rounding import DTYPES, OPERANDS, ROUNDING, bar, distance, normal

from flashbias_kernels import HeadWeights, Norm, add_output, project_heads, reference_heads, reference_output
from flashbias_kernels.projections import heads_call, output_call, why_not_added, why_not_fused


def some_weights(channels, units, heads, dtype=torch.float16, scaled=True, shifted=True, seed=0):
    """Weights with the spread of trained ones, in float32 and as the kernel has them."""
    layers = [normal(units // 4, channels, seed=seed + i, scale=channels**-0.5).to(DEVICE) for i in range(4)]
    bias = normal(heads, channels, seed=seed + 4, scale=channels**-0.5).to(DEVICE)
    norm = Norm(
        (1 + 0.3 * normal(channels, seed=seed + 5)).to(DEVICE) if scaled else None,
        (0.3 * normal(channels, seed=seed + 6)).to(DEVICE) if shifted else None,
    )
    return tuple(HeadWeights.pack(layers, bias, norm, dtype=own) for own in (None, dtype))


def some_pairs(data, channels, dtype):
    """Pairs of any shape and size, as they are or transposed."""
    some = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731
    shape = some((1, 1), (3, 7), (1, 16), (5, 17), (2, 33), (2, 3, 5), (2, 1, 4, 3))
    x = normal(*shape, channels, seed=data.draw(st.integers(0, 99)))
    x = (x * some(1e-4, 1.0, 30.0, 1e4) + some(0.0, 3.0)).clamp(-6e4, 6e4).to(DEVICE, dtype)
    return x.transpose(-2, -3) if some(True, False) else x


@settings(max_examples=at_length(8, 40))
@given(data=st.data())
def test_heads_are_as_right_as_by_torch_in_the_same_dtype(data):
    some = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731
    channels, units, heads = some(16, 32, 64), some(64, 128), some(1, 4, 8, 16)
    dtype, operands = some(*DTYPES), some(*OPERANDS)
    exact, weights = some_weights(channels, units, heads, operands, some(True, False), some(True, False))
    x = some_pairs(data, channels, dtype)
    with_units, with_bias = some((True, True), (True, False), (False, True))
    assert why_not_fused(x, units, heads, operands) is None
    found = project_heads(x, weights, with_units=with_units, with_bias=with_bias)
    wanted = zip(
        found,
        reference_heads(x, exact),
        reference_heads(x, weights, operands),
        (with_units, with_bias),
        strict=True,
    )
    for own, right, theirs, is_wanted in wanted:
        assert (own is not None) == is_wanted
        if own is not None:
            assert (own.dtype, own.shape) == (operands, right.shape)
            assert distance(own, right) <= bar(theirs, right, operands)


@settings(max_examples=at_length(8, 40))
@given(data=st.data())
def test_the_output_is_as_right_as_by_torch_in_the_same_dtype(data):
    some = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731
    channels, units = some(16, 32, 64), some(16, 64, 128)
    dtype, operands = some(*DTYPES), some(*OPERANDS)
    weight = normal(channels, units, scale=units**-0.5).to(DEVICE)
    x = some_pairs(data, channels, dtype)
    heads = normal(*x.shape[:-1], units, seed=1).to(DEVICE, operands)
    own = x.clone(memory_format=torch.preserve_format)
    assert why_not_added(own, heads, weight.to(operands)) is None
    right = reference_output(x, heads, weight)
    theirs = reference_output(x, heads, weight.to(operands), operands).to(dtype)
    assert add_output(own, heads, weight.to(operands)) is own
    assert distance(own, right) <= bar(theirs, right, dtype, operands)


def test_rows_of_a_bias_begin_where_the_attention_reads_them_fastest():
    _, weights = some_weights(16, 64, 4)
    bias = project_heads(normal(5, 17, 16).to(DEVICE), weights).bias
    assert bias.shape == (4, 5, 17)
    assert bias.stride() == (5 * 32, 32, 1)


def test_what_is_not_a_number_stays_in_its_place():
    _, weights = some_weights(16, 64, 4)
    x = normal(3, 20, 16).to(DEVICE)
    clean = project_heads(x, weights)
    x[1, 5, 7] = float("nan")
    found = project_heads(x, weights)
    others = torch.ones(3, 20, dtype=torch.bool, device=DEVICE)
    others[1, 5] = False
    assert torch.isnan(found.units[1, 5]).all() and torch.isnan(found.bias[:, 1, 5]).all()
    assert torch.equal(found.units[others], clean.units[others])
    assert torch.equal(found.bias[:, others], clean.bias[:, others])


def test_every_place_is_written_and_nothing_else():
    """Next to the outputs lies poison."""
    _, weights = some_weights(16, 64, 4)
    pairs = normal(1, 3, 19, 16).to(DEVICE)
    nan = float("nan")
    buffer = torch.full((40 + 3 * 19 * 64,), nan, device=DEVICE, dtype=torch.float16)
    room = torch.full((1, 6, 3, 32), nan, device=DEVICE, dtype=torch.float16)
    units, bias = buffer[20:-20].view(1, 3, 19, 64), room[:, 1:5, :, :19]
    heads_call(pairs, weights, units, bias).run()
    assert torch.isfinite(units).all() and torch.isfinite(bias).all()
    assert torch.isnan(buffer[:20]).all() and torch.isnan(buffer[-20:]).all()
    assert torch.isnan(room[:, [0, 5]]).all() and torch.isnan(room[..., 19:]).all()
    around = torch.full((1, 5, 21, 16), nan, device=DEVICE)
    own = around[:, 1:4, 1:20]
    own.copy_(pairs)
    output_call(own, units, normal(16, 64).to(DEVICE, torch.float16)).run()
    assert torch.isfinite(own).all()
    assert torch.isnan(around).sum() == around.numel() - own.numel()


@pytest.mark.parametrize(
    ("channels", "units", "heads", "operands", "reason"),
    [
        (24, 64, 4, torch.bfloat16, "24 channels"),
        (16, 48, 4, torch.float16, "48 units"),
        (16, 64, 17, torch.float16, "17 heads"),
        (16, 64, 4, torch.float32, "float32"),
    ],
)
def test_what_the_kernels_do_not_take_torch_computes(channels, units, heads, operands, reason):
    exact, weights = some_weights(channels, units, heads, operands)
    x = normal(3, 5, channels).to(DEVICE)
    assert reason in why_not_fused(x, units, heads, operands)
    found, right = project_heads(x, weights), reference_heads(x, exact, operands)
    for own, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(own, theirs, rtol=2e-2, atol=2e-2)
    weight = normal(channels, units).to(DEVICE, torch.float64)
    before = x.clone()
    assert "float64" in why_not_added(x, found.units.double(), weight)
    assert add_output(x, found.units.double(), weight) is x
    torch.testing.assert_close(x, before + found.units.float() @ weight.float().T, rtol=1e-4, atol=1e-4)


def test_leading_dimensions_that_do_not_merge_are_added_to_where_they_lie():
    weight = normal(16, 64).to(DEVICE, torch.float16)
    x = normal(2, 3, 4, 5, 16).to(DEVICE).transpose(0, 1)
    before = x.clone()
    heads = normal(3, 2, 4, 5, 64, seed=1).to(DEVICE, torch.float16)
    assert add_output(x, heads, weight) is x
    torch.testing.assert_close(x.double(), reference_output(before, heads, weight), rtol=1e-2, atol=1e-2)


def test_nothing_in_nothing_out():
    _, weights = some_weights(16, 64, 4)
    x = torch.empty(0, 5, 16, device=DEVICE)
    found = project_heads(x, weights)
    assert (found.units.shape, found.bias.shape) == ((0, 5, 64), (4, 0, 5))
    assert add_output(x, found.units, normal(16, 64).to(DEVICE, torch.float16)) is x


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="tiles as large as a GPU's take the interpreter minutes")
@pytest.mark.parametrize("channels", [64, 128, 256])
@pytest.mark.parametrize("ending", [True, False])
def test_the_block_sizes_of_a_gpu_are_right(channels, ending):
    units, heads = 4 * channels, channels // 32
    exact, weights = some_weights(channels, units, heads, torch.bfloat16)
    x = normal(100, 257, channels).to(DEVICE, torch.bfloat16)
    x = x.transpose(0, 1) if ending else x
    found = project_heads(x, weights)
    theirs = reference_heads(x, weights, torch.bfloat16)
    for own, right, other in zip(found, reference_heads(x, exact), theirs, strict=True):
        assert distance(own, right) <= 1.5 * distance(other, right) + ROUNDING[own.dtype] / 8
    weight = normal(channels, channels, scale=channels**-0.5).to(DEVICE, torch.bfloat16)
    attended = found.units[..., :channels].contiguous()
    right = reference_output(x, attended, weight)
    other = reference_output(x, attended, weight, torch.bfloat16).to(x.dtype)
    assert distance(add_output(x, attended, weight), right) <= 1.5 * distance(other, right) + 2**-11
