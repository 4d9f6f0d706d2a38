"""Weights before any training: left out where a checkpoint has them all, and drawn where it lacks some."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.features import seed_everything

# Protenix draws them from whatever state its process is in; here the same ones come every time.
_SEED = 0


def draw_initial_values(
    config: Any, names: Collection[str], shapes: Collection[torch.Size]
) -> dict[str, Tensor]:
    """Draw the values that Protenix gives to weights before training, the same every time.

    A second network is built for them, by Protenix itself: layers change their weights after they were drawn.

    Args:
        config: Protenix's configuration of the model.
        names: The weights that are wanted.
        shapes: Theirs; weights of other shapes are not drawn, which takes most of the time.
    """
    from protenix.model.protenix import Protenix

    with environment.swallow_stdout(), keep_generators(), uninitialised(but=shapes):
        seed_everything(_SEED)
        state = Protenix(config).state_dict()
    return {name: state[name] for name in names}


@contextlib.contextmanager
def uninitialised(but: Collection[torch.Size] = ()) -> Iterator[None]:
    """Models built here hold whatever is in memory, for a checkpoint that has every one of their weights.

    Protenix draws its initial weights through scipy, which takes most of a minute for a base model.

    Args:
        but: Shapes of the weights that are drawn all the same.
    """
    from protenix.model.modules import primitives
    from protenix.model.triangular import layers

    draw = layers.trunc_normal_init_

    def draw_some(weights: Tensor, *args: Any, **options: Any) -> None:
        if weights.shape in but:
            draw(weights, *args, **options)

    layers.trunc_normal_init_ = primitives.trunc_normal_init_ = draw_some
    try:
        yield
    finally:
        layers.trunc_normal_init_ = primitives.trunc_normal_init_ = draw


@contextlib.contextmanager
def keep_generators() -> Iterator[None]:
    """Building a model draws random numbers; the caller's generators are put back, those of all devices."""
    import random

    import numpy as np

    states = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
