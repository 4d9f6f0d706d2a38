"""The layers around pairs in kernels against Protenix's own; the interpreter stands for a GPU."""

import copy

import pytest
import torch
from lengths import at_length

import flashbias_kernels
from flashbias_fold.pairformer import PairformerBlock, Rule, TriangleAttention, TriangleMultiplication
from flashbias_fold.pairformer import multiplication as multiplication_module
from flashbias_fold.pairformer import triangle as triangle_module
from flashbias_fold.protenix_adapter import environment

DENSE, NONE = Rule("*", "dense"), Rule("*", "none")
HALF = torch.float16  # the interpreter rounds to it as a GPU does, other than to bf16


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def block():
    """Protenix's, with weights that let every part be seen."""
    environment.prepare()
    from protenix.model.modules.pairformer import PairformerBlock as Stock

    torch.manual_seed(0)
    block = Stock(
        c_z=32, c_s=0, c_hidden_mul=32, c_hidden_pair_att=8, no_heads_pair=2, num_intermediate_factor=2
    ).eval()
    for name, parameter in block.named_parameters():
        is_scale = "norm" in name and "weight" in name
        torch.nn.init.normal_(parameter, mean=float(is_scale), std=0.5 * parameter.shape[-1] ** -0.5)
    return block


@pytest.fixture
def launches(monkeypatch):
    """The CPU is a place where the kernels run; how often the layers asked for them."""
    counts = dict.fromkeys(("triangle_multiplication", "project_heads", "add_output"), 0)

    def counting(name):
        def run(*arguments, **options):
            counts[name] += 1
            return getattr(flashbias_kernels, name)(*arguments, **options)

        return run

    for module in (multiplication_module, triangle_module):
        monkeypatch.setattr(module, "FUSED_ON", {"cpu"})
        for name in counts.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, counting(name))
    return counts


def pairs(n, *leading, seed=0):
    return torch.randn(*leading, n, n, 32, generator=torch.Generator().manual_seed(seed))


def padding(n, last):
    mask = torch.ones(n, n)
    mask[last:], mask[:, last:] = 0, 0
    return mask


def relative(a, b):
    return float((a.float() - b).norm() / b.norm())


@pytest.mark.parametrize("n", at_length([17], [1, 7, 17]))
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["tri_att_start", "tri_att_end"])
@pytest.mark.parametrize("add", [False, True])
def test_attention_in_kernels_is_stock(block, launches, n, masked, name, add):
    stock = copy.deepcopy(getattr(block, name))
    stock.starting = name == "tri_att_start"  # Protenix transposes outside; the layer can do it too
    x = pairs(n)
    mask = padding(n, n - 2) if masked and n > 2 else None
    expected = stock(x, mask=mask) + (x if add else 0)
    own = x.clone()
    with torch.autocast("cpu", HALF):
        found = TriangleAttention(stock, DENSE)(own, mask=mask, add_in_place=add)
    counted = slice(None) if mask is None else slice(n - 2)
    assert relative(found[counted, counted], expected[counted, counted]) < 5e-3
    assert found is own if add else torch.equal(own, x)
    assert launches["project_heads"] == launches["add_output"] == 1


@pytest.mark.parametrize("rule", [DENSE, NONE])
@pytest.mark.parametrize("chunk_size", at_length([5, 40], [1, 5, 16, 40]))
def test_chunks_of_rows_change_nothing(block, launches, rule, chunk_size):
    """Also where each chunk is added before the next is read."""
    layer, x = TriangleAttention(block.tri_att_start, rule), pairs(17)
    with torch.autocast("cpu", HALF):
        whole = layer(x.clone(), add_in_place=True)
        found = layer(x.clone(), chunk_size=chunk_size, inplace_safe=True, add_in_place=True)
    assert torch.equal(found, whole)


def test_without_the_bias_it_is_another_result(block, launches):
    x = pairs(9)
    with torch.autocast("cpu", HALF):
        found = TriangleAttention(block.tri_att_start, NONE)(x)
    assert relative(found, block.tri_att_start(x)) > 1e-2


@pytest.mark.parametrize("n", at_length([17], [1, 7, 17]))
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["tri_mul_out", "tri_mul_in"])
@pytest.mark.parametrize("add", [False, True])
def test_multiplication_in_kernels_is_stock(block, launches, n, masked, name, add):
    stock, x = getattr(block, name), pairs(n)
    mask = padding(n, n - 2) if masked and n > 2 else None
    expected = stock(x.clone(), mask=mask) + (x if add else 0)
    own = x.clone()
    with torch.autocast("cpu", torch.bfloat16):
        options = {"inplace_safe": add, "_add_with_inplace": add}
        found = TriangleMultiplication(stock)(own, mask=mask, **options)
        theirs = relative(stock(x.clone(), mask=mask).float() + (x if add else 0), expected)
    # The interpreter cuts digits of bf16 off, where autocast rounds.
    assert relative(found, expected) < max(2.5 * theirs, 1e-3)
    assert found is own if add else torch.equal(own, x)
    assert launches["triangle_multiplication"] == 1


def test_elsewhere_the_stock_multiplication_runs(block, monkeypatch):
    """Where the kernels are not worth it, in fp16, in fp32, and where gradients are wanted."""
    monkeypatch.setattr(multiplication_module, "triangle_multiplication", pytest.fail)
    stock, x = block.tri_mul_out, pairs(6)
    ours = TriangleMultiplication(stock)
    assert torch.equal(ours(x), stock(x))
    monkeypatch.setattr(multiplication_module, "FUSED_ON", {"cpu"})
    with torch.autocast("cpu", HALF):
        assert ours(x).shape == x.shape
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
        leaf = x.clone().requires_grad_()
        ours(leaf).sum().backward()
        assert torch.isfinite(leaf.grad).all()
    assert list(ours.state_dict()) == list(stock.state_dict())
    assert sum(1 for _ in ours.parameters()) == sum(1 for _ in stock.parameters())


def test_gradients_go_through_the_attention_as_ever(block, launches):
    layer = TriangleAttention(block.tri_att_start, DENSE)
    with torch.enable_grad(), torch.autocast("cpu", HALF):
        x = pairs(5).requires_grad_()
        layer(x).float().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert launches["project_heads"] == 0


def test_changed_weights_are_seen(block, launches):
    layer = TriangleAttention(copy.deepcopy(block.tri_att_start), DENSE)
    x = pairs(6)
    with torch.autocast("cpu", HALF):
        before = layer(x)
        layer.mha.linear_o.weight.mul_(2)
        assert relative(layer(x), 2 * before.float()) < 5e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_in_kernels_is_stock(block, launches, dtype):
    """Pairs in either dtype; all is added where it lies."""
    ours = copy.deepcopy(block)
    for name in ("tri_att_start", "tri_att_end"):
        setattr(ours, name, TriangleAttention(getattr(ours, name), DENSE))
    for name in ("tri_mul_out", "tri_mul_in"):
        setattr(ours, name, TriangleMultiplication(getattr(ours, name)))
    z = pairs(17).to(dtype)
    _, expected = block(None, z.float().clone(), None)
    own = z.clone()
    with torch.autocast("cpu", torch.bfloat16):
        _, theirs = block(None, z.clone(), None)
        _, found = PairformerBlock(ours)(None, own, None, inplace_safe=True)
    assert found is own
    # Pairs in bf16 are cut off by each of four layers, always towards zero.
    assert relative(found, expected) < 4 * relative(theirs, expected)
    assert launches == {"triangle_multiplication": 2, "project_heads": 2, "add_output": 2}
