"""Weights for an architecture that nobody has trained here: times do not depend on them."""

from __future__ import annotations

import torch
from torch import nn

_SEED = 0


def draw(network: nn.Module) -> None:
    """Random weights, the same each time, under which every layer's output is about as large as its input.

    So activations stay finite, in 16 bit too, however many blocks, cycles and steps there are; and they are
    noise, as trained ones look to the hardware: zeros would save a GPU power, and so time.
    """
    generators: dict[torch.device, torch.Generator] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:  # a constant of the architecture
            continue
        device = parameter.device
        generator = generators.setdefault(device, torch.Generator(device).manual_seed(_SEED))
        with torch.no_grad():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
