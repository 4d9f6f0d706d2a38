"""The fused attention against its definition in float64."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lengths import at_length
from problems import DEVICE, assert_as_right_as_torch, problems

from flashbias_kernels import biased_attention, reference_attention

FLOATS = (torch.float32, torch.bfloat16, torch.float16)

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


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_agrees_with_the_definition(backend, data):
    assert_as_right_as_torch(data.draw(problems(FLOATS, longest=70)), backend)


@settings(
    max_examples=at_length(15, 40),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(problems(FLOATS, longest=40))
def test_the_kernel_agrees_with_the_definition(arguments):
    arguments = {n: a.to(DEVICE) if isinstance(a, torch.Tensor) else a for n, a in arguments.items()}
    assert_as_right_as_torch(arguments, "triton")


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


@pytest.mark.parametrize("backend", ["sdpa", "reference", "triton"])
def test_without_keys_there_is_nothing(backend):
    q, none = make((2, 3, 5, 8)).to(DEVICE), torch.zeros(2, 3, 0, 8, device=DEVICE)
    out, lse = biased_attention(q, none, none, backend=backend, return_lse=True)
    assert (out == 0).all() and out.shape == q.shape
    assert (lse == float("-inf")).all()


def test_a_wide_bias_keeps_its_small_differences():
    """In bf16 two numbers near 1e4 are 64 apart; softmax sees their difference alone."""
    q, k, v = (make((3, 9, 8), dtype=torch.bfloat16, seed=seed) for seed in range(3))
    bias = 1e4 + make((3, 9, 9))
    out = biased_attention(q, k, v, bias=bias)
    assert_close(out, reference_attention(q, k, v, bias=bias), torch.bfloat16)


def test_a_shared_bias_and_a_mask_of_each_row_forbid_together():
    """Rows whose allowed keys are all forbidden by the bias, although each alone leaves some."""
    q, k, v = (make((4, 2, 6, 8), seed=seed) for seed in range(3))
    bias = make((2, 6, 6))
    bias[:, :3, :4] = float("-inf")
    key_mask = torch.ones(4, 6, dtype=torch.bool)
    key_mask[1, 4:] = False
    out = biased_attention(q, k, v, bias=bias, key_mask=key_mask)
    assert (out[1, :, :3] == 0).all()
    assert_close(out, reference_attention(q, k, v, bias=bias, key_mask=key_mask), torch.float32)


@pytest.mark.parametrize("leading", [(6,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("kind", ["learnt bias", "mask that forbids nothing", "factors"])
def test_torch_takes_its_fast_kernel(leading, kind):
    """And not the one that makes all scores, as it would for more dimensions or a bias that learns."""
    q, k, v = (make((*leading, 2, 40, 32), seed=seed) for seed in range(3))
    shared = (leading[0], *(1 for _ in leading[1:]), 2, 40)
    options = {
        "learnt bias": {"bias": make((*shared, 40)).requires_grad_()},
        "mask that forbids nothing": {"bias": make((*shared, 40)), "key_mask": torch.ones(*leading, 40) > 0},
        "factors": {"q_factor": make((*shared, 3)), "k_factor": make((*shared, 3))},
    }[kind]
    with torch.no_grad(), torch.profiler.profile() as profile:
        out = biased_attention(q, k, v, **options)
    ran = {event.key for event in profile.key_averages()}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in ran
    assert "aten::_scaled_dot_product_attention_math" not in ran
    assert_close(out, reference_attention(q, k, v, **options).detach(), torch.float32)


def test_gradients_of_factors_and_gate():
    q, k, v, gate = (make((2, 3, 4, 4), dtype=torch.float64, seed=s).requires_grad_() for s in range(4))
    for leading in ((1,), (2,)):  # shared, and not: the two ways of the portable backend
        factors = [make((*leading, 3, 4, 2), dtype=torch.float64, seed=s).requires_grad_() for s in (4, 5)]
        assert torch.autograd.gradcheck(
            lambda q, k, v, gate, q_factor, k_factor: biased_attention(
                q, k, v, gate=gate, q_factor=q_factor, k_factor=k_factor, causal=True
            ),
            (q, k, v, gate, *factors),
        )


def test_gradients():
    q, k, v = (make((2, 5, 8), dtype=torch.float64, seed=seed).requires_grad_() for seed in range(3))
    bias = make((2, 5, 5), dtype=torch.float64).requires_grad_()
    mask = torch.tensor([True, True, False, True, True])
    assert torch.autograd.gradcheck(
        lambda *args: biased_attention(*args[:3], bias=args[3], key_mask=mask), (q, k, v, bias)
    )


@pytest.mark.parametrize("backend", ["sdpa", "triton"])
def test_autocast_casts_what_is_multiplied_and_no_factor_of_many_digits(backend):
    q, k, v, gate = (make((2, 9, 8), seed=seed).to(DEVICE) for seed in range(4))
    position = torch.arange(9.0, device=DEVICE)[:, None] + 1000
    ones = torch.ones_like(position)
    factors = {"q_factor": torch.cat([-position, ones], -1), "k_factor": torch.cat([ones, position], -1)}
    factors = {name: factor.expand(2, 9, 2) for name, factor in factors.items()}
    with torch.autocast(DEVICE, torch.bfloat16):
        out = biased_attention(q, k.bfloat16(), v, gate=gate, backend=backend, **factors)
    short = [x.bfloat16() for x in (q, k, v)]
    expected = reference_attention(*short, gate=gate.bfloat16(), **factors)
    assert out.dtype == torch.bfloat16
    assert_close(out, expected, torch.bfloat16)
    double = [x.double() for x in (q, k, v)]
    with torch.autocast(DEVICE, torch.bfloat16):
        assert biased_attention(*double).dtype == torch.float64


Q = torch.zeros(2, 3, 5, 8)
F = torch.zeros(3, 5, 2)
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
    "band must be floating point": {"band": torch.zeros(3, 5, 3, dtype=torch.int32)},
    "band must be \\(..., heads, length, 2 \\* reach \\+ 1\\)": {"band": torch.zeros(3, 5, 4)},
    "band has length 4, expected 5": {"band": torch.zeros(3, 4, 3)},
    "band and the heads do not broadcast": {"band": torch.zeros(2, 5, 3)},
    "key_mask must be boolean": {"key_mask": torch.ones(5)},
    "key_mask and the keys do not broadcast": {"key_mask": torch.ones(7, dtype=torch.bool)},
    "q_factor and k_factor belong together, but k_factor is missing": {"q_factor": F},
    "q_factor and k_factor belong together, but q_factor is missing": {"k_factor": F},
    "q_factor and k_factor must be": {"q_factor": F, "k_factor": torch.zeros(5, 2)},
    "differ in rank: 2 and 3": {"q_factor": F, "k_factor": torch.zeros(3, 5, 3)},
    "k_factor is torch.float16 but q_factor is torch.float32": {"q_factor": F, "k_factor": F.half()},
    "q_factor is torch.float16 but q is torch.float32": {"q_factor": F.half(), "k_factor": F.half()},
    "k_factor has length 4, expected 5": {"q_factor": F, "k_factor": torch.zeros(3, 4, 2)},
    "q_factor and the heads do not broadcast": {"q_factor": torch.zeros(2, 5, 2), "k_factor": F},
    "gate is torch.float64": {"gate": Q.double()},
    "gate and the output do not broadcast": {"gate": torch.zeros(3, 5, 7)},
    "ranks are of factors": {"ranks": torch.zeros(3, dtype=torch.int32)},
    "ranks must be int32, one for each of 3": {"q_factor": F, "k_factor": F, "ranks": torch.zeros(3)},
    "backend must be auto": {"backend": "cuda"},
    "bias is on meta but q is on cpu": {"bias": torch.zeros(5, 5, device="meta")},
}


@pytest.mark.parametrize("message", BAD)
def test_what_does_not_fit_is_refused(message):
    arguments = {"q": Q, "k": Q, "v": Q, **BAD[message]}
    with pytest.raises(ValueError, match=message):
        biased_attention(arguments.pop("q"), arguments.pop("k"), arguments.pop("v"), **arguments)
