"""A model, ready to predict: Protenix built and loaded, its attention swapped, its stages timed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from flashbias_fold.checksum import verify
from flashbias_fold.choices import CHOICES
from flashbias_fold.errors import DeviceMemoryError, FlashbiasError, JobError, SetupError
from flashbias_fold.pairformer import Plan
from flashbias_fold.protenix_adapter import environment, swap
from flashbias_fold.protenix_adapter.checkpoints import load_weights
from flashbias_fold.protenix_adapter.features import Features, featurize, seed_everything
from flashbias_fold.protenix_adapter.initial_weights import (
    draw_initial_values,
    keep_generators,
    uninitialised,
)
from flashbias_fold.protenix_adapter.kernels import stock_kernels, usable_dtype
from flashbias_fold.protenix_adapter.memory import CHUNK_LADDER, DeviceMemory, chunk_rows
from flashbias_fold.protenix_adapter.models import Model, build_config
from flashbias_fold.protenix_adapter.networks import Find, networks_of, no_networks
from flashbias_fold.protenix_adapter.ordered_sums import OrderedSums
from flashbias_fold.protenix_adapter.origin import Origin


class Observer(Protocol):
    """Told where a prediction is."""

    def stage(self, name: str) -> None:
        """A stage begins: featurize, trunk, diffusion, confidence or write."""

    def step(self, done: int, total: int) -> None:
        """A recycling cycle (in the trunk) or a denoising step (in diffusion) is done."""


class Silence:
    """An observer that does nothing."""

    def stage(self, name: str) -> None:
        """Ignore it."""

    def step(self, done: int, total: int) -> None:
        """Ignore it."""


@dataclass
class Prediction:
    """What one seed of one job gave.

    Attributes:
        output: Protenix's prediction dictionary: coordinates, confidences, full data.
        stages_s: Seconds by stage, taken with the device synchronised.
        stages_peak_bytes: Peak memory by stage: of the device; on a CPU, of the process.
        peak_memory_bytes: The largest of these.
        peak_process_memory_bytes: Of the process.
        origin: What made it.
        chunk_size: Rows attended at once, where memory forced a choice.
        layers: What each replaced attention did.
        graphs: How much of the trunk and of diffusion was replayed as a CUDA graph, and why not the rest.
    """

    features: Features
    output: dict[str, Any]
    stages_s: dict[str, float]
    stages_peak_bytes: dict[str, int]
    peak_memory_bytes: int
    peak_process_memory_bytes: int
    origin: Origin
    chunk_size: int | None = None
    layers: list[dict[str, Any]] = field(default_factory=list)
    graphs: dict[str, dict[str, Any]] = field(default_factory=dict)


class Engine:
    """A loaded model on a device.

    Args:
        model: Which model.
        plan: How its attention layers are computed; its conditions are looked at in each prediction.
        device: Where.
        dtype: `bf16`, `fp16` or `fp32`: the autocast type on a GPU. A CPU, and a card older than compute
            capability 8.0, computes in fp32, as in Protenix.
        samples: Structures for each seed.
        steps: Denoising steps; the model's own number by default.
        cycles: Recycling cycles; the model's own number by default.
        rna_msa: Read the alignments of RNA chains, which Protenix leaves aside by default.
        trust_checkpoint: Allow a checkpoint that holds more than tensors.
        initialise: Gives the network on the device its weights, of which none has a value yet; by default
            they are the checkpoint's, which is not read otherwise.

    Attributes:
        load_warnings: In what the checkpoint differs from the model that was made from it, a sentence each.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        *,
        device: torch.device,
        dtype: str,
        samples: int,
        steps: int | None = None,
        cycles: int | None = None,
        rna_msa: bool = False,
        trust_checkpoint: bool = False,
        initialise: Callable[[nn.Module], None] | None = None,
    ) -> None:
        environment.prepare()
        if device.type != "cuda" and environment.uses_cuda_layernorm():
            raise SetupError(
                "Protenix's LayerNorm is the CUDA kernel, which cannot run on the CPU: "
                "export LAYERNORM_TYPE=torch, or hide the GPU with CUDA_VISIBLE_DEVICES="
            )
        self.model = model
        self.device = device
        self.config = build_config(model)
        self.dtype = usable_dtype(device, dtype)
        self.config.dtype = self.dtype
        self.config.sample_diffusion.N_sample = samples
        self.config.sample_diffusion.N_step = steps or self.config.sample_diffusion.N_step
        self.config.model.N_cycle = cycles or self.config.model.N_cycle
        self.config.use_rna_msa = rna_msa
        self.kernels = stock_kernels(device)
        self.config.triangle_attention = self.kernels.attention
        self.config.triangle_multiplicative = self.kernels.multiplication
        self.network = self._build()
        self.load_warnings: list[str] = []
        if initialise is None:
            verify(model.checkpoint)
            # What Protenix loads is loaded: with most of its small models it is not strict.
            initial = None if self.config.load_strict else partial(draw_initial_values, self.config)
            self.load_warnings = load_weights(
                self.network, model.checkpoint, trust=trust_checkpoint, initial=initial
            )
        else:
            initialise(self.network)
        self.sums = OrderedSums(self.network) if device.type == "cuda" else None  # a CPU adds in order
        self._chunks = self.config.infer_setting.to_dict()
        self._own_chunk: int | None = None
        self.swap = swap.Swap(self.network, swap.STOCK)
        self._gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self._n_token = 1
        self.use(plan)

    def _build(self) -> nn.Module:
        """The network on the device, its weights not yet there."""
        from protenix.model.protenix import Protenix

        with environment.swallow_stdout(), keep_generators(), uninitialised():
            return Protenix(self.config).eval().to(self.device)

    def use(self, plan: Plan) -> None:
        """From here on, compute the attentions as another plan says; the weights stay where they are.

        Until the next prediction tells its size, the layers are those for the size of the last one.

        Raises:
            UsageError: The plan is not for this model, whose attentions are then the stock ones.
        """
        self.swap.restore()
        self._plan: Plan = swap.STOCK
        self._network_of: Find = no_networks
        network_of = networks_of(plan, self.model)
        swap.check(self.network, plan, network_of)
        self._plan, self._network_of = plan, network_of
        self._choose_layers(self._n_token)

    def _choose_layers(self, n_token: int) -> None:
        """Those that the plan has for so many tokens on this device, unless they are in place."""
        self._n_token = n_token
        plan = self._plan.at(self._gpu, n_token)
        if plan != self.swap.plan:
            self.swap.restore()
            self.swap = swap.apply(self.network, plan, self._network_of)

    def predict(self, document: dict[str, Any], seed: int, observer: Observer | None = None) -> Prediction:
        """Predict one job with one seed; the result depends on nothing else.

        Where the device runs out of memory the whole seed is repeated with smaller chunks. The trunk then
        draws the random numbers of a run that had the room; samples are drawn one at a time, so theirs
        come in another order.
        """
        failure = ""
        for chunk_size in CHUNK_LADDER:
            if chunk_size is not None and self._own_chunk is not None and chunk_size > self._own_chunk:
                continue  # larger than what has just failed
            try:
                return self._attempt(document, seed, observer or Silence(), chunk_size)
            except (torch.cuda.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                # The error itself, whose traceback holds every tensor of the attempt, ends with this block.
                failure = str(error)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        raise DeviceMemoryError(
            f"out of memory on {self.device}, also with chunks of {CHUNK_LADDER[-1]} rows ({failure})"
        )

    def predict_features(self, features: Features, seed: int, observer: Observer | None = None) -> Prediction:
        """Predict from features that are ready, and stay as they are for the next prediction from them.

        Where the device runs out of memory that is an error: nothing is repeated with smaller chunks.
        """
        clock = Clock(self.device)
        own = _own_inputs(features, self.device)
        seed_everything(seed)
        self.swap.begin()
        return self._infer(own, seed, observer or Silence(), None, clock)

    def _attempt(
        self, document: dict[str, Any], seed: int, observer: Observer, chunk_size: int | None
    ) -> Prediction:
        clock = Clock(self.device)
        seed_everything(seed)
        self.swap.begin()
        observer.stage("featurize")
        features = featurize(document, self.config)
        clock.lap("featurize")
        return self._infer(features, seed, observer, chunk_size, clock)

    def _infer(
        self,
        features: Features,
        seed: int,
        observer: Observer,
        chunk_size: int | None,
        clock: Clock,
    ) -> Prediction:
        self._fit_to(features.n_token, chunk_size)
        self._choose_layers(features.n_token)
        with StageHooks(self.network, self.config, clock, observer), torch.no_grad(), self._precision():
            output = self._forward(features)
        clock.lap("confidence")
        if not bool(torch.isfinite(output["coordinate"]).all()):
            raise JobError(f"seed {seed}: the model gave coordinates that are not finite")
        return Prediction(
            features=features,
            output=output,
            stages_s=clock.laps,
            stages_peak_bytes=clock.peaks,
            peak_memory_bytes=clock.memory.peak(),
            peak_process_memory_bytes=clock.memory.process_peak(),
            origin=self._origin(seed),
            chunk_size=chunk_size,
            layers=self.swap.report(),
            graphs=self.swap.report_graphs(),
        )

    def _origin(self, seed: int) -> Origin:
        # The name of a plan that is a file is its path, which is nobody's business where a structure goes.
        is_file = self._plan.name not in CHOICES["bias"]
        return Origin(
            model=self.model.name,
            demo_model=self.model.is_demo,
            bias="flashbias" if is_file else self._plan.name,
            plan=self._plan.digest,
            dtype=self.dtype,
            steps=int(self.config.sample_diffusion.N_step),
            cycles=int(self.config.model.N_cycle),
            seed=seed,
        )

    def inputs(self, features: Features) -> dict[str, Any]:
        """Return what the model reads, on the device."""
        from protenix.utils.torch_utils import to_device

        inputs: dict[str, Any] = to_device(dict(features.data["input_feature_dict"]), self.device)
        return inputs

    def _forward(self, features: Features) -> dict[str, Any]:
        output, _, _ = self.network(
            input_feature_dict=self.inputs(features),
            label_full_dict=None,
            label_dict=None,
            mode="inference",
            mc_dropout_apply_rate=self.config.mc_dropout_apply_rate,
        )
        return output

    def _fit_to(self, n_token: int, chunk_size: int | None) -> None:
        """The settings that Protenix's runner changes with the number of tokens, and our smaller chunks."""
        from runner.inference import update_inference_configs

        try:
            update_inference_configs(self.config, n_token)
        except AssertionError as error:
            raise JobError(f"{n_token} tokens: {error}") from error
        settings = self.config.infer_setting
        settings.update(self._chunks)
        self._own_chunk = chunk_rows(self.config, n_token)
        if chunk_size is not None:
            settings.dynamic_chunk_size = False
            settings.chunk_size = chunk_size
            settings.sample_diffusion_chunk_size = 1
        self.network.configs = self.config

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.device.type != "cuda":
            return contextlib.nullcontext()
        dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        return torch.autocast("cuda", dtype=dtypes[self.dtype])


class Clock:
    """Wall time and peak memory by stage, with the device synchronised at each boundary and nowhere else.

    Attributes:
        laps: Seconds by stage.
        peaks: Bytes by stage.
        memory: Where these come from, and the peak of all.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.laps: dict[str, float] = {}
        self.peaks: dict[str, int] = {}
        self.memory = DeviceMemory(device)
        self._start = self._now()

    def lap(self, stage: str) -> None:
        """What went by since the last lap, or since the clock was made, is of `stage`."""
        now = self._now()
        self.laps[stage] = self.laps.get(stage, 0.0) + now - self._start
        self.peaks[stage] = max(self.peaks.get(stage, 0), self.memory.lap())
        self._start = now

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class StageHooks:
    """Forward hooks that tell the stages of Protenix's inference apart, since it is one function.

    The trunk ends with the last pass of the Pairformer, diffusion ends where the distogram head begins
    (the first thing that Protenix computes after sampling), confidence ends with the model.

    Args:
        network: Protenix.
        config: Its configuration, of which cycles and steps are told.
        clock: Whose laps are the stages.
        observer: Told where the prediction is.
    """

    def __init__(self, network: Any, config: Any, clock: Clock, observer: Observer) -> None:
        self._network = network
        self._cycles = int(config.model.N_cycle)
        self._clock = clock
        self._observer = observer
        settings = config.sample_diffusion
        chunk = config.infer_setting.sample_diffusion_chunk_size or settings.N_sample
        self._steps = int(settings.N_step) * -(-int(settings.N_sample) // int(chunk))
        self._done = {"cycles": 0, "steps": 0}
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        network = self._network
        self._observer.stage("trunk")
        self._handles = [
            network.pairformer_stack.register_forward_hook(self._after_cycle),
            network.diffusion_module.register_forward_hook(self._after_step),
            network.distogram_head.register_forward_pre_hook(self._before_confidence),
        ]

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _after_cycle(self, *_: object) -> None:
        self._done["cycles"] += 1
        self._observer.step(self._done["cycles"], self._cycles)
        if self._done["cycles"] == self._cycles:
            self._clock.lap("trunk")
            self._observer.stage("diffusion")

    def _after_step(self, *_: object) -> None:
        self._done["steps"] += 1
        self._observer.step(self._done["steps"], self._steps)

    def _before_confidence(self, *_: object) -> None:
        self._clock.lap("diffusion")
        self._observer.stage("confidence")


def _own_inputs(features: Features, device: torch.device) -> Features:
    """The same with inputs that a prediction may change: the model eats of its dictionaries and tensors."""
    inputs = _copied(features.data["input_feature_dict"], device)
    return replace(features, data={**features.data, "input_feature_dict": inputs})


def _copied(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Dictionaries of their own; and tensors, where what is on the device already would be taken as it is."""
    return {
        key: _copied(value, device)
        if isinstance(value, dict)
        else value.clone()
        if isinstance(value, Tensor) and value.device.type == device.type
        else value
        for key, value in inputs.items()
    }


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    text = str(error)
    return not isinstance(error, FlashbiasError) and (
        "can't allocate memory" in text
        or "CUDA out of memory" in text
        or "CUDA error: out of memory" in text
        or "CUBLAS_STATUS_ALLOC_FAILED" in text
    )
