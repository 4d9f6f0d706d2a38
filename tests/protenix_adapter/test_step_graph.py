"""When denoising steps are replayed, and that a prediction never comes out otherwise for it.

A CUDA graph cannot be had here. One mock stands for it, at the edge: it replays by calling what was recorded.
"""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import SEQUENCE, protein
from hypothesis import given
from hypothesis import strategies as st
from recorders import MockRecorder, assert_same, predict_eagerly

from flashbias_fold.pairformer import Plan, Rule
from flashbias_fold.protenix_adapter import step_graph, swap
from flashbias_fold.protenix_adapter.cuda_recorder import CudaRecorder, RecordingError, on_the_current_stream
from flashbias_fold.protenix_adapter.engine import Engine
from flashbias_fold.protenix_adapter.recording import SWITCH
from flashbias_fold.protenix_adapter.step_graph import StepGraph

CPU = torch.device("cpu")
SAMPLES, STEPS = 3, 7
PLANS = {
    "dense": Plan.for_bias("dense"),
    "none": Plan.for_bias("none"),
    "factors": Plan("factors", (Rule("diffusion_module.*", "lowrank", 6, 1.0), Rule("*", "dense"))),
    "some": Plan("some", (Rule("diffusion_module.*.blocks.[13].*", "dense"), Rule("*", "stock"))),
}
# Steps before the first replay: one settles, one is recorded. Where nobody looks at the pairs from the second
# step on, they come otherwise then, and all begins anew.
AHEAD = {"dense": 3, "none": 2, "factors": 3, "some": 2}
OTHER = protein("other", SEQUENCE[:21])


@pytest.fixture(scope="module")
def engine(random_model, components):
    components.install_for(protein())
    return Engine(
        random_model, Plan.for_bias("stock"), device=CPU, dtype="fp32", samples=SAMPLES, steps=STEPS, cycles=1
    )


@pytest.fixture
def recorder(monkeypatch):
    """In place of CUDA's, in all plans that are put on a model from now on."""
    mock = MockRecorder()
    monkeypatch.setattr(step_graph, "CudaRecorder", lambda module: mock)
    monkeypatch.setattr(step_graph, "FEWEST_STEPS", 1)
    return mock


@pytest.fixture
def use(engine):
    """Put a plan on the model; what replays its steps."""

    def put(name):
        engine.use(PLANS[name])
        return next(hook for hook in engine.swap._hooks if isinstance(hook, StepGraph))

    chunks = dict(engine._chunks)
    yield put
    engine.use(Plan.for_bias("stock"))
    engine._chunks = chunks


@pytest.fixture
def eager(engine, monkeypatch):
    """A prediction in which nothing is replayed, with the plan that is on the model."""

    return partial(predict_eagerly, engine, monkeypatch)


@pytest.mark.parametrize("name", PLANS)
def test_replayed_predictions_are_the_same_to_the_last_bit(engine, use, eager, recorder, name):
    graph = use(name)
    expected = eager(protein(), 1)
    assert (graph.replayed, recorder.recorded, graph.why_not) == (0, 0, f"{SWITCH}=0")
    assert_same(engine.predict(protein(), 1), expected)
    assert (graph.replayed, recorder.recorded, graph.why_not) == (STEPS - AHEAD[name], 1, None)
    assert recorder.alive == []


def test_one_size_and_seed_after_the_other(engine, use, eager, recorder):
    graph = use("dense")
    for count, (document, seed) in enumerate([(protein(), 1), (OTHER, 1), (OTHER, 2), (protein(), 2)], 1):
        found = engine.predict(document, seed)
        assert (graph.replayed, recorder.recorded) == (STEPS - AHEAD["dense"], count)
        assert_same(found, eager(document, seed))


def test_chunks_of_samples(engine, use, eager, recorder):
    """The second chunk is as large as the first and takes its graph; the third is smaller and has its own."""
    graph = use("dense")
    engine._chunks["sample_diffusion_chunk_size"] = 2
    engine.config.sample_diffusion.N_sample = 5
    try:
        found = engine.predict(OTHER, 1)
        assert (graph.replayed, recorder.recorded) == (3 * STEPS - AHEAD["dense"] - 2, 2)
        assert_same(found, eager(OTHER, 1))
    finally:
        engine.config.sample_diffusion.N_sample = SAMPLES


@pytest.mark.parametrize(
    ("verb", "times"), [("rehearse", 0), ("record", 0), ("record", 1), ("replay", 0), ("replay", 2)]
)
def test_what_goes_wrong_is_remembered_and_harms_nothing(engine, use, eager, recorder, verb, times):
    graph = use("dense")
    expected = eager(OTHER, 1)
    recorder.errors[verb] = RuntimeError("operation not permitted"), times
    for _ in range(3):
        assert_same(engine.predict(OTHER, 1), expected)
        assert recorder.alive == []
    assert graph.why_not == "RuntimeError: operation not permitted"
    assert graph.replayed == 0
    assert recorder.recorded == {"rehearse": 0, "record": times + 1, "replay": 1}[verb]


@pytest.mark.parametrize("verb", ["record", "replay"])
def test_want_of_memory_passes(engine, use, eager, recorder, verb):
    graph = use("none")
    expected = eager(OTHER, 1)
    recorder.errors[verb] = torch.OutOfMemoryError("CUDA out of memory."), 0
    assert_same(engine.predict(OTHER, 1), expected)
    assert graph.why_not == "OutOfMemoryError: CUDA out of memory."
    recorder.errors.clear()
    recorder.room = False
    assert_same(engine.predict(OTHER, 1), expected)
    assert "too little memory" in graph.why_not
    recorder.room = True
    assert_same(engine.predict(OTHER, 1), expected)
    assert (graph.why_not, graph.replayed) == (None, STEPS - AHEAD["none"])


@pytest.mark.parametrize("factor", [0.9, torch.nan])
def test_a_graph_that_gives_something_else_is_not_used(engine, use, eager, recorder, factor):
    graph = use("dense")
    recorder.factor = factor
    assert_same(engine.predict(OTHER, 1), eager(OTHER, 1))
    recorder.factor = 1.0
    engine.predict(OTHER, 1)
    assert (graph.replayed, recorder.recorded) == (0, 1)
    assert "what was recorded is off" in graph.why_not


def test_out_of_memory_in_a_step_is_retried_without_the_graph_in_the_way(engine, use, recorder, monkeypatch):
    """What the first attempt had recorded is gone when the second begins."""
    graph = use("dense")
    alive = []

    def failing(module, arguments):
        alive.append(len(recorder.alive))
        if len(alive) == STEPS:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    def predict():
        alive.clear()
        hook = engine.network.diffusion_module.register_forward_pre_hook(failing)
        try:
            return engine.predict(OTHER, 1)
        finally:
            hook.remove()

    found = predict()
    assert found.chunk_size is not None
    assert alive[STEPS - 1 : STEPS + 1] == [1, 0]
    assert graph.replayed == SAMPLES * STEPS - AHEAD["dense"]
    monkeypatch.setenv(SWITCH, "0")
    assert_same(found, predict())


def test_an_error_in_a_later_step_leaves_no_graph_behind(engine, use, recorder):
    use("dense")
    alive = []

    def failing(module, arguments):
        alive.append(len(recorder.alive))
        if len(alive) == STEPS:
            raise ZeroDivisionError

    hook = engine.network.diffusion_module.register_forward_pre_hook(failing)
    with pytest.raises(ZeroDivisionError):
        engine.predict(OTHER, 1)
    hook.remove()
    assert (alive[-1], recorder.alive) == (1, [])


def test_hooks_on_the_module_see_each_step_and_hooks_inside_keep_it_as_it_was(engine, use, recorder):
    graph = use("dense")
    seen = []
    told = SimpleNamespace(stage=lambda name: None, step=lambda done, total: seen.append(total))
    engine.predict(OTHER, 1, told)
    assert (seen, graph.replayed) == ([1] + [STEPS] * STEPS, STEPS - AHEAD["dense"])
    inside = engine.network.diffusion_module.diffusion_transformer
    hook = inside.register_forward_hook(lambda *_: seen.append("inside"))
    engine.predict(OTHER, 1)
    hook.remove()
    assert (seen.count("inside"), graph.replayed) == (STEPS, 0)
    assert "looks at what is inside" in graph.why_not


def test_where_it_would_gain_nothing(engine, use, recorder, monkeypatch):
    graph = use("dense")
    monkeypatch.setattr(step_graph, "FEWEST_STEPS", STEPS + 1)
    engine.predict(OTHER, 1)
    assert (graph.replayed, graph.why_not) == (0, f"{STEPS} steps, fewer than {STEPS + 1}")
    monkeypatch.setattr(step_graph, "FEWEST_STEPS", STEPS)
    monkeypatch.setattr(step_graph, "MOST_PLACES", SAMPLES * 21 - 1)
    engine.predict(OTHER, 1)
    assert (graph.replayed, graph.why_not) == (
        0,
        f"{SAMPLES * 21} tokens in all samples, more than {SAMPLES * 21 - 1}: launches do not count",
    )
    monkeypatch.setattr(step_graph, "MOST_PLACES", SAMPLES * 21)
    engine.predict(OTHER, 1)
    assert (graph.replayed, graph.why_not) == (STEPS - AHEAD["dense"], None)


def test_without_a_gpu_nothing_is_recorded(engine, use):
    graph = use("dense")
    engine.predict(OTHER, 1)
    assert (graph.replayed, graph.why_not) == (0, "the model is on cpu")


def test_stock_is_left_alone_and_restoring_leaves_no_trace(engine, recorder):
    diffusion = engine.network.diffusion_module
    handle = swap.apply(engine.network, Plan.for_bias("stock"))
    assert "forward" not in vars(diffusion)
    handle.restore()
    handle = swap.apply(engine.network, PLANS["none"])
    assert "forward" in vars(diffusion)
    handle.restore()
    assert "forward" not in vars(diffusion)


class Denoiser(torch.nn.Module):
    """Some function of all that a step is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x_noisy, t_hat_noise_level, s_inputs, pairs, shift=0.0):
        self.calls = getattr(self, "calls", 0) + 1
        rest = s_inputs.sum() + sum(pairs.values()).sum() + shift
        return x_noisy * self.weight + t_hat_noise_level[..., None, None] + rest


def small_model():
    model = torch.nn.Module()
    model.diffusion_module, model.distogram_head = Denoiser(), torch.nn.Identity()
    model.configs = SimpleNamespace(sample_diffusion=SimpleNamespace(N_step=STEPS))
    return model.eval()


CHANGES = ("nothing", "tensor", "place", "nested", "option", "shape", "gradients", "training", "end")


@given(st.lists(st.sampled_from(("nothing",) * 6 + CHANGES), min_size=8, max_size=40), st.randoms())
def test_no_step_is_stale_whatever_changes_between_them(changes, random):
    model, mock = small_model(), MockRecorder()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(step_graph, "FEWEST_STEPS", 1)
        graph = StepGraph(model, mock)
    graph._idle = lambda given: None
    diffusion, samples, options, learns, kept = model.diffusion_module, 2, {}, False, []
    s_inputs, pairs = torch.rand(4, 3), {"a": torch.rand(2), "b": torch.rand(1)}
    for change in changes:
        if change == "tensor":
            s_inputs = torch.rand(4, 3)
        elif change == "place":
            s_inputs += 1
        elif change == "nested":
            pairs["b"] = torch.rand(1)
        elif change == "option":
            options = {"shift": random.random()}
        elif change == "shape":
            samples = 5 - samples
        elif change == "gradients":
            learns = not learns
        elif change == "training":
            diffusion.train(not diffusion.training)
        elif change == "end":
            model.distogram_head(s_inputs)
            assert mock.alive == []
        x, level = torch.rand(samples, 5, 3), torch.rand(1).expand(samples)
        with torch.set_grad_enabled(learns):
            found = diffusion(x_noisy=x, t_hat_noise_level=level, s_inputs=s_inputs, pairs=pairs, **options)
            right = Denoiser.forward(diffusion, x, level, s_inputs, pairs, **options)
        assert torch.equal(found, right) and found.requires_grad == learns
        kept.append((found, right))
    assert all(torch.equal(found, right) for found, right in kept)  # no output was written to again
    assert len(mock.alive) <= 1
    graph.remove()
    assert mock.alive == [] and "forward" not in vars(diffusion)


def test_what_changes_in_place_is_recorded_anew():
    """What layers have made of it, and keep, is in the graph by its place in memory."""
    model, mock = small_model(), MockRecorder()
    graph = StepGraph(model, mock)
    graph._idle = lambda given: None
    x, level, s_inputs = torch.rand(2, 5, 3), torch.rand(2), torch.rand(4, 3)
    step = {"x_noisy": x, "t_hat_noise_level": level, "s_inputs": s_inputs, "pairs": {"a": torch.rand(2)}}
    counts = []
    with torch.no_grad():
        for changed in (None, s_inputs, step["pairs"]["a"], x):
            if changed is not None:
                changed.add_(1)
            for _ in range(4):
                model.diffusion_module(**step)
            counts.append((mock.recorded, graph.replayed))
    assert counts == [(1, 2), (2, 4), (3, 6), (3, 10)]


def test_a_step_called_otherwise_than_protenix_does_runs_as_it_is():
    model, mock = small_model(), MockRecorder()
    graph = StepGraph(model, mock)
    graph._idle = lambda given: None
    x, level, s_inputs = torch.rand(2, 5, 3), torch.rand(2), torch.rand(4, 3)
    with torch.no_grad():
        for _ in range(5):
            assert model.diffusion_module(x, level, s_inputs, {"a": s_inputs}).shape == x.shape
    assert (graph.replayed, mock.recorded) == (0, 0)


def test_an_error_of_the_model_itself_is_raised():
    """In whichever step: it is not taken for one of the recording alone."""
    for good in range(3):  # then the module is not asked any more
        model, mock = small_model(), MockRecorder()
        graph = StepGraph(model, mock)
        graph._idle = lambda given: None
        forward = graph._forward
        x, level, s_inputs = torch.rand(2, 5, 3), torch.rand(2), torch.rand(4, 3)
        step = {"x_noisy": x, "t_hat_noise_level": level, "s_inputs": s_inputs, "pairs": {"a": s_inputs}}
        with torch.no_grad():
            for _ in range(good):
                model.diffusion_module(**step)

            def failing(**_):
                raise ZeroDivisionError

            graph._forward = failing
            with pytest.raises(ZeroDivisionError):
                model.diffusion_module(**step)
            graph._forward = forward
            assert torch.equal(model.diffusion_module(**step), forward(**step))


class LegacyNorm(torch.nn.Module):
    """Stands for Protenix's compiled LayerNorm, which a graph does not see."""

    def __init__(self, channels, scale, offset):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(channels)) if scale else None
        self.bias = torch.nn.Parameter(torch.rand(channels)) if offset else None
        self.eps = 1e-3

    def forward(self, x):
        raise AssertionError


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("scale", "offset"), [(False, False), (True, False), (True, True)])
def test_no_norm_runs_on_another_stream_while_recording(monkeypatch, dtype, scale, offset):
    from protenix.model.triangular import layers

    with monkeypatch.context() as patched:
        patched.setattr(layers, "FusedLayerNorm", LegacyNorm, raising=False)
        norm = LegacyNorm(24, scale, offset)
        module = torch.nn.Sequential(torch.nn.Identity(), norm)
        x = torch.randn(3, 5, 24).to(dtype)
        with torch.no_grad(), on_the_current_stream(module):
            found = module(x)
        weight, bias = norm.weight, norm.bias
        expected = torch.nn.functional.layer_norm(x.float(), (24,), weight, bias, 1e-3).to(dtype)
        torch.testing.assert_close(found, expected)
        assert found.dtype == dtype
        with pytest.raises(ZeroDivisionError), on_the_current_stream(module):
            raise ZeroDivisionError
        with pytest.raises(AssertionError):
            module(x)
    with on_the_current_stream(module), pytest.raises(AssertionError):  # where none was compiled
        module(x)


def test_what_cuda_cannot_record_is_said():
    recorder = CudaRecorder(torch.nn.Linear(2, 2))
    assert recorder.why_not(torch.zeros(1)) == "the model is on cpu"
    assert RecordingError("x").for_good and not RecordingError("x", for_good=False).for_good
