"""A model on a device that predicts the same features again and again, by one method or another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flashbias_fold.bench.model.methods import Method
from flashbias_fold.bench.model.weights import draw
from flashbias_fold.bionemo_adapter import Peer
from flashbias_fold.errors import JobError
from flashbias_fold.pairformer import Plan
from flashbias_fold.protenix_adapter.engine import Clock, Engine, Observer
from flashbias_fold.protenix_adapter.features import Features
from flashbias_fold.protenix_adapter.models import Model

# With this seed Protenix draws that the trunk's recycling drops nothing, as in six of ten predictions.
SEED = 0
STAGES = ("trunk", "diffusion", "confidence")
_STOCK = Plan.for_bias("stock")


@dataclass(frozen=True)
class Call:
    """One prediction.

    Attributes:
        stages_s: Seconds by stage.
        stages_peak_bytes: Peak memory by stage: of the device; on a CPU, of the process.
        layers: What our layers say of themselves.
        coordinates: For telling two predictions apart.
    """

    stages_s: dict[str, float]
    stages_peak_bytes: dict[str, int]
    layers: list[dict[str, Any]]
    coordinates: Tensor

    @property
    def total_s(self) -> float:
        """All stages."""
        return sum(self.stages_s.values())


Watch = Callable[[nn.Module], AbstractContextManager[Any]]


class Session(Engine):
    """A model with its own weights, or with random ones, and what a benchmark needs of an engine.

    Args:
        model: Which model.
        random_weights: Draw them; no checkpoint is read.
        device: Where.
        dtype: The autocast type.
        samples: Structures.
        steps: Denoising steps.
        cycles: Recycling cycles.
    """

    def __init__(
        self,
        model: Model,
        *,
        random_weights: bool,
        device: torch.device,
        dtype: str,
        samples: int,
        steps: int | None = None,
        cycles: int | None = None,
    ) -> None:
        super().__init__(
            model,
            _STOCK,
            device=device,
            dtype=dtype,
            samples=samples,
            steps=steps,
            cycles=cycles,
            initialise=draw if random_weights else None,
        )
        self._samples = samples
        self._peer: Peer | None = None  # made when it is first asked for
        self._takes_peer = False

    @property
    def cycles(self) -> int:
        """How often a prediction recycles."""
        return int(self.config.model.N_cycle)

    @property
    def steps(self) -> int:
        """In how many steps it denoises."""
        return int(self.config.sample_diffusion.N_step)

    def take(self, method: Method) -> None:
        """Compute by `method` from now on."""
        self._takes_peer = method.is_peer
        if method.is_peer:
            self.use(_STOCK)
            self._peer = self._peer or Peer(self.network.state_dict(), self.device, self._samples)
            return
        self.config.triangle_attention = method.attention
        self.config.triangle_multiplicative = method.multiplication
        self.use(method.plan or _STOCK)

    def restore(self) -> None:
        """Put the stock model back, with the kernels that Protenix takes here."""
        self._takes_peer = False
        self.use(_STOCK)
        self.config.triangle_attention = self.kernels.attention
        self.config.triangle_multiplicative = self.kernels.multiplication

    @contextmanager
    def only(self, cycles: int, steps: int) -> Iterator[None]:
        """Fewer, or more, recycling cycles and denoising steps for a while."""
        kept = self.cycles, self.steps
        self._set(cycles, steps)
        try:
            yield
        finally:
            self._set(*kept)

    def _set(self, cycles: int, steps: int) -> None:
        self.config.model.N_cycle = cycles
        self.config.sample_diffusion.N_step = steps
        network: Any = self.network
        network.N_cycle = cycles

    def call(
        self, features: Features, *, observer: Observer | None = None, watch: Watch | None = None
    ) -> Call:
        """Predict; everything but the weights and the method is the same in each call.

        Args:
            features: Of the job.
            observer: Told where the prediction is.
            watch: What looks at the model meanwhile.

        Raises:
            JobError: What came out is not finite.
        """
        if self._takes_peer:
            return self._call_peer(features)
        with watch(self.network) if watch else nullcontext():
            found = self.predict_features(features, SEED, observer)
        return Call(found.stages_s, found.stages_peak_bytes, found.layers, found.output["coordinate"])

    def _call_peer(self, features: Features) -> Call:
        """Predict by the runtime; its memory is counted beside that of the model here."""
        assert self._peer is not None
        clock = Clock(self.device)
        inputs = self.inputs(features)
        coordinates = self._peer.predict(inputs, SEED, self.cycles, self.steps, clock.lap)
        if not bool(torch.isfinite(coordinates).all()):
            raise JobError("the runtime gave coordinates that are not finite")
        return Call(clock.laps, clock.peaks, [], coordinates)
