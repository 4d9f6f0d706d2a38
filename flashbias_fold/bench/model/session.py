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
from flashbias_fold.errors import JobError
from flashbias_fold.pairformer import Plan
from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.engine import (
    Engine,
    Observer,
    Silence,
    _Clock,
    _StageHooks,
    uninitialised,
)
from flashbias_fold.protenix_adapter.features import Features, seed_everything
from flashbias_fold.protenix_adapter.memory import DeviceMemory
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
        peak_memory_bytes: Of the device; on a CPU, of the process.
        layers: What our layers say of themselves.
        coordinates: For telling two predictions apart.
    """

    stages_s: dict[str, float]
    peak_memory_bytes: int
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
        self._random_weights = random_weights
        super().__init__(
            model, _STOCK, device=device, dtype=dtype, samples=samples, steps=steps, cycles=cycles
        )

    def _build(self, trust_checkpoint: bool) -> nn.Module:
        if not self._random_weights:
            return super()._build(trust_checkpoint)
        from protenix.model.protenix import Protenix

        with environment.swallow_stdout(), uninitialised():
            network = Protenix(self.config).eval().to(self.device)
        draw(network)
        return network

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
        self.config.triangle_attention = method.attention
        self.config.triangle_multiplicative = method.multiplication
        self.use(method.plan or _STOCK)

    def restore(self) -> None:
        """Put the stock model back, with the kernels that Protenix takes here."""
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
        seed_everything(SEED)
        self.swap.begin()
        self._fit_to(features.n_token, None)
        data = self._on_device(features)
        memory = DeviceMemory(self.device)
        clock = _Clock(self.device)
        stages = _StageHooks(self.network, self.config, clock, observer or Silence())
        with stages, torch.no_grad(), self._precision(), watch(self.network) if watch else nullcontext():
            output, _, _ = self.network(
                input_feature_dict=data,
                label_full_dict=None,
                label_dict=None,
                mode="inference",
                mc_dropout_apply_rate=self.config.mc_dropout_apply_rate,
            )
        clock.lap("confidence")
        if not bool(torch.isfinite(output["coordinate"]).all()):
            raise JobError("the model gave coordinates that are not finite")
        return Call(clock.laps, memory.peak(), self.swap.report(), output["coordinate"])

    def _on_device(self, features: Features) -> dict[str, Any]:
        """What goes into the model, in a dictionary and in tensors of its own: the model changes them.

        Copied before the clock starts: it is the same for all methods.
        """
        from protenix.utils.torch_utils import to_device

        return to_device(_copied(features.data["input_feature_dict"], self.device), self.device)


def _copied(features: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Dictionaries of their own; and tensors, where what is on the device already would be taken as it is."""
    return {
        key: _copied(value, device)
        if isinstance(value, dict)
        else value.clone()
        if isinstance(value, Tensor) and value.device.type == device.type
        else value
        for key, value in features.items()
    }
