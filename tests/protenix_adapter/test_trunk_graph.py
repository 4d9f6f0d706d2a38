"""When cycles of the trunk are replayed, and that a prediction never comes out otherwise for it."""

from contextlib import contextmanager
from functools import partial

import pytest
import torch
from conftest import SEQUENCE, protein
from recorders import MockRecorder, assert_same, predict_eagerly

from flashbias_fold.pairformer import Plan, Rule
from flashbias_fold.protenix_adapter import swap, trunk_graph
from flashbias_fold.protenix_adapter.cast_weights import CastWeights
from flashbias_fold.protenix_adapter.engine import Engine
from flashbias_fold.protenix_adapter.recording import SWITCH
from flashbias_fold.protenix_adapter.trunk_graph import TrunkGraph

CPU = torch.device("cpu")
CYCLES = 5
AHEAD = 2  # cycles before the first replay: one settles, one is recorded
SHORT, LONG = protein("short", SEQUENCE[:9]), protein("long", SEQUENCE[:12])


@pytest.fixture(scope="module")
def engine(random_model, components):
    components.install_for(protein())
    return Engine(
        random_model, Plan.for_bias("stock"), device=CPU, dtype="fp32", samples=1, steps=1, cycles=CYCLES
    )


@pytest.fixture
def recorder(monkeypatch):
    """In place of CUDA's, in all plans that are put on a model from now on."""
    mock = MockRecorder()
    monkeypatch.setattr(trunk_graph, "CudaRecorder", lambda module: mock)
    return mock


@pytest.fixture
def use(engine):
    """Put a plan on the model."""
    yield engine.use
    engine.use(Plan.for_bias("stock"))


@pytest.fixture
def eager(engine, monkeypatch):
    """A prediction in which nothing is replayed, with the plan that is on the model."""

    return partial(predict_eagerly, engine, monkeypatch)


@pytest.mark.parametrize(
    "plan",
    [Plan.for_bias("dense"), Plan("some", (Rule("*.blocks.0.*", "none"), Rule("*", "stock")))],
    ids=["dense", "some"],
)
def test_replayed_predictions_are_the_same_to_the_last_bit(engine, use, eager, recorder, plan):
    """One size and seed after the other; and what they recorded is gone before diffusion begins."""
    alive = []
    handle = engine.network.diffusion_module.register_forward_pre_hook(
        lambda *_: alive.append(len(recorder.alive))
    )
    use(plan)
    parts = 1 + len(engine.network.msa_module.blocks)
    try:
        for count, (document, seed) in enumerate([(SHORT, 1), (LONG, 2)], 1):
            found = engine.predict(document, seed)
            assert found.graphs["trunk"] == {"replayed": CYCLES - AHEAD, "why_not": None}
            assert found.graphs["diffusion"] == {"replayed": 0, "why_not": "the model is on cpu"}
            assert (recorder.recorded, recorder.alive) == (parts * count, [])
            expected = eager(document, seed)
            assert expected.graphs["trunk"] == {"replayed": 0, "why_not": f"{SWITCH}=0"}
            assert_same(found, expected)
    finally:
        handle.remove()
    assert alive == [0] * 4


def test_what_is_small_stays_for_the_next_job_of_the_same_size(engine, use, eager, recorder):
    use(Plan.for_bias("dense"))
    recorder.small = True
    parts = 1 + len(engine.network.msa_module.blocks)
    replayed = []
    for document, seed in [(SHORT, 1), (SHORT, 2), (LONG, 1), (SHORT, 1)]:
        found = engine.predict(document, seed)
        assert_same(found, eager(document, seed))
        replayed.append(found.graphs["trunk"]["replayed"])
        assert len(recorder.alive) == parts
    assert replayed == [CYCLES - AHEAD, CYCLES, CYCLES - AHEAD, CYCLES - AHEAD]
    with torch.no_grad():
        next(engine.network.pairformer_stack.parameters()).mul_(1)  # as a new checkpoint would
    assert engine.predict(SHORT, 1).graphs["trunk"]["replayed"] == CYCLES - AHEAD
    use(Plan.for_bias("none"))
    assert recorder.alive == []


def test_an_error_later_on_leaves_nothing_behind(engine, use, recorder):
    use(Plan.for_bias("none"))
    recorder.small = True

    def fail(*_):
        raise ZeroDivisionError

    handle = engine.network.distogram_head.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        engine.predict(SHORT, 1)
    handle.remove()
    assert recorder.recorded > 0 and recorder.alive == []


def test_a_plan_whose_factors_are_computed_in_the_call_is_not_recorded(engine, use, recorder):
    use(Plan("factors", (Rule("*", "lowrank", 4, 1.0),)))
    found = engine.predict(SHORT, 1)
    assert found.graphs["trunk"]["replayed"] == 0
    assert "factors are computed" in found.graphs["trunk"]["why_not"]
    assert recorder.recorded == 0


def test_stock_is_left_alone_and_restoring_leaves_no_trace(engine, recorder):
    network = engine.network
    before = {name: id(weight) for name, weight in network.state_dict(keep_vars=True).items()}
    untouched = lambda: [name for name, part in network.named_modules() if "forward" in vars(part)]  # noqa: E731
    handle = swap.apply(network, Plan.for_bias("stock"))
    assert untouched() == []
    assert handle.report_graphs() == {
        stage: {"replayed": 0, "why_not": "Protenix's own layers run as they are"}
        for stage in ("trunk", "diffusion")
    }
    handle.restore()
    handle = swap.apply(network, Plan.for_bias("dense"))
    assert "pairformer_stack" in untouched()
    handle.restore()
    assert untouched() == []
    assert {name: id(weight) for name, weight in network.state_dict(keep_vars=True).items()} == before


# A made-up model, whose parts write to what they are given


class Part(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(()))
        self.n_blocks = 1

    def forward(self, s, z, pair_mask, inplace_safe=False, chunk_size=None):
        z *= self.weight
        if pair_mask is not None:
            z += pair_mask[..., None]
        if chunk_size:
            z -= chunk_size
        return (None if s is None else s + z.mean(), z)


class Trunk(torch.nn.Module):
    """Cycles as Protenix's."""

    def __init__(self):
        super().__init__()
        self.pairformer_stack = Part()
        self.msa_module = torch.nn.Module()
        self.msa_module.blocks = torch.nn.ModuleList([torch.nn.Module(), torch.nn.Module()])
        for block in self.msa_module.blocks:
            block.pair_stack = Part()
        self.template_embedder = torch.nn.Module()
        self.template_embedder.pairformer_stack = Part()
        self.N_cycle = 6
        self.options = {}

    def forward(self, s, z):
        s_init, z_init = s, z
        for _ in range(self.N_cycle):
            z = z_init + z / 2
            mask = torch.ones(z.shape[:-1])
            z = z + self.template_embedder.pairformer_stack(s=None, z=z.clone(), pair_mask=mask)[1]
            for block in self.msa_module.blocks:
                _, z = block.pair_stack(s=None, z=z, pair_mask=None, **self.options)
            s, z = self.pairformer_stack(s_init + s / 3, z, pair_mask=None, **self.options)
        return s, z


PARTS = 4


@contextmanager
def trunk():
    """A model, its graph and what records; in the end the graph is taken off."""
    model, mock = Trunk().eval(), MockRecorder()
    graph = TrunkGraph(model, mock)
    with torch.no_grad():
        yield model, graph, mock
    graph.remove()
    assert mock.alive == []
    assert not any("forward" in vars(part) for part in model.modules())


def assert_right(model, n=5):
    """As computed by a copy without a graph."""
    s, z = torch.rand(n, 3), torch.rand(n, n, 2)
    plain = Trunk().eval()
    plain.load_state_dict(model.state_dict())
    plain.N_cycle, plain.options = model.N_cycle, model.options
    expected = plain(s.clone(), z.clone())
    found = model(s.clone(), z.clone())
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("verb", "times"),
    [("rehearse", 0), ("rehearse", 2), ("record", 0), ("record", 3), ("replay", 0), ("replay", 6)],
)
def test_what_goes_wrong_is_remembered_and_harms_nothing(verb, times):
    """In one part the others are still replayed, and the first reason is told."""
    with trunk() as (model, graph, mock):
        mock.errors[verb] = RuntimeError("operation not permitted"), times
        for _ in range(2):
            assert_right(model)
            assert graph.why_not == "RuntimeError: operation not permitted"
            assert mock.alive == []


def test_want_of_memory_passes():
    with trunk() as (model, graph, mock):
        mock.errors["record"] = torch.OutOfMemoryError("CUDA out of memory."), 0
        assert_right(model)
        assert graph.why_not == "OutOfMemoryError: CUDA out of memory." and graph.replayed == 0
        mock.errors.clear()
        mock.room = False
        assert_right(model)
        assert "too little memory" in graph.why_not and graph.replayed == 0
        mock.room = True
        assert_right(model)
        assert (graph.why_not, graph.replayed) == (None, model.N_cycle - AHEAD)


@pytest.mark.parametrize("factor", [0.9, torch.nan])
def test_a_graph_that_gives_something_else_is_not_used(factor):
    with trunk() as (model, graph, mock):
        mock.factor = factor
        assert_right(model)
        assert graph.replayed == 0 and "what was recorded is off" in graph.why_not
        mock.factor = 1.0
        assert_right(model)
        assert (graph.replayed, mock.recorded) == (0, PARTS)


@pytest.mark.parametrize("small", [False, True])
def test_jobs_of_changing_sizes_in_one_process(small):
    with trunk() as (model, graph, mock):
        mock.small = small
        for n in (4, 4, 7, 3, 7, 7, 5):
            assert_right(model, n)
            assert graph.why_not is None and graph.replayed >= model.N_cycle - AHEAD
            assert len(mock.alive) == (PARTS if small else 0)
            assert len(graph._parts[0]._buffers) <= len(("s", "z", "pair_mask"))


def test_options_that_change_end_a_recording():
    with trunk() as (model, _, mock):
        mock.small = True
        for chunk_size in (None, 2, 2, 1):
            model.options = {"chunk_size": chunk_size, "inplace_safe": True}
            assert_right(model)
        # The templates' part is not given these.
        assert mock.recorded == 1 + 3 * (PARTS - 1)


def test_where_it_would_gain_nothing(monkeypatch):
    with trunk() as (model, graph, mock):
        model.N_cycle = trunk_graph.FEWEST_CYCLES - 1
        assert_right(model)
        assert graph.why_not == f"{model.N_cycle} cycles, fewer than {trunk_graph.FEWEST_CYCLES}"
        model.N_cycle = trunk_graph.FEWEST_CYCLES
        monkeypatch.setattr(trunk_graph, "MOST_TOKENS", 4)
        assert_right(model)
        assert graph.why_not == "5 tokens, more than 4: launches do not count"
        mock.small = True  # as nothing is
        with torch.autocast("cpu", torch.bfloat16):
            assert_right(model)
        assert [part._weights._copies for part in graph._parts] == [None] * PARTS
        assert mock.recorded == 0
        assert_right(model, 4)
        assert (graph.why_not, graph.replayed) == (None, model.N_cycle - AHEAD)


def test_what_looks_inside_sees_every_cycle():
    with trunk() as (model, graph, _):
        model.pairformer_stack.inner = torch.nn.Identity()
        handle = model.pairformer_stack.inner.register_forward_hook(lambda *_: None)
        seen = []
        around = model.pairformer_stack.register_forward_hook(lambda *_: seen.append("a cycle"))
        model(torch.rand(5, 3), torch.rand(5, 5, 2))
        assert "looks at what is inside" in graph.why_not and graph.replayed == 0
        assert len(seen) == model.N_cycle
        handle.remove(), around.remove()
        model(torch.rand(5, 3), torch.rand(5, 5, 2))
        assert graph.replayed == model.N_cycle - AHEAD


# Weights


def test_cast_weights_change_no_bit_and_are_there_only_under_autocast(engine, use):
    """A CPU's autocast stands for a GPU's: it casts the same weights to the same numbers."""
    use(Plan.for_bias("dense"))
    stack = engine.network.pairformer_stack
    forward, seen = type(stack).forward, {}
    dtypes = {
        "linear": lambda: stack.blocks[0].attention_pair_bias.attention.linear_k.weight.dtype,
        "transition": lambda: stack.blocks[0].pair_transition.linear_no_bias_a.weight.dtype,
        "bias": lambda: stack.blocks[0].attention_pair_bias.attention.linear_q.bias.dtype,
        "multiplication": lambda: stack.blocks[0].tri_mul_out.linear_g.weight.dtype,
        "norm": lambda: stack.blocks[0].pair_transition.layernorm1.weight.dtype,
    }
    look = stack.blocks[0].register_forward_pre_hook(
        lambda *_: seen.update({name: dtype() for name, dtype in dtypes.items()})
    )
    own = {name: id(weight) for name, weight in stack.state_dict(keep_vars=True).items()}
    s = torch.randn(11, stack.blocks[0].c_s)
    z = torch.randn(11, 11, stack.blocks[0].tri_mul_out.c_z)
    options = {"pair_mask": None, "inplace_safe": True}
    try:
        with torch.no_grad():
            stack(s, z.clone(), **options)
            assert set(seen.values()) == {torch.float32}
            with torch.autocast("cpu", torch.bfloat16):
                expected = forward(stack, s, z.clone(), **options)
                assert set(seen.values()) == {torch.float32}
                found = stack(s, z.clone(), **options)
                assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
                assert seen == {
                    "linear": torch.bfloat16, "bias": torch.bfloat16, "transition": torch.float32,
                    "multiplication": torch.float32, "norm": torch.float32,
                }  # fmt: skip
        with torch.autocast("cpu", torch.bfloat16):
            stack(s, z.clone(), None)
            assert set(seen.values()) == {torch.float32}  # gradients may be wanted of them
    finally:
        look.remove()
    assert {name: id(weight) for name, weight in stack.state_dict(keep_vars=True).items()} == own


def test_weights_are_their_own_again_after_an_error():
    layer = torch.nn.Linear(2, 2)
    weights = CastWeights(torch.nn.Sequential(layer))
    own = layer.weight
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ZeroDivisionError), weights.in_place(CPU):
            assert layer.weight.dtype == torch.bfloat16
            raise ZeroDivisionError
        assert layer.weight is own
        with torch.autocast("cpu", torch.float16), weights.in_place(CPU):
            assert layer.weight is own


# On a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_a_recorded_trunk_is_an_eager_one_on_a_gpu(random_model, components, monkeypatch, dtype):
    components.install_for(protein())
    engine = Engine(
        random_model, Plan.for_bias("dense"), device=torch.device("cuda"), dtype=dtype, samples=1, steps=2,
        cycles=CYCLES,
    )  # fmt: skip
    trunks = []
    engine.network.pairformer_stack.register_forward_hook(lambda _module, _arguments, out: trunks.append(out))

    def predict(document, replayed):
        trunks.clear()
        found = engine.predict(document, 1)
        assert found.graphs["trunk"]["replayed"] == replayed, found.graphs
        return [part.clone() for part in trunks[-1]]

    with monkeypatch.context() as patched:  # what libraries take for themselves is taken by then
        patched.setenv(SWITCH, "0")
        engine.predict(protein(), 1)
    reserved = []
    for document in (protein(), SHORT, protein(), SHORT):
        recorded, again = predict(document, CYCLES - AHEAD), predict(document, CYCLES)
        reserved.append(torch.cuda.memory_allocated())
        with monkeypatch.context() as patched:
            patched.setenv(SWITCH, "0")
            eager = predict(document, 0)
        for parts in (recorded, again):
            assert all(torch.equal(*pair) for pair in zip(parts, eager, strict=True))
    assert reserved[2:] == reserved[:2]
