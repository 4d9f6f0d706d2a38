"""The fused transition against float64, over odd sizes, dtypes, layouts and extreme values."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import DEVICE

from flashbias_kernels import TransitionWeights, reference_transition, transition, tuning
from flashbias_kernels.transition import transition_call, why_not_fused

OPERANDS = (torch.bfloat16, torch.float16)
DTYPES = (*OPERANDS, torch.float32)
# How far a result may be from float64's, relative to the same by torch in the same dtypes.
FACTOR = 1.5
# Where a GPU rounds to bf16, Triton's interpreter cuts digits off: twice as far, and always towards zero.
# Torch made to do the same gives the same.
CUT_OFF = 1.0 if DEVICE == "cuda" else 2.0
# Where torch is as good as this, it was lucky.
ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float32: 2**-22}


def normal(*shape, seed=0, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some_weights(channels, hidden, dtype=torch.float16, scaled=True, shifted=True, seed=0):
    """Weights with the spread of trained ones, in float32 and as the kernel has them."""
    linears = [normal(hidden, channels, seed=seed + i, scale=channels**-0.5) for i in (1, 2)]
    linears.append(normal(channels, hidden, seed=seed + 3, scale=hidden**-0.5))
    scale = 1 + 0.3 * normal(channels, seed=seed + 4) if scaled else None
    shift = 0.3 * normal(channels, seed=seed + 5) if shifted else None
    moved = [None if t is None else t.to(DEVICE) for t in (*linears, scale, shift)]
    return TransitionWeights.pack(*moved), TransitionWeights.pack(*moved, dtype=dtype)


def distance(found, right):
    return float((found.double() - right).norm() / right.norm().clamp(min=1e-30))


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_as_right_as_torch_in_the_same_dtype(data):
    some = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731
    shape = some((1,), (7,), (16,), (17,), (33,), (5, 7), (2, 3, 5))
    channels, hidden = some((16, 64), (32, 64), (32, 128), (64, 128))
    dtype, operands = some(*DTYPES), some(*OPERANDS)
    exact, weights = some_weights(
        channels, hidden, operands, some(True, False), some(True, False), seed=data.draw(st.integers(0, 99))
    )
    x = normal(*shape, channels, seed=data.draw(st.integers(0, 999)))
    x = (x * some(1e-4, 1.0, 30.0, 1e4) + some(0.0, 3.0)).clamp(-6e4, 6e4).to(DEVICE, dtype)
    if len(shape) > 1 and some(True, False):
        x = x.transpose(0, 1)
    add, in_place = some(True, False), some(True, False)
    assert why_not_fused(x, hidden, operands) is None
    right = reference_transition(x, exact, add_input=add)
    theirs = reference_transition(x, weights, operands, add_input=add).to(dtype)
    own = x.clone(memory_format=torch.preserve_format)
    found = transition(own, weights, add_input=add, in_place=in_place)
    assert (found.dtype, found.shape) == (dtype, x.shape)
    assert found is own if in_place else torch.equal(own, x)
    bar = FACTOR * max(distance(theirs, right), ROUNDING[dtype] / 2, ROUNDING[operands] / 2)
    assert distance(found, right) <= bar * (CUT_OFF if torch.bfloat16 in (dtype, operands) else 1)


@pytest.mark.parametrize("value", [0.0, 1.0, -3e4])
def test_places_that_are_all_the_same_have_no_variance(value):
    _, weights = some_weights(16, 64, shifted=False)
    x = torch.full((5, 16), value, device=DEVICE)
    torch.testing.assert_close(transition(x, weights), torch.zeros_like(x), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")
@pytest.mark.parametrize("size", [1e3, 1e18])
def test_a_hidden_unit_far_out_does_not_overflow(size):
    """SiLU of a large negative number is zero, though the exponential in it is infinite."""
    gate = size * torch.ones(64, 16, device=DEVICE, dtype=torch.bfloat16)
    weights = TransitionWeights.pack(
        gate,
        torch.ones_like(gate),
        torch.ones(16, 64, device=DEVICE, dtype=gate.dtype),
        norm_bias=-torch.ones(16, device=DEVICE),
    )
    x = normal(9, 16).to(DEVICE)
    found = transition(x, weights)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, torch.zeros_like(x), atol=1e-4, rtol=0)


def test_what_is_not_a_number_stays_in_its_place():
    _, weights = some_weights(16, 64)
    x = normal(40, 16).to(DEVICE)
    clean = transition(x, weights)
    x[3, 5] = float("nan")
    found = transition(x, weights)
    assert torch.isnan(found[3]).all()
    others = torch.arange(40, device=DEVICE) != 3
    assert torch.equal(found[others], clean[others])


def test_every_place_is_written_and_nothing_else(monkeypatch):
    """Places beyond the last tile's own lie next to the output, poisoned."""
    _, weights = some_weights(16, 64)
    buffer = torch.full((80, 16), float("nan"), device=DEVICE)
    x = normal(37, 16).to(DEVICE)
    transition_call(x, weights, buffer[20:57], add_input=True).run()
    assert torch.isfinite(buffer[20:57]).all()
    assert torch.isnan(buffer[:20]).all() and torch.isnan(buffer[57:]).all()


@pytest.mark.parametrize(
    ("channels", "hidden", "operands", "reason"),
    [
        (24, 96, torch.bfloat16, "24 channels"),
        (16, 48, torch.float16, "48 hidden units"),
        (16, 64, torch.float64, "float64"),
        (16, 64, torch.float32, "TF32"),
    ],
)
def test_what_the_kernel_does_not_take_torch_computes(channels, hidden, operands, reason):
    _, weights = some_weights(channels, hidden, operands)
    x = normal(3, 5, channels).to(DEVICE)
    assert reason in why_not_fused(x, hidden, operands)
    found = transition(x, weights, add_input=True)
    assert torch.equal(found, reference_transition(x, weights, operands, add_input=True).to(x.dtype))
    assert transition(x, weights, add_input=True, in_place=True) is x
    assert torch.equal(x, found)


def test_packing_takes_turns_and_can_be_undone():
    gate, value, output = normal(64, 16), normal(64, 16, seed=1), normal(16, 64, seed=2)
    weights = TransitionWeights.pack(gate, value, output)
    assert torch.equal(weights.gate, gate) and torch.equal(weights.value, value)
    assert torch.equal(weights.gate_and_value[8:16], value[:8])


def test_nothing_in_nothing_out():
    _, weights = some_weights(16, 64)
    assert transition(torch.empty(0, 5, 16, device=DEVICE), weights).shape == (0, 5, 16)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="tiles as large as a GPU's take the interpreter minutes")
@pytest.mark.parametrize("row", [row for row in tuning.TRANSITION if row.blocks is not None], ids=str)
@pytest.mark.parametrize("pairs", DTYPES)
def test_every_row_of_the_block_sizes_is_right(row, pairs):
    if pairs == torch.float32 and not row.wide_places:
        pytest.skip("places of this row are in 16 bits")
    exact, weights = some_weights(row.channels, 4 * row.channels, torch.bfloat16)
    x = normal(1000, row.channels).to(DEVICE, pairs)
    out = torch.empty_like(x)
    transition_call(x, weights, out, add_input=True, blocks=row.blocks).run()
    right = reference_transition(x, exact, add_input=True)
    theirs = reference_transition(x, weights, torch.bfloat16, add_input=True).to(pairs)
    assert distance(out, right) <= 1.5 * distance(theirs, right) + ROUNDING[pairs] / 8
