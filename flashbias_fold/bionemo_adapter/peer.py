"""Protenix as the BioNeMo Inference Runtime computes it, timed by the same stages."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

MODEL = "protenix-v2"  # the only one that it has


class Peer:
    """A model of the runtime with given weights.

    Args:
        weights: Protenix's own, by Protenix's names.
        device: A GPU.
        samples: Structures.
    """

    def __init__(self, weights: Mapping[str, Tensor], device: torch.device, samples: int) -> None:
        # By name, since what checks types has no need of the package.
        model: Any = importlib.import_module("bionemo_ir.models.protenix").Protenix()
        model.load_weights(weights=dict(weights))
        self._model = model.to(device).eval()
        self._samples = samples

    def predict(
        self, features: dict[str, Any], seed: int, cycles: int, steps: int, lap: Callable[[str], None]
    ) -> Tensor:
        """Return the coordinates (samples, atoms, 3).

        Args:
            features: Protenix's, on the device; they stay as they are.
            seed: Of its noise and of the rows that it takes of an alignment, which are not those of Protenix.
            cycles: Recycling cycles.
            steps: Denoising steps.
            lap: Called at the end of `trunk`, `diffusion` and `confidence`.
        """
        with torch.no_grad(), self._telling(lap):
            found = self._model(
                dict(features),
                recycling_steps=cycles - 1,
                num_sampling_steps=steps,
                diffusion_samples=self._samples,
                sampling_seed=seed,
            )
        lap("confidence")
        coordinates: Tensor = found["coordinate"]
        return coordinates.reshape(-1, *coordinates.shape[-2:])

    @contextmanager
    def _telling(self, lap: Callable[[str], None]) -> Iterator[None]:
        """Have the model tell when its trunk and its sampling end."""
        model = self._model
        sample = model.sample_diffusion

        @functools.wraps(sample)
        def sample_and_tell(*arguments: Any, **options: Any) -> Any:
            coordinates = sample(*arguments, **options)
            lap("diffusion")
            return coordinates

        handle = model.trunk.register_forward_hook(lambda *_: lap("trunk"))
        model.sample_diffusion = sample_and_tell
        try:
            yield
        finally:
            handle.remove()
            del model.sample_diffusion
