"""The tests' own guard: an output that a kernel does not write fails the test that looks at it."""

import pytest
import torch
from poison import ALLOCATORS
from problems import DEVICE, assert_as_right_as_torch, gradients_as_right_as_torch, normal

from flashbias_kernels import launch
from flashbias_kernels.norm import layer_norm

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def allocated(dtype):
    """Memory by every allocator, on the device."""
    like = torch.zeros(3, 4, dtype=dtype, device=DEVICE)
    return {
        "empty": torch.empty((3, 4), dtype=dtype, device=DEVICE),
        "empty_like": torch.empty_like(like),
        "empty_strided": torch.empty_strided((3, 4), (1, 3), dtype=dtype, device=DEVICE),
        "new_empty": like.new_empty((3, 4)),
        "new_empty_strided": like.new_empty_strided((3, 4), (1, 3)),
    }


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_floats_are_no_numbers(dtype):
    tensors = allocated(dtype)
    assert list(tensors) == [name for _, name in ALLOCATORS]
    for name, tensor in tensors.items():
        assert tensor.isnan().all() and tensor.dtype == dtype, name


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_are_extreme(dtype):
    for name, tensor in allocated(dtype).items():
        assert (tensor == torch.iinfo(dtype).max).all(), name


def test_what_learns_is_filled_too():
    leaf = torch.empty(3, requires_grad=True)
    assert leaf.isnan().all() and leaf.is_leaf and leaf.requires_grad


class _NoCall:
    """A launch that does not take place."""

    def run(self):
        pass


@pytest.fixture
def attention():
    q, k, v = (normal(2, 20, 16, seed=seed) for seed in range(3))
    mask = torch.arange(20, device=DEVICE) < 13
    return {"q": q, "k": k, "v": v, "bias": normal(2, 20, 20, seed=3), "key_mask": mask}


def test_an_output_that_no_kernel_writes_is_caught(attention, monkeypatch):
    assert_as_right_as_torch(attention, "triton")
    monkeypatch.setattr(launch, "forward_calls", lambda *_: [_NoCall()])
    with pytest.raises(AssertionError):
        assert_as_right_as_torch(attention, "triton")


def test_a_mask_that_no_kernel_writes_is_caught(attention, monkeypatch):
    call = launch.mask_call

    def spans_alone(mask, closed, span):
        call(mask, torch.zeros_like(closed), span).run()
        return _NoCall()

    monkeypatch.setattr(launch, "mask_call", spans_alone)
    with pytest.raises(AssertionError):
        assert_as_right_as_torch(attention, "triton")


@pytest.mark.parametrize("calls", ["queries_calls", "keys_calls"])
def test_a_gradient_that_no_kernel_writes_is_caught(attention, monkeypatch, calls):
    monkeypatch.setattr(launch, calls, lambda *_: [_NoCall()])
    with pytest.raises(AssertionError):
        gradients_as_right_as_torch(attention, "triton")


def test_a_norm_that_no_kernel_writes_is_caught(monkeypatch):
    from flashbias_kernels import norm_kernel

    class NoKernel:
        def __getitem__(self, grid):
            return lambda *_, **__: None

    x = normal(2, 5, 24)
    assert layer_norm(x, None, None, 1e-5).isfinite().all()
    monkeypatch.setattr(norm_kernel, "norm_kernel", NoKernel())
    assert layer_norm(x, None, None, 1e-5).isnan().all()
