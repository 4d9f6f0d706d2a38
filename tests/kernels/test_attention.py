"""The fused attention against its definition in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbias_kernels import biased_attention, reference_attention

# Relative to the largest value: the unit roundoff of the type, times the few dozen operations between
# an input and an output (scores, exponential, weighted mean).
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def make(shape, *, dtype=torch.float32, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def assert_close(got, expected, dtype):
    assert torch.isfinite(got).all()
    scale = expected.abs().max().clamp_min(1e-3)
    assert float((got.double() - expected).abs().max() / scale) <= TOLERANCE[dtype]


@settings(max_examples=60, deadline=None)
@given(
    leading=st.sampled_from([(), (1,), (3,), (2, 3)]),
    heads=st.integers(1, 4),
    queries=st.integers(1, 70),
    keys=st.integers(1, 70),
    dim=st.sampled_from([8, 24, 32, 48]),
    dtype=st.sampled_from(list(TOLERANCE)),
    with_bias=st.booleans(),
    with_mask=st.booleans(),
    shared_bias=st.booleans(),
    spread=st.sampled_from([0.0, 1.0, 30.0]),
    seed=st.integers(0, 2**20),
)
def test_agrees_with_the_definition(
    leading, heads, queries, keys, dim, dtype, with_bias, with_mask, shared_bias, spread, seed
):
    q = make((*leading, heads, queries, dim), dtype=dtype, seed=seed)
    k = make((*leading, heads, keys, dim), dtype=dtype, seed=seed + 1)
    v = make((*leading, heads, keys, dim), dtype=dtype, seed=seed + 2)
    bias = key_mask = None
    if with_bias:
        shape = (heads, queries, keys) if shared_bias else (*leading, heads, queries, keys)
        bias = make(shape, dtype=dtype, scale=spread, seed=seed + 3)
    if with_mask:
        key_mask = make((*leading, keys), seed=seed + 4) > 0
    got = biased_attention(q, k, v, bias=bias, key_mask=key_mask)
    assert got.dtype == dtype
    assert_close(got, reference_attention(q, k, v, bias=bias, key_mask=key_mask), dtype)


def test_a_query_without_a_key_gives_zeros():
    q, k, v = (make((2, 3, 5, 8), seed=seed) for seed in range(3))
    key_mask = torch.ones(2, 5, dtype=torch.bool)
    key_mask[1] = False
    for bias in (None, make((3, 5, 5))):
        out = biased_attention(q, k, v, bias=bias, key_mask=key_mask)
        assert torch.isfinite(out).all()
        assert (out[1] == 0).all()
        assert (out[0] != 0).any()


def test_minus_infinity_in_the_bias_forbids_a_pair():
    q, k, v = (make((3, 5, 8), seed=seed) for seed in range(3))
    bias = make((3, 5, 5))
    bias[:, :, 2] = float("-inf")
    bias[1, 4] = float("-inf")
    out = biased_attention(q, k, v, bias=bias)
    without = [0, 1, 3, 4]
    expected = reference_attention(q, k[:, without], v[:, without], bias=bias[:, :, without])
    assert_close(out, expected, torch.float32)
    assert (out[1, 4] == 0).all()


def test_a_constant_along_a_row_of_the_bias_changes_nothing():
    q, k, v = (make((3, 9, 8), dtype=torch.float64, seed=seed) for seed in range(3))
    bias = make((3, 9, 9), dtype=torch.float64)
    shifted = bias + make((3, 9, 1), dtype=torch.float64, scale=10)
    a, b = (biased_attention(q, k, v, bias=each) for each in (bias, shifted))
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_any_strides():
    q, k, v = (make((4, 6, 3, 8), seed=seed).transpose(-2, -3) for seed in range(3))
    bias = make((6, 6, 3)).movedim(-1, 0)
    got = biased_attention(q, k, v, bias=bias)
    torch.testing.assert_close(
        got, biased_attention(*(x.contiguous() for x in (q, k, v)), bias=bias.contiguous())
    )


def test_gradients():
    q, k, v = (make((2, 5, 8), dtype=torch.float64, seed=seed).requires_grad_() for seed in range(3))
    bias = make((2, 5, 5), dtype=torch.float64).requires_grad_()
    mask = torch.tensor([True, True, False, True, True])
    assert torch.autograd.gradcheck(
        lambda *args: biased_attention(*args[:3], bias=args[3], key_mask=mask), (q, k, v, bias)
    )


Q = torch.zeros(2, 3, 5, 8)
BAD = {
    "q must be \\(..., heads, length, dim\\)": {"q": torch.zeros(5, 8)},
    "q must be floating point": {"q": Q.long()},
    "k is torch.float64 but q is torch.float32": {"k": Q.double()},
    "last dimension: 8 and 16": {"k": torch.zeros(2, 3, 5, 16), "v": torch.zeros(2, 3, 5, 16)},
    "k and v differ in length: 5 and 6": {"v": torch.zeros(2, 3, 6, 8)},
    "3, 4 and 4 heads": {"k": torch.zeros(2, 4, 5, 8), "v": torch.zeros(2, 4, 5, 8)},
    "leading dimensions": {"k": torch.zeros(4, 3, 5, 8)},
    "bias must be floating point": {"bias": torch.zeros(5, 5, dtype=torch.bool)},
    "bias of shape \\(2, 2, 3, 5, 5\\)": {"bias": torch.zeros(2, 2, 3, 5, 5)},
    "bias and the scores do not broadcast": {"bias": torch.zeros(3, 5, 4)},
    "key_mask must be boolean": {"key_mask": torch.ones(5)},
    "key_mask and the keys do not broadcast": {"key_mask": torch.ones(7, dtype=torch.bool)},
    "bias is on meta but q is on cpu": {"bias": torch.zeros(5, 5, device="meta")},
}


@pytest.mark.parametrize("message", BAD)
def test_what_does_not_fit_is_refused(message):
    arguments = {"q": Q, "k": Q, "v": Q, **BAD[message]}
    with pytest.raises(ValueError, match=message):
        biased_attention(arguments.pop("q"), arguments.pop("k"), arguments.pop("v"), **arguments)
