"""The transition in pieces against Protenix's own, which has its hidden layer as a whole."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flashbias_kernels
from flashbias_fold.pairformer import Transition, transition
from flashbias_fold.protenix_adapter import environment

C = 24


@pytest.fixture(scope="module")
def stock():
    environment.prepare()
    from protenix.model.modules.primitives import Transition as Stock

    torch.manual_seed(0)
    layer = Stock(c_in=C, n=4).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return layer


def a_tensor(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, C, generator=torch.Generator().manual_seed(seed)).to(dtype)


def exact(stock, x):
    with torch.no_grad():
        return copy.deepcopy(stock).double()(x.double())


def pieces_of(monkeypatch, size):
    monkeypatch.setattr(transition, "PIECE_BYTES", size)


@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    rows=st.integers(1, 5),
    turned=st.booleans(),
    add=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_it_is_stock_whatever_the_pieces(stock, shape, rows, turned, add):
    x = a_tensor(*shape)
    if turned and len(shape) > 1:
        x = x.transpose(0, 1)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        pieces_of(patch, rows * 4 * C * 4)  # so many places, if the first dimension has them singly
        ours = Transition(stock)
        expected = stock(x) + x if add else stock(x)
        own = x.clone(memory_format=torch.preserve_format)
        found = ours(own, add_in_place=add)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if add:
        assert found is own, "no second tensor of all pairs"
    else:
        assert torch.equal(own, x)


def test_in_one_piece_the_bytes_are_those_of_stock(stock):
    x = a_tensor(9, 9)
    with torch.no_grad():
        assert torch.equal(Transition(stock)(x), stock(x))


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_it_is_as_near_to_the_exact_result_as_stock(stock, monkeypatch, dtype, error, scale):
    """The normalisation takes the scale out; bf16 rounds at each of the four operations to 2^-9."""
    pieces_of(monkeypatch, 1)
    x = (scale * a_tensor(6, 5)).to(dtype)
    layer = copy.deepcopy(stock).to(dtype)
    with torch.no_grad():
        found, theirs = Transition(layer)(x), layer(x)
    want = exact(layer, x)
    assert float((found.double() - want).norm() / want.norm()) < error
    assert found.dtype == theirs.dtype


def test_the_hidden_layer_is_never_there_as_a_whole(stock, monkeypatch):
    """What the first projection is given tells how much of the hidden layer is there at once."""
    pieces_of(monkeypatch, 3 * 10 * 4 * C * 4)
    ours, seen = Transition(copy.deepcopy(stock)), []
    ours.linear_no_bias_a.register_forward_hook(lambda _, x, y: seen.append(y.shape))
    with torch.no_grad():
        ours(a_tensor(8, 10))
    assert seen == [(3, 10, 4 * C), (3, 10, 4 * C), (2, 10, 4 * C)]
    seen.clear()
    with torch.no_grad():
        ours(a_tensor(1, 8, 10))  # a batch of one is not what to cut
    assert seen == [(1, 3, 10, 4 * C), (1, 3, 10, 4 * C), (1, 2, 10, 4 * C)]


def test_where_gradients_are_wanted_the_stock_code_runs(stock):
    ours = Transition(copy.deepcopy(stock))
    x = a_tensor(3, 3).requires_grad_()
    ours.train()
    for add in (False, True):
        x.grad = None
        ours(x, add_in_place=add).sum().backward()
        assert x.grad is not None and torch.isfinite(x.grad).all()


def test_names_of_weights_stay(stock):
    assert list(Transition(stock).state_dict()) == list(stock.state_dict())


HALF = torch.float16  # the interpreter rounds to it as a GPU does, other than to bf16


class FakeGpu:
    """The CPU as a place where the kernel runs, interpreted; counts its launches."""

    def __init__(self, monkeypatch):
        self.launches = 0
        monkeypatch.setattr(transition, "FUSED_ON", {"cpu"})
        monkeypatch.setattr(transition, "transition", self._run)

    def _run(self, *arguments, **options):
        self.launches += 1
        return flashbias_kernels.transition(*arguments, **options)


@pytest.fixture
def small_stock():
    environment.prepare()
    from protenix.model.modules.primitives import Transition as Stock

    torch.manual_seed(0)
    layer = Stock(c_in=16, n=4).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return layer


@pytest.mark.parametrize("add", [True, False])
def test_in_the_kernel_it_is_stock(small_stock, monkeypatch, add):
    gpu = FakeGpu(monkeypatch)
    x = torch.randn(3, 7, 16)
    own = x.clone()
    with torch.no_grad():
        expected = small_stock(x) + x if add else small_stock(x)
        with torch.autocast("cpu", HALF):
            found = Transition(small_stock)(own, add_in_place=add)
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=5e-3)
    assert found is own if add else torch.equal(own, x)
    assert gpu.launches == 1


def test_the_kernels_weights_are_made_once_and_again_when_changed(small_stock, monkeypatch):
    """Changed where they lie, or replaced by others."""
    FakeGpu(monkeypatch)
    packs = []
    pack = flashbias_kernels.TransitionWeights.pack
    monkeypatch.setattr(
        transition.TransitionWeights, "pack", lambda *a, **k: packs.append("once") or pack(*a, **k)
    )
    ours, x = Transition(small_stock), torch.randn(2, 5, 16)
    with torch.no_grad(), torch.autocast("cpu", HALF):
        ours(x)
        ours(x)
        assert len(packs) == 1
        small_stock.linear_no_bias.weight.mul_(2)
        torch.testing.assert_close(ours(x), small_stock(x).float(), rtol=5e-3, atol=5e-3)
        assert len(packs) == 2
        for turn in range(3):
            layer = small_stock.linear_no_bias
            shape = layer.weight.shape
            del layer.weight
            layer.weight = torch.nn.Parameter(torch.empty(shape).uniform_(-0.3, 0.3))
            torch.testing.assert_close(ours(x), small_stock(x).float(), rtol=5e-3, atol=5e-3)
            assert len(packs) == 3 + turn


def test_what_the_kernel_does_not_know_goes_in_pieces(stock, small_stock, monkeypatch):
    gpu = FakeGpu(monkeypatch)
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        with torch.autocast("cpu", HALF):
            Transition(stock)(a_tensor(2, 5))  # 24 channels
        assert torch.equal(Transition(small_stock)(x), small_stock(x))  # in float32
    with torch.autocast("cpu", HALF):
        Transition(small_stock)(x)  # gradients are wanted
    assert gpu.launches == 0
