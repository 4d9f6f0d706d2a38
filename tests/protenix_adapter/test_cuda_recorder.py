"""The recorder on a real GPU: what it records is replayed, what it refuses leaves nothing behind."""

import gc
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.cuda_recorder import CudaRecorder, RecordingError
from flashbias_fold.protenix_adapter.step_graph import StepGraph
from flashbias_kernels import biased_attention, layer_norm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="records CUDA graphs: needs an NVIDIA GPU"),
]
STEPS, AHEAD = 8, 2  # one step settles, one is rehearsed and recorded
LARGE = 2**24  # numbers, 64 MiB


@pytest.fixture(autouse=True)
def no_gradients_and_no_rest():
    """Predictions need no gradients; and no test inherits what another one left on the GPU."""
    environment.prepare()
    collect()
    with torch.no_grad():
        yield
    collect()


def collect():
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


@pytest.fixture
def module():
    """Matrix products, ours and torch's kernels."""
    torch.manual_seed(0)
    return Layers().cuda().eval().requires_grad_(False)


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x):
        heads = layer_norm(self.first(x), None, None, 1e-5).view(2, -1, 2, 32).transpose(1, 2)
        bias = heads.new_ones(2, heads.shape[2], heads.shape[2]).triu()
        out = biased_attention(heads, heads, heads, bias=bias, backend="triton")
        return self.last(out.transpose(1, 2).reshape(x.shape))


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).cuda()


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_is_recorded_runs_at_each_replay_and_not_before(module):
    recorder, x, runs = CudaRecorder(module), numbers(24, 64), torch.zeros((), device="cuda")

    def run():
        runs.add_(1)
        return module(x)

    assert recorder.why_not(x) is None
    expected = module(x)  # as in a prediction, where kernels are compiled before the rehearsal
    assert_close(recorder.rehearse(run), expected)
    graph = recorder.record(run)
    assert int(runs) == 1, "a recording runs nothing"
    outputs = []
    for seed in range(1, 4):
        x.copy_(numbers(24, 64, seed=seed))
        outputs.append(graph.replay())
        assert_close(outputs[-1], module(x))
    assert int(runs) == 4
    assert len({out.data_ptr() for out in outputs}) == 1, "each replay overwrites the output of the last"
    graph.release()


def test_memory_is_given_back_on_release(module):
    recorder, x = CudaRecorder(module), torch.ones(LARGE, device="cuda")
    collect()
    before, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    graph = recorder.record(lambda: (x * 2).add_(1))
    assert torch.cuda.memory_allocated() >= before + 4 * LARGE
    assert float(graph.replay()[-1]) == 3.0
    graph.release()
    del graph
    collect()
    # Less, if cuBLAS had some before; the generator keeps a few bytes once there has been a graph.
    assert torch.cuda.memory_allocated() <= before + 1024
    assert torch.cuda.memory_reserved() <= reserved


def test_many_recordings_take_no_more_memory_than_one(module):
    recorder, x, taken = CudaRecorder(module), numbers(24, 64), []
    module(x)
    recorder.rehearse(lambda: module(x))
    for _ in range(4):
        graph = recorder.record(lambda: module(x))
        assert_close(graph.replay(), module(x))
        graph.release()
        del graph
        collect()
        taken.append(torch.cuda.memory_allocated())
    assert taken[-1] <= taken[0]


def test_drawn_numbers_are_refused_and_put_back(module):
    recorder, x = CudaRecorder(module), numbers(24, 64)
    torch.cuda.manual_seed(5)
    state = torch.cuda.get_rng_state()
    with pytest.raises(RecordingError, match="random numbers are drawn"):
        recorder.rehearse(lambda: module(x) + torch.randn_like(x))
    assert torch.equal(torch.cuda.get_rng_state(), state)

    def draw_and_fail():
        torch.randn_like(x)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        recorder.rehearse(draw_and_fail)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    recorder.rehearse(lambda: module(x))  # draws none


def test_waiting_is_refused_by_the_rehearsal_and_allowed_again_after(module):
    recorder, x = CudaRecorder(module), numbers(24, 64)
    mode = torch.cuda.get_sync_debug_mode()
    with pytest.raises(RuntimeError, match="synchroniz"):
        recorder.rehearse(lambda: x * x.sum().item())
    assert torch.cuda.get_sync_debug_mode() == mode
    assert x.sum().isfinite().item()


def wait(x):
    return x * float(x.sum())


def fail(x):
    x.add(1)
    raise ZeroDivisionError


def fork_and_not_join(x):
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        return x * 2


@pytest.mark.parametrize("run", [wait, fail, fork_and_not_join])
def test_a_failed_recording_leaves_no_trace(module, run):
    recorder, x, small = CudaRecorder(module), torch.ones(LARGE, device="cuda"), numbers(24, 64)
    module(small)
    recorder.rehearse(lambda: module(small))
    collect()
    here, before = torch.cuda.current_stream(), torch.cuda.memory_allocated()
    torch.cuda.manual_seed(5)
    state = torch.cuda.get_rng_state()
    assert_refused(recorder, lambda: run(x))
    collect()
    assert torch.cuda.current_stream() == here
    assert not torch.cuda.is_current_stream_capturing()
    assert torch.cuda.memory_allocated() <= before
    assert torch.equal(torch.cuda.get_rng_state(), state)
    drawn = torch.randn(8, device="cuda")  # a generator that thinks a recording is under way refuses
    torch.cuda.manual_seed(5)
    assert torch.equal(drawn, torch.randn(8, device="cuda"))
    reserved = torch.cuda.memory_reserved()
    block = torch.ones(LARGE, device="cuda")  # and so does an allocator
    assert float(block[-1]) == 1.0
    del block
    collect()
    assert torch.cuda.memory_reserved() <= reserved
    graph = recorder.record(lambda: module(small))
    assert_close(graph.replay(), module(small))
    graph.release()


def assert_refused(recorder, run):
    """Nothing of the error, whose traceback holds tensors, outlives this call."""
    try:
        recorder.record(run)
    except (RuntimeError, ZeroDivisionError):
        return
    pytest.fail("it was recorded")


def test_nothing_is_recorded_while_somebody_else_records(module):
    recorder, x, said = CudaRecorder(module), numbers(24, 64), []
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        said.append(recorder.why_not(x))
        x.add_(1)
    assert said == ["somebody else is recording"]
    assert recorder.why_not(x) is None
    assert recorder.why_not(x.cpu()) == "the model is on cpu"
    graph.reset()


def test_room_is_what_is_free_and_what_is_cached(module, monkeypatch):
    recorder = CudaRecorder(module)
    torch.cuda.reset_peak_memory_stats()
    block = torch.ones(LARGE, device="cuda")
    del block  # it is cached now: as much as the step needs, once
    assert recorder.has_room()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 1))
    assert not recorder.has_room()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * LARGE, 1))
    assert recorder.has_room()


# With the steps of a sampling


class Denoiser(nn.Module):
    """A step that computes in three kernels, the second of them where `stream` says."""

    def __init__(self, stream=torch.cuda.current_stream):
        super().__init__()
        self.weight = nn.Parameter(torch.full((), 2.0))
        self.stream = stream

    def forward(self, x_noisy, t_hat_noise_level, s_inputs):
        scaled = x_noisy * self.weight
        middle = torch.zeros_like(scaled)
        with torch.cuda.stream(self.stream()):
            torch.add(scaled, 1, out=middle)
        return middle * t_hat_noise_level[..., None, None] + s_inputs.sum()


def sampling_of(diffusion):
    """A model around it, its steps, and what each gave without and with the graph."""
    model = nn.Module()
    model.diffusion_module, model.distogram_head = diffusion, nn.Identity()
    model.configs = SimpleNamespace(sample_diffusion=SimpleNamespace(N_step=100))
    model = model.cuda().eval().requires_grad_(False)
    s_inputs = numbers(5, 3)
    expected, found = [], []
    graph = StepGraph(model)
    for seed in range(STEPS):
        step = {"x_noisy": numbers(2, 7, 3, seed=seed), "t_hat_noise_level": numbers(2, seed=99 + seed)}
        expected.append(type(diffusion).forward(diffusion, **step, s_inputs=s_inputs))
        torch.cuda.synchronize()
        found.append(model.diffusion_module(**step, s_inputs=s_inputs))
        torch.cuda.synchronize()
    return model, graph, expected, found


def test_the_steps_of_a_sampling_are_replayed_and_right():
    model, graph, expected, found = sampling_of(Denoiser())
    assert graph.why_not is None and graph.replayed == STEPS - AHEAD
    for ours, right in zip(found, expected, strict=True):
        assert_close(ours, right)
    collect()
    before = torch.cuda.memory_reserved()
    model.distogram_head(found[0])  # sampling is over
    collect()
    assert torch.cuda.memory_reserved() < before
    graph.remove()


def test_steps_whose_kernels_run_on_another_stream_are_refused_and_right():
    """A graph that lacks a kernel would give what was in memory; it is found out before it is used."""
    _, graph, expected, found = sampling_of(Denoiser(torch.cuda.default_stream))
    assert graph.replayed == 0
    assert graph.why_not is not None
    for ours, right in zip(found, expected, strict=True):
        assert_close(ours, right)
    graph.remove()


def test_steps_that_draw_numbers_are_refused_and_draw_the_same():
    class Drawing(Denoiser):
        def forward(self, **step):
            out = super().forward(**step)
            return out + torch.randn_like(out)

    def sampling(replay):
        torch.cuda.manual_seed(3)
        diffusion = Drawing().cuda().eval().requires_grad_(False)
        model = nn.Module()
        model.diffusion_module, model.distogram_head = diffusion, nn.Identity()
        model.configs = SimpleNamespace(sample_diffusion=SimpleNamespace(N_step=100))
        graph = StepGraph(model.eval()) if replay else None
        step = {"x_noisy": numbers(2, 7, 3), "t_hat_noise_level": numbers(2), "s_inputs": numbers(5, 3)}
        found = [diffusion(**step) for _ in range(STEPS)]
        if graph is not None:
            assert (graph.replayed, graph.why_not) == (0, "RecordingError: random numbers are drawn")
            graph.remove()
        return found

    for ours, right in zip(sampling(True), sampling(False), strict=True):
        assert torch.equal(ours, right)
