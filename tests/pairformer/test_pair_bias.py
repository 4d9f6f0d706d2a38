"""Attention with pair bias against Protenix's own, with weights that let every part be seen."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbias_fold.pairformer import Keep, PairBiasAttention, Rule
from flashbias_fold.protenix_adapter import environment

DENSE, NONE = Rule("*", "dense"), Rule("*", "none")
HEADS, C_A, C_S, C_Z = 4, 48, 20, 24
# float32 sums in another order; the scores of these weights reach some tens.
CLOSE = 2e-5


def make(has_s, **sizes):
    environment.prepare()
    from protenix.model.modules.transformer import AttentionPairBias

    torch.manual_seed(0)
    shape = {"n_heads": HEADS, "c_a": C_A, "c_s": C_S, "c_z": C_Z} | sizes
    layer = AttentionPairBias(has_s=has_s, create_offset_ln_z=not has_s, **shape).eval()
    for name, parameter in layer.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("layernorm" in name and "weight" in name), std=0.3)
    return layer


@pytest.fixture(scope="module", params=[False, True], ids=["single track", "diffusion"])
def stock(request):
    return make(has_s=request.param)


@pytest.fixture(scope="module")
def of_diffusion():
    return make(has_s=True)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(n, *leading, seed=0, rank=0, scale=1.0):
    """`a`, `s` and `z`; with a rank, pairs of few directions and a little of everything, as in models."""
    z = normal(n, n, C_Z, seed=seed)
    if rank:
        sides = normal(2, n, rank, C_Z, seed=seed + 1)
        z = torch.einsum("iac,jac->ijc", *sides) / rank**0.5 + 0.1 * z
    z = z.expand(*leading[:-1], 1, n, n, C_Z) if leading else z
    return normal(*leading, n, C_A, seed=seed + 2), normal(*leading, n, C_S, seed=seed + 3), scale * z


def channels_first(z):
    """As Protenix's diffusion passes it with its fusion on."""
    normalised = torch.nn.functional.layer_norm(z, z.shape[-1:])
    return normalised.movedim(-1, -3).contiguous()


def relative(a, b):
    return float((a - b).norm() / b.norm())


def lowrank(stock, rank=16, tolerance=1.0, keep=None, reach=0):
    return PairBiasAttention(stock, Rule("*", "lowrank", rank, tolerance, reach), keep)


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 33, 64, 65, 101])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_dense_is_stock(stock, n, scale):
    a, s, z = inputs(n, scale=scale)
    assert relative(PairBiasAttention(stock, DENSE)(a, s, z), stock(a, s, z)) < CLOSE


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 40), batch=st.integers(0, 2), samples=st.integers(1, 3), fused=st.booleans())
def test_samples_share_the_bias(of_diffusion, n, batch, samples, fused):
    a, s, z = inputs(n, *([batch] if batch else []), samples)
    if fused and batch:
        return  # Protenix's convolution takes one leading dimension
    z = channels_first(z) if fused else z
    expected = of_diffusion(a, s, z, enable_efficient_fusion=fused)
    found = PairBiasAttention(of_diffusion, DENSE)(a, s, z, enable_efficient_fusion=fused)
    assert relative(found, expected) < CLOSE


@pytest.mark.parametrize("sizes", [{"c_z": 128}, {"c_z": 256}, {"c_a": 96, "n_heads": 16}])
def test_other_widths(sizes):
    layer = make(False, **sizes)
    a, z = normal(21, layer.attention.c_q), normal(21, 21, layer.layernorm_z.weight.shape[0])
    assert relative(PairBiasAttention(layer, DENSE)(a, None, z), layer(a, None, z)) < CLOSE


@pytest.mark.parametrize("inplace_safe", [False, True])
def test_inputs_belong_to_the_caller(stock, inplace_safe):
    given = inputs(19, 2) if stock.has_s else inputs(19)
    kept = [tensor.clone() for tensor in given]
    out = PairBiasAttention(stock, DENSE)(*given, inplace_safe=inplace_safe)
    assert relative(out, stock(*given)) < CLOSE
    assert all(map(torch.equal, given, kept))


def test_without_the_bias_it_is_another_result(stock):
    given = inputs(17)
    out = PairBiasAttention(stock, NONE)(*given)
    assert relative(out, stock(*given)) > 1e-2
    flat = (*given[:2], torch.ones(17, 17, C_Z))  # the same bias for all pairs is none
    assert relative(out, stock(*flat)) < CLOSE


def test_local_attention_is_not_done_here(stock):
    with pytest.raises(ValueError, match="local attention"):
        PairBiasAttention(stock, DENSE)(*inputs(64), n_queries=32, n_keys=128)


def test_gradients_are_those_of_stock(stock):
    """Training, or guidance that looks through the layer: what is kept has none, and nothing is kept."""
    a, s, z = (tensor.requires_grad_() for tensor in inputs(13))
    ours = PairBiasAttention(stock, DENSE, Keep())
    ours(a, s, z)
    found = []
    for layer in (stock, ours, ours):
        with torch.enable_grad():
            wanted = [a, z, layer.linear_nobias_z.weight]
            found.append(torch.autograd.grad(layer(a, s, z).square().sum(), wanted))
    for gradients in found[1:]:
        assert all(relative(ours, theirs) < 1e-4 for ours, theirs in zip(gradients, found[0], strict=True))


def test_no_random_number_is_drawn(stock):
    before = torch.get_rng_state()
    for layer in (PairBiasAttention(stock, DENSE), lowrank(stock)):
        layer(*inputs(33))
    assert torch.equal(before, torch.get_rng_state())


def test_parameters_keep_their_names(stock):
    assert list(PairBiasAttention(stock, DENSE).state_dict()) == list(stock.state_dict())


# Factors


def test_more_channels_are_nearer(stock):
    given = inputs(60, rank=6)
    exact = PairBiasAttention(stock, DENSE)(*given)
    errors = [relative(lowrank(stock, rank)(*given), exact) for rank in (2, 8, 24, 60)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("n", [2, 3, 17, 61, 130])
@pytest.mark.parametrize(("rank", "reach"), [(1, 0), (12, 0), (40, 0), (4, 3), (12, 16)])
@pytest.mark.parametrize("samples", [(), (3,)])
def test_the_error_that_it_states_is_that_of_its_output(stock, n, rank, reach, samples):
    given, layer = inputs(n, *samples, rank=6), lowrank(stock, rank, reach=reach)
    error = relative(layer(*given), PairBiasAttention(stock, DENSE)(*given))
    said = layer.report()["certified_error"]
    assert said == pytest.approx(error, rel=0.3, abs=1e-3)
    assert layer.report() == {
        "way": "lowrank", "rank": rank, "reach": reach, "certified_error": said, "fallbacks": 0,
    }  # fmt: skip


def test_more_neighbours_are_nearer(stock):
    given = inputs(60, rank=6)
    exact = PairBiasAttention(stock, DENSE)(*given)
    errors = [relative(lowrank(stock, 4, reach=reach)(*given), exact) for reach in (0, 5, 20, 60)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5


def test_beyond_the_tolerance_the_call_is_exact(stock):
    given = inputs(50)
    exact = PairBiasAttention(stock, DENSE)(*given)
    for tolerance, fallbacks in ((1.0, 0), (1e-6, 3)):
        layer = lowrank(stock, 4, tolerance)
        outputs = [layer(*given) for _ in range(3)]
        assert layer.report()["fallbacks"] == fallbacks
        assert all(torch.equal(output, exact) == bool(fallbacks) for output in outputs)
    assert layer.report()["certified_error"] == 0.0


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e6])
def test_no_nan_of_its_own(stock, scale):
    assert torch.isfinite(lowrank(stock)(*inputs(40, scale=scale))).all()


def test_a_bias_that_is_not_finite_is_left_to_the_exact_kernel(stock):
    a, s, z = inputs(40)
    z[3, 5] = float("inf")
    layer = lowrank(stock)
    layer(a, s, z)
    assert layer.report()["fallbacks"] == 1


def test_later_cycles_start_from_the_last_and_are_as_near(stock):
    layer = lowrank(stock)
    for cycle in range(4):
        a, s, z = inputs(70, rank=6)
        z = z + 0.1 * cycle * normal(70, 70, C_Z, seed=9)
        exact = PairBiasAttention(stock, DENSE)(a, s, z)
        assert relative(layer(a, s, z), exact) < 1.1 * relative(lowrank(stock)(a, s, z), exact) + 1e-3


def test_nothing_is_left_of_the_last_prediction(stock):
    layer, given = lowrank(stock), inputs(50, rank=6)
    first, report = layer(*given), layer.report()
    layer(*inputs(50, seed=5))
    layer(*inputs(30))
    layer.begin()
    assert torch.equal(layer(*given), first)
    assert layer.report() == report


def test_report_says_what_ran(stock):
    exact = {"way": "dense", "rank": None, "reach": None, "certified_error": 0.0, "fallbacks": 0}
    assert PairBiasAttention(stock, DENSE).report() == exact
    assert PairBiasAttention(stock, NONE).report()["certified_error"] is None


# What is kept


class Counted(PairBiasAttention):
    """Counts how often the exact bias is made."""

    made = 0

    def _exact(self, z, fused):
        self.made += 1
        return super()._exact(z, fused)


@pytest.fixture(params=[DENSE, Rule("*", "lowrank", 16, 1.0, 4), Rule("*", "lowrank", 1, 1e-9)],
                ids=["dense", "factors", "factors that fail"])  # fmt: skip
def kept(request, of_diffusion):
    """A layer that keeps, and one of the same rule that does not."""
    keep = Keep()
    return Counted(of_diffusion, request.param, keep), PairBiasAttention(of_diffusion, request.param), keep


def test_the_same_pairs_are_looked_at_once(kept):
    layer, fresh, _ = kept
    *_, z = inputs(33, 3, rank=6)
    for step in range(4):
        a, s, _ = inputs(33, 3 - step % 2, seed=10 * step)  # the last samples may be fewer
        assert relative(layer(a, s, z), fresh_of(fresh)(a, s, z)) < 1e-6
    assert layer.made == 1
    assert layer.report()["fallbacks"] == fresh.report()["fallbacks"]  # of one call


def test_other_pairs_are_looked_at_anew(kept):
    layer, fresh, _ = kept
    a, s, z = inputs(24, 2, rank=6)
    for other in (z.clone(), inputs(24, 2, seed=7)[2], z.transpose(-2, -3), z.flip(-1)):
        layer(a, s, z)
        assert torch.equal(layer(a, s, other), fresh_of(fresh)(a, s, other))
    assert layer.made == 8


def fresh_of(layer):
    layer.begin()
    return layer


def test_a_change_in_place_is_seen(kept):
    layer, fresh, _ = kept
    a, s, z = inputs(24, 2, rank=6)
    z = z.clone()
    before = layer(a, s, z)
    view = z[..., :5, :, :]
    for change in (lambda: z.mul_(-1), lambda: view[..., 0].add_(9), lambda: z.detach().zero_()):
        change()
        after = layer(a, s, z)
        assert relative(after, before) > 1e-3
        assert torch.equal(after, fresh_of(fresh)(a, s, z))
        before = after


def test_memory_that_another_tensor_takes_over_is_not_taken_for_the_first(kept):
    layer, fresh, _ = kept
    a, s, _ = inputs(24, 2)
    for seed in range(6):
        z = normal(1, 24, 24, C_Z, seed=seed)  # the last one is gone, and its memory would be free
        assert torch.equal(layer(a, s, z), fresh_of(fresh)(a, s, z))
        del z


def test_new_weights_are_seen(kept):
    layer, fresh, _ = kept
    a, s, z = inputs(24, 2, rank=6)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    before = layer(a, s, z)
    changed = {name: value * (2 if "_z" in name else 1) for name, value in state.items()}
    for weights, same in ((changed, False), (state, True)):
        layer.load_state_dict(weights)
        after = layer(a, s, z)
        assert torch.equal(after, fresh_of(fresh)(a, s, z))
        assert torch.equal(after, before) == same


def test_a_new_prediction_keeps_nothing(kept):
    layer, _, _ = kept
    given = inputs(24, 2)
    first = layer(*given)
    layer.begin()
    assert torch.equal(layer(*given), first)
    assert layer.made == 2


def test_what_is_known_to_be_the_same_may_come_in_new_tensors_and_either_form(kept):
    layer, fresh, keep = kept
    a, s, z = inputs(33, 2, rank=6)
    source = normal(5)
    keep.source = (source,)
    for form in (z.clone(), channels_first(z), z.clone()):
        fused = form.shape[-1] != C_Z
        found = layer(a, s, form, enable_efficient_fusion=fused)
        assert relative(found, fresh_of(fresh)(a, s, z)) < CLOSE
    assert layer.made == 1
    source.add_(1)
    other = inputs(33, 2, seed=4)[2]
    assert torch.equal(layer(a, s, other), fresh_of(fresh)(a, s, other))
    keep.source = (source, source.clone())
    assert torch.equal(layer(a, s, z), fresh_of(fresh)(a, s, z))
    assert layer.made == 3


def test_another_precision_is_another_bias(of_diffusion):
    layer = Counted(of_diffusion, DENSE, Keep())
    given = inputs(24, 2)
    exact = layer(*given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert 1e-4 < relative(layer(*given).float(), exact) < 0.1
    assert torch.equal(layer(*given), exact)
    assert layer.made == 3


def test_what_cannot_be_told_apart_is_not_kept(of_diffusion):
    layer = Counted(of_diffusion, DENSE, Keep())
    with torch.inference_mode():  # whose tensors count no versions
        a, s, z = inputs(24, 2)
        z = z * 1
        before = layer(a, s, z)
        z.mul_(-1)
        assert relative(layer(a, s, z), before) > 1e-3
    assert layer.made == 2


@pytest.mark.parametrize(("long", "with_room"), [(18, 18), (17, 12)])
def test_with_no_room_left_layers_make_theirs_in_each_call(of_diffusion, monkeypatch, long, with_room):
    """Heads of all layers beside channels of pairs: 4 a layer, beside 3 x 24, or 2 x 24 from `long` on."""
    monkeypatch.setattr("flashbias_fold.pairformer.keep._LONG", long)
    keep = Keep()
    layers = [Counted(of_diffusion, DENSE, keep) for _ in range(20)]
    given = inputs(17, 2)
    for _ in range(3):
        assert len({layer(*given).sum().item() for layer in layers}) == 1
    assert [layer.made for layer in layers] == [1] * with_room + [3] * (20 - with_room)
