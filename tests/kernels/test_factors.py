"""Biases in closed form, used as people use them: the same as the dense bias."""

import pytest
import torch
from problems import DEVICE, normal, rms

from flashbias_kernels import (
    biased_attention,
    factors,
    flash_bias_func,
    reference_attention,
    triangle_attention,
)

BACKENDS = ("sdpa", "triton")
# Relative. In bf16 the scaled query, the weights and the output are rounded, each by up to 2^-8.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def attention_inputs(dtype, *leading, length=45, keys=None):
    return [
        normal(*leading, n, 32, dtype=dtype, seed=i)
        for i, n in enumerate((length, keys or length, keys or length))
    ]


def assert_same(factored, dense, dtype):
    assert rms(factored.double() - dense) <= TOLERANCE[dtype] * rms(dense)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_alibi(backend, dtype):
    """Positions to 600 and more are not numbers of bf16, so the factors are float32 beside it."""
    heads, length = 4, 45
    q, k, v = attention_inputs(dtype, heads)
    slopes = 2.0 ** -torch.arange(1, heads + 1, device=DEVICE)
    q_factor, k_factor = factors.alibi(slopes, length, length)
    assert q_factor.shape[-1] == 2
    position = torch.arange(length, device=DEVICE).double()
    bias = slopes.double()[:, None, None] * (position[None] - position[:, None])
    far = k_factor + torch.tensor([0.0, 600.0], device=DEVICE)  # softmax does not see the shift
    for key_side in (k_factor, far):
        out = biased_attention(q, k, v, q_factor=q_factor, k_factor=key_side, causal=True, backend=backend)
        assert_same(out, reference_attention(q, k, v, bias=bias, causal=True), dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_squared_distances(backend, dtype):
    q, k, v = attention_inputs(dtype, 2, 3, length=40, keys=33)
    x, y = 100 + 3 * normal(2, 40, 3, seed=4), 100 + 3 * normal(2, 33, 3, seed=5)
    weight = torch.tensor([0.01, 0.1, 1.0], device=DEVICE)
    q_factor, k_factor = factors.squared_distance(x, y, weight)
    assert q_factor.shape[-1] == 5
    bias = -weight.double()[:, None, None] * torch.cdist(x.double(), y.double()).square()[:, None]
    out = biased_attention(q, k, v, q_factor=q_factor, k_factor=k_factor, backend=backend)
    assert_same(out, reference_attention(q, k, v, bias=bias), dtype)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_learned_table_of_relative_positions(backend):
    """As in Swin-V2: a bias for each offset within a window of 6 x 6, the same for all windows."""
    window, heads = 6, 4
    q, k, v = attention_inputs(torch.float32, 5, heads, length=window**2)
    learned = normal(heads, 2 * window - 1, 2 * window - 1, seed=7)
    place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    offset = place[:, None] - place[None] + window - 1
    bias = learned[:, offset[..., 0], offset[..., 1]]
    q_factor, k_factor = factors.table(bias, window**2)
    out = biased_attention(q, k, v, q_factor=q_factor, k_factor=k_factor, backend=backend)
    assert_same(out, reference_attention(q, k, v, bias=bias), torch.float32)
    smooth = (
        torch.exp(-((offset - window + 1).double().square().sum(-1) / 20)).to(DEVICE).expand(heads, -1, -1)
    )
    few = factors.table(smooth, 16)  # a smooth table needs few channels
    out = biased_attention(q, k, v, q_factor=few[0], k_factor=few[1], backend=backend)
    assert rms(out.double() - reference_attention(q, k, v, bias=smooth)) <= 1e-3 * rms(out)


def test_the_authors_signature():
    q, k, v = (normal(2, 9, 3, 8, seed=seed) for seed in range(3))
    q_bias, k_bias = normal(1, 9, 1, 5, seed=3), normal(2, 9, 3, 5, seed=4)
    mask = normal(2, 1, 1, 9, seed=5)
    out = flash_bias_func(q, k, v, q_bias, k_bias, mask, True, 0.3)
    bias = torch.einsum("aixr,bjhr->bhij", q_bias.double(), k_bias.double()) + mask
    swapped = [x.transpose(1, 2) for x in (q, k, v)]
    expected = reference_attention(*swapped, bias=bias, causal=True, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    plain = flash_bias_func(q, k, v)
    torch.testing.assert_close(
        plain.double(), reference_attention(*swapped).transpose(1, 2), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("batch", [(), (2,)])
def test_cuequivariances_signature(batch):
    q, k, v = (normal(*batch, 7, 4, 7, 8, seed=seed) for seed in range(3))
    bias, mask = normal(*batch, 1, 4, 7, 7, seed=3), (normal(*batch, 7, 1, 1, 7, seed=4) > -1).int()
    out = triangle_attention(q, k, v, bias, mask, scale=0.5)
    scores = 0.5 * q @ k.transpose(-1, -2) + bias
    expected = torch.softmax(scores.masked_fill(mask == 0, -1e9), -1) @ v
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
