"""Layer normalisation against float64, over dtypes, layouts, channels and sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import DEVICE

from flashbias_kernels import norm
from flashbias_kernels.norm import layer_norm

# Triton's interpreter cuts digits off where a GPU rounds.
ROUNDING = {torch.float32: 2**-20, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def exact(x, weight, bias, eps):
    x = x.double()
    found = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
    found = found if weight is None else found * weight.double()
    return found if bias is None else found + bias.double()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_as_right_as_its_dtype(data):
    some = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    normal = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    shape = some((7,), (5, 7), (1, 1, 16), (3, 9, 24), (6, 5, 64), (4, 3, 2, 100), (2, 3, 128), (2, 2, 384))
    dtype, out_dtype = some(*ROUNDING), some(None, *ROUNDING)
    x = normal(*shape) * some(1e-3, 1.0, 300.0) + some(0.0, 5.0)
    x = x.to(DEVICE, dtype)
    if len(shape) > 2 and some(True, False):
        x = x.transpose(-2, -3)
    x = x[..., : shape[-1] - 1] if shape[-1] > 2 and some(True, False) else x
    channels = x.shape[-1]
    weight, bias = (some(None, normal(channels).to(DEVICE)) for _ in range(2))
    found = layer_norm(x, weight, bias, 1e-5, out_dtype)
    right = exact(x, weight, bias, 1e-5)
    assert found.dtype == (out_dtype or dtype)
    assert found.shape == x.shape
    assert found.is_contiguous()
    # A mean far from zero takes digits from what is left around it.
    scale = (
        1 + float((x.double().abs().amax(-1) / x.double().std(-1).clamp(min=1e-3)).max())
        if channels > 1
        else 1
    )
    bound = max(ROUNDING[found.dtype], 2**-20 * scale) * (1 + right.abs())
    assert ((found.double() - right).abs() <= bound).all()


def test_a_transposed_one_is_not_copied(monkeypatch):
    """The kernel reads it where it is, and torch does nothing."""
    monkeypatch.setattr(torch.nn.functional, "layer_norm", None)
    x = torch.randn(6, 9, 32, device=DEVICE)
    view = norm._three_dimensions(x.transpose(0, 1))
    assert view.data_ptr() == x.data_ptr()
    torch.testing.assert_close(
        layer_norm(x.transpose(0, 1), None, None, 1e-5), layer_norm(x, None, None, 1e-5).transpose(0, 1)
    )


@pytest.mark.parametrize("value", [0.0, 3.5, 1e4])
def test_places_that_are_all_the_same_become_the_bias(value):
    x, bias = torch.full((3, 4, 48), value, device=DEVICE), torch.arange(48.0, device=DEVICE)
    torch.testing.assert_close(layer_norm(x, None, bias, 1e-5), bias.expand(3, 4, 48), atol=1e-2, rtol=0)


@pytest.mark.parametrize("channels", [24, 100, 384])
def test_a_mean_far_above_the_differences_is_taken_off_to_the_last_digit(channels):
    """The mean is rounded, by a fortieth of what the channels differ in here."""
    generator = torch.Generator().manual_seed(channels)
    x = (4097.3 + 0.01 * torch.randn(2, 5, channels, generator=generator)).to(DEVICE)
    found, right = layer_norm(x, None, None, 1e-5), exact(x, None, None, 1e-5)
    assert float((found.double() - right).abs().max()) < 1e-3


def test_gradients_are_left_to_torch():
    x = torch.randn(3, 4, 8, device=DEVICE, requires_grad=True)
    weight = torch.ones(8, device=DEVICE, requires_grad=True)
    layer_norm(x, weight, None, 1e-5).square().sum().backward()
    assert x.grad is not None
    assert weight.grad is not None
    with torch.no_grad():
        inside = layer_norm(x, weight, None, 1e-5)
    torch.testing.assert_close(inside, layer_norm(x, weight, None, 1e-5).detach(), atol=1e-5, rtol=1e-5)


def test_nothing_in_nothing_out():
    assert layer_norm(torch.empty(0, 5, 8, device=DEVICE), None, None, 1e-5).shape == (0, 5, 8)
    many = torch.randn(2, norm.LARGEST + 8, device=DEVICE)
    torch.testing.assert_close(
        layer_norm(many, None, None, 1e-5).double(), exact(many, None, None, 1e-5), atol=1e-4, rtol=0
    )
