"""Where time goes: kinds of layers, floors that count what Protenix computes, kernels within a window."""

import time
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from flashbias_fold.bench.model import floor, layers
from flashbias_fold.bench.model.floor import Rates, Work, floor_s, rates_of, work_of
from flashbias_fold.bench.model.inputs import chain, problem
from flashbias_fold.bench.model.launches import CYCLES, STEPS, Launches, window
from flashbias_fold.bench.model.layers import KINDS, REST, Layer, LayerClock, kind_of
from flashbias_fold.bench.model.session import STAGES, Session
from flashbias_fold.pairformer import Plan, Rule, TriangleAttention
from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.models import demo_model

CPU = torch.device("cpu")
H200 = {"gpu": "NVIDIA H200", "compute_capability": [9, 0], "multiprocessors": 132, "max_clock_mhz": 1980.0}
RATES = Rates(exponentials=1e9, matrix_operations=1e10, bytes=1e8)


@pytest.fixture(scope="module")
def session():
    return Session(demo_model(), random_weights=True, device=CPU, dtype="fp32", samples=1, steps=2, cycles=2)


@pytest.fixture(scope="module")
def features(session, components):
    return problem(chain(13), session.config, components, 1).features


@pytest.fixture(scope="module")
def stock():
    """Protenix's modules, of shapes that no two of agree."""
    environment.prepare()
    from protenix.model.modules.pairformer import PairformerBlock

    with environment.swallow_stdout():
        return PairformerBlock(
            n_heads=6, c_z=40, c_s=48, c_hidden_mul=24, c_hidden_pair_att=8, no_heads_pair=5
        ).eval()


def clocked(session, features):
    clock = LayerClock(CPU, RATES)
    call = session.call(features, observer=clock, watch=clock.watch)
    return call, clock.layers(call.stages_s)


@pytest.mark.parametrize("bias", ["stock", "dense"])
def test_kinds_make_up_each_stage_and_no_more(session, features, bias):
    session.use(Plan.for_bias(bias))
    call, found = clocked(session, features)
    session.restore()
    for stage in STAGES:
        own = [layer.seconds for layer in found if layer.stage == stage and layer.kind != REST]
        assert 0.5 * call.stages_s[stage] < sum(own) <= call.stages_s[stage]
        rest = [layer.seconds for layer in found if (layer.stage, layer.kind) == (stage, REST)]
        assert sum(own) + rest[0] == pytest.approx(call.stages_s[stage])
    assert [layer.seconds for layer in found] == sorted((layer.seconds for layer in found), reverse=True)
    assert all(layer.seconds >= 0 and layer.calls >= 1 for layer in found)
    # The demonstration model reads no templates.
    assert {layer.kind for layer in found} == {*KINDS, REST} - {"template embedder, the rest"}
    known = {layer.kind for layer in found if layer.floor_s is not None}
    assert known == set(floor._COUNTS)


def test_watching_changes_nothing_and_leaves_nothing(session, features):
    expected = session.call(features).coordinates
    call, _ = clocked(session, features)
    assert torch.equal(call.coordinates, expected)
    for module in session.network.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert "prepare_cache" not in vars(module)


def test_nothing_is_left_after_an_error(session, features):
    def fail(*_):
        raise ZeroDivisionError

    hook = session.network.diffusion_module.atom_attention_decoder.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        clocked(session, features)
    hook.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in session.network.modules())
    clocked(session, features)


def test_a_kind_has_its_own_time_without_what_is_inside(monkeypatch):
    """A made-up model, and a clock that the layers themselves turn."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    class Slow(nn.Module):
        def __init__(self, before, *parts):
            super().__init__()
            self.before = before
            self.parts = parts

        def forward(self, x):
            now[0] += self.before
            for part in self.parts:
                x = part(x)
            now[0] += self.before
            return x

    model = nn.Module()
    transition = Slow(2.0)
    transition.linear_no_bias_a = nn.Linear(4, 8, bias=False)
    block = Slow(0.25, transition, transition)
    block.pair_transition = transition
    model.msa_module = Slow(5.0, block)
    model.msa_module.add_module("pair_stack", block)
    clock = LayerClock(CPU, RATES)
    with clock.watch(model):
        clock.stage("trunk")
        model.msa_module(torch.zeros(3, 4))
        clock.stage("diffusion")
        transition(torch.zeros(3, 4))
    found = {(layer.stage, layer.kind): layer for layer in clock.layers({"trunk": 20.0, "diffusion": 4.0})}
    assert {key: (layer.seconds, layer.calls) for key, layer in found.items()} == {
        ("trunk", "MSA module, the rest"): (10.0, 1),
        ("trunk", "Pairformer block, the rest"): (0.5, 1),
        ("trunk", "pair transition"): (8.0, 2),
        ("trunk", REST): (1.5, 1),
        ("diffusion", "pair transition"): (4.0, 1),
        ("diffusion", REST): (0.0, 1),
    }


def test_a_part_of_the_same_kind_is_no_call_of_its_own():
    outer = layers._Span("trunk", "atom encoder", 0.0, None, None, 3.0)
    inner = layers._Span("trunk", "atom encoder", 1.0, outer, None, 2.0)
    assert layers._layer("trunk", "atom encoder", [outer, inner], [2.0, 1.0]) == Layer(
        "trunk", "atom encoder", 3.0, 1, None
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("pairformer_stack.blocks.47.tri_att_start", "triangle attention"),
        ("template_embedder.pairformer_stack.blocks.1.tri_mul_in", "triangle multiplication"),
        ("msa_module.blocks.3.pair_stack.pair_transition", "pair transition"),
        ("msa_module.blocks.3.pair_stack", "Pairformer block, the rest"),
        ("msa_module.blocks.3.msa_stack.transition_m", None),
        ("confidence_head.pairformer_stack.blocks.2", "Pairformer block, the rest"),
        ("confidence_head.pairformer_stack.blocks.2.attention_pair_bias", "attention with pair bias"),
        ("diffusion_module.diffusion_transformer.blocks.23.attention_pair_bias", "diffusion attention"),
        ("diffusion_module.atom_attention_encoder", "atom encoder"),
        (
            "diffusion_module.atom_attention_encoder.atom_transformer.diffusion_transformer.blocks.0"
            ".attention_pair_bias",
            None,
        ),
        ("input_embedder.atom_attention_encoder", "atom encoder"),
        ("", None),
    ],
)
def test_names_tell_the_kind(name, kind):
    assert kind_of(name) == kind


def counted(call):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("tokens", [1, 7, 12])
@pytest.mark.parametrize(
    "name", ["tri_att_start", "tri_att_end", "tri_mul_out", "tri_mul_in", "pair_transition"]
)
def test_operations_are_those_that_protenix_does_with_pairs(stock, name, tokens):
    layer, z = stock.get_submodule(name), torch.randn(tokens, tokens, 40)
    work = work_of(kind_of(f"x.{name}"), layer, (z,), {})
    mask = {} if name == "pair_transition" else {"mask": None}
    assert work.operations == counted(lambda: layer(z, **mask))
    assert work.bytes == 2 * z.numel() * 4
    assert work.exponentials == (5 * tokens**3 if "att" in name else 0)


@pytest.mark.parametrize("tokens", [1, 7, 12])
def test_operations_are_those_that_protenix_does_with_single_places(stock, tokens):
    s, z = torch.randn(tokens, 48), torch.randn(tokens, tokens, 40)
    work = work_of("single transition", stock.single_transition, (s,), {})
    assert work.operations == counted(lambda: stock.single_transition(s))
    options = {"a": s, "s": None, "z": z}
    work = work_of("attention with pair bias", stock.attention_pair_bias, (), options)
    assert work.operations == counted(lambda: stock.attention_pair_bias(**options))
    assert work.exponentials == 6 * tokens**2
    assert work.bytes == z.numel() * 4


def test_ours_come_to_the_same_work(stock):
    z = torch.randn(6, 6, 40)
    ours = TriangleAttention(stock.tri_att_start, Rule("*", "dense"))
    works = [work_of("triangle attention", layer, (), {"x": z}) for layer in (stock.tri_att_start, ours)]
    assert works[0] == works[1]


@pytest.fixture
def own_tf32():
    """What a test sets is put back."""
    kept = torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32 = kept


@pytest.mark.parametrize(("tf32", "speed"), [(True, 0.5), (False, None)])
def test_the_rate_is_that_of_the_type(stock, own_tf32, tf32, speed):
    torch.backends.cuda.matmul.allow_tf32 = tf32
    z = torch.randn(3, 3, 40)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    for context, given, expected in (
        (nullcontext(), z, speed),
        (autocast, z, 1.0),
        (nullcontext(), z.bfloat16(), 1.0),
    ):
        with context:
            assert work_of("pair transition", stock.pair_transition, (given,), {}).speed == expected


def test_the_floor_is_the_longest_of_three():
    assert floor_s(Work(1e10, 0.5e9, 0.5e8, 1.0), RATES) == 1.0
    assert floor_s(Work(1e10, 0.5e9, 0.5e8, 0.5), RATES) == 2.0
    assert floor_s(Work(0.5e10, 3e9, 0.5e8, 1.0), RATES) == 3.0
    assert floor_s(Work(0.5e10, 0.5e9, 4e8, 1.0), RATES) == 4.0
    assert (
        floor_s(Work(1, 1, 1, None), RATES) is floor_s(None, RATES) is floor_s(Work(1, 1, 1, 1), None) is None
    )
    assert Layer("trunk", "x", 4.0, 1, 1.0).share_of_floor == 0.25
    assert (
        Layer("trunk", "x", 0.0, 1, 1.0).share_of_floor
        is Layer("trunk", "x", 1.0, 1, None).share_of_floor
        is None
    )


def test_rates_are_those_of_gpus_that_were_measured():
    rates = rates_of(H200)
    assert rates.matrix_operations == pytest.approx(790e12, rel=0.01)
    assert rates.exponentials == pytest.approx(4.2e12, rel=0.01)
    for other in ({"gpu": "NVIDIA H100"}, {"compute_capability": [8, 0]}, {"max_clock_mhz": None}):
        assert rates_of(H200 | other) is None
    assert rates_of({"cpu": "some"}) is None


def test_a_window_counts_overlapping_kernels_once():
    events = [("b", 30.0, 50.0), ("a", 10.0, 20.0), ("a", 15.0, 25.0), ("c", 32.0, 40.0)]
    found = window(events)
    assert (found.count, found.busy_ms, found.span_ms) == pytest.approx((4, 0.035, 0.04))
    assert [(kernel.name, kernel.count) for kernel in found.kernels] == [("a", 2), ("b", 1), ("c", 1)]
    assert found.kernels[0].busy_ms == pytest.approx(0.02)
    assert window([]).count == window([]).busy_ms == window([]).span_ms == 0


def test_launches_look_at_one_cycle_and_one_step(session, features, monkeypatch):
    seen = []
    monkeypatch.setattr(Launches, "_begin", lambda _: seen.append("begin"))
    monkeypatch.setattr(Launches, "_end", lambda _, name: seen.append(name))
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: seen.append(name))
        for name, module in (
            ("alignment", session.network.msa_module),
            ("pairs", session.network.pairformer_stack),
            ("denoise", session.network.diffusion_module),
        )
    ]
    with session.only(CYCLES, STEPS):
        session.call(features, watch=Launches(CPU).watch)
    for hook in hooks:
        hook.remove()
    cycle, step = ("alignment", "pairs"), ("denoise",)
    expected = [*cycle, "begin", *cycle, "cycle", *step, *step, *step, "begin", *step, "step"]
    assert sorted(seen) == sorted(expected)
    first, last = seen.index("begin"), seen.index("cycle")
    assert tuple(seen[first + 1 : last]) == cycle
    first, last = len(seen) - 1 - seen[::-1].index("begin"), seen.index("step")
    assert seen[first + 1 : last].count("denoise") == 1
    assert not any(module._forward_hooks for module in session.network.modules())
