"""The Pairformer block without transposes against Protenix's own."""

import copy

import pytest
import torch

from flashbias_fold.pairformer import PairBiasAttention, PairformerBlock, Rule, TriangleAttention
from flashbias_fold.protenix_adapter import environment

DENSE = Rule("*", "dense")


def make(c_s, **sizes):
    environment.prepare()
    from protenix.model.modules.pairformer import PairformerBlock as Stock

    torch.manual_seed(0)
    block = Stock(n_heads=4, c_z=32, c_s=c_s, c_hidden_mul=32, **sizes).eval()
    for name, parameter in block.named_parameters():
        is_scale = "norm" in name and "weight" in name
        torch.nn.init.normal_(parameter, mean=float(is_scale), std=0.2 * parameter.shape[-1] ** -0.5)
    return block


@pytest.fixture(scope="module", params=[0, 24], ids=["pairs alone", "with singles"])
def stock(request):
    return make(request.param)


def swapped(stock, rule=DENSE):
    block = copy.deepcopy(stock)
    for name in ("tri_att_start", "tri_att_end"):
        setattr(block, name, TriangleAttention(getattr(block, name), rule))
    if stock.c_s:
        block.attention_pair_bias = PairBiasAttention(block.attention_pair_bias, rule)
    return block


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def inputs(n, c_s, *leading, seed=0):
    generator = torch.Generator().manual_seed(seed)
    single = torch.randn(*leading, n, c_s, generator=generator) if c_s else None
    return single, torch.randn(*leading, n, n, 32, generator=generator)


def run(block, s, z, mask=None, **options):
    """Inputs are the block's to write into."""
    return block(None if s is None else s.clone(), z.clone(), mask, **options)


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 33])
@pytest.mark.parametrize("chunk_size", [None, 7])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_stock(stock, n, chunk_size, masked):
    s, z = inputs(n, stock.c_s)
    mask = torch.ones(n, n)
    mask[: n // 2, n - n // 3 :] = 0  # not symmetric: the ending node reads its transpose
    options = {"inplace_safe": True, "chunk_size": chunk_size}
    expected = run(stock, s, z, mask if masked else None, **options)
    ours = swapped(stock)
    theirs, found = (run(b, s, z, mask if masked else None, **options) for b in (ours, PairformerBlock(ours)))
    for a, b, c in zip(found, theirs, expected, strict=True):
        if c is None:
            assert a is None
        else:
            assert torch.equal(a, b), "the same layers in the same order, read by other strides"
            assert relative(a, c) < 1e-5


def test_where_writing_in_place_is_not_safe_inputs_stay(stock):
    s, z = inputs(17, stock.c_s)
    kept = z.clone()
    block = PairformerBlock(swapped(stock))
    found = block(s, z, None)
    assert torch.equal(z, kept)
    assert relative(found[1], run(block, s, z, inplace_safe=True)[1]) < 1e-5


def test_a_stock_attention_at_the_ending_node_is_treated_as_stock_does(stock):
    s, z = inputs(17, stock.c_s)
    seen = []
    block = PairformerBlock(copy.deepcopy(stock))
    block.tri_att_end.register_forward_pre_hook(lambda module, args: seen.append(args[0].is_contiguous()))
    found, expected = (run(b, s, z, inplace_safe=True) for b in (block, stock))
    assert seen == [True]
    assert torch.equal(found[1], expected[1])


def test_the_pairs_are_not_copied(stock):
    """The ending node is given the transpose of the very tensor that is returned."""
    s, z = inputs(17, stock.c_s)
    seen = []
    block = PairformerBlock(swapped(stock))
    block.tri_att_end.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    _, out = run(block, s, z, inplace_safe=True)
    (given,) = seen
    assert given.data_ptr() == out.data_ptr() and given.stride() == out.transpose(-2, -3).stride()


def test_training_is_that_of_stock(stock):
    """Dropout draws the same numbers and gradients agree."""
    results = []
    for block in (copy.deepcopy(stock), PairformerBlock(swapped(stock))):
        torch.manual_seed(3)
        with torch.enable_grad():
            s, z = inputs(13, stock.c_s)
            out = block.train()(s, z.requires_grad_(), None)[1]
            results.append((out, *torch.autograd.grad(out.square().sum(), [z]), torch.get_rng_state()))
    (out, gradient, state), (ours, our_gradient, our_state) = results
    assert relative(ours, out) < 1e-5 and relative(our_gradient, gradient) < 1e-4
    assert torch.equal(state, our_state)


def test_parameters_keep_their_names(stock):
    assert list(PairformerBlock(swapped(stock)).state_dict()) == list(stock.state_dict())


def test_in_a_stack_under_checkpointing_calls(stock):
    """Stacks bind options by name and pass representations by place."""
    environment.prepare()
    from protenix.model.modules.pairformer import PairformerStack

    stack = PairformerStack(n_blocks=2, n_heads=4, c_z=32, c_s=stock.c_s).eval()
    s, z = inputs(12, stock.c_s)
    expected = run(stack, s, z, inplace_safe=True)
    for index, block in enumerate(stack.blocks):
        for name in ("tri_att_start", "tri_att_end"):
            setattr(block, name, TriangleAttention(getattr(block, name), DENSE))
        setattr(stack.blocks, str(index), PairformerBlock(block))
    found = run(stack, s, z, inplace_safe=True)
    assert relative(found[1], expected[1]) < 1e-5
