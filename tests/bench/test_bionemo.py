"""The method `bionemo`. The runtime needs an NVIDIA GPU; what stands in for it here has its interface."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from flashbias_fold.bench.model.inputs import chain, problem
from flashbias_fold.bench.model.methods import Method, why_not
from flashbias_fold.bench.model.session import SEED, STAGES, Session
from flashbias_fold.errors import JobError
from flashbias_fold.protenix_adapter.models import demo_model

CPU, GPU = torch.device("cpu"), torch.device("cuda")
BIONEMO = Method("bionemo", "bionemo", "bionemo")


class MadeUpProtenix(nn.Module):
    """Takes what the runtime's model takes, empties its own dictionary as that does, and computes nothing."""

    scale = 1.0

    def __init__(self):
        super().__init__()
        self.trunk = nn.Identity()
        self.asked = []

    def load_weights(self, weights=None):
        self.weights = weights

    def sample_diffusion(self, batch, samples):
        return torch.full((1, samples, batch["ref_pos"].shape[0], 3), self.scale)

    def forward(self, batch, recycling_steps, num_sampling_steps, diffusion_samples, sampling_seed):
        self.asked.append((recycling_steps, num_sampling_steps, diffusion_samples, sampling_seed))
        self.trunk(batch["ref_pos"])
        coordinate = self.sample_diffusion(batch, diffusion_samples)
        batch.clear()
        return {"coordinate": coordinate[0]}


@pytest.fixture
def runtime(monkeypatch):
    module = ModuleType("bionemo_ir.models.protenix")
    module.Protenix = MadeUpProtenix
    for name in ("bionemo_ir", "bionemo_ir.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture(scope="module")
def session():
    return Session(demo_model(), random_weights=False, device=CPU, dtype="fp32", samples=2, steps=2, cycles=3)


def test_it_predicts_with_protenix_weights_and_is_timed_by_stage(runtime, session, components):
    features = problem(chain(11), session.config, components, 1).features
    session.take(BIONEMO)
    first = session.call(features)
    session.take(Method("stock", session.kernels.attention, session.kernels.multiplication))
    stock = session.call(features)
    session.take(BIONEMO)
    second = session.call(features)
    peer = session._peer._model
    assert peer.weights.keys() == session.network.state_dict().keys()
    assert peer.asked == [(2, 2, 2, SEED)] * 2  # one model for both calls
    for call in (first, second):
        assert tuple(call.stages_s) == tuple(call.stages_peak_bytes) == STAGES
        assert call.coordinates.shape == stock.coordinates.shape
    assert not torch.equal(stock.coordinates, first.coordinates)
    assert "sample_diffusion" not in vars(peer) and not peer.trunk._forward_hooks
    session.restore()
    assert torch.equal(session.call(features).coordinates, stock.coordinates)


def test_coordinates_that_are_not_finite_are_an_error(runtime, session, components, monkeypatch):
    monkeypatch.setattr(MadeUpProtenix, "scale", float("nan"))
    features = problem(chain(7), session.config, components, 1).features
    session.take(BIONEMO)
    with pytest.raises(JobError, match="not finite"):
        session.call(features)
    session.restore()


def test_where_it_cannot_run_it_says_why():
    assert why_not("bionemo", CPU, "protenix-v2") == "needs an NVIDIA GPU"
    assert why_not("bionemo", GPU, "demo") == "computes protenix-v2 alone"
    assert why_not("bionemo", GPU, "protenix-v2") == "bionemo_ir is not installed"
