"""What Protenix's diffusion is told of a pair representation that does not change from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flashbias_fold.pairformer import Keep


class Denoising:
    """Hooks on a model, by which the attention of its diffusion transformer knows what it may keep.

    Protenix gives each step a new tensor of the same numbers: a copy of what it has prepared once or, without
    its cache, prepared anew; with its fusion on, normalised and transposed. All of these are computed from
    tensors that stay. Once no layer looks at them any more, copy and normalisation are left out. Before the
    confidence head, which needs the memory, everything is let go; before the first step, what autocast
    keeps: a copy of each of the trunk's weights.

    Args:
        model: A Protenix model.
        keep: What its layers share.
        layers: All attentions of its diffusion transformer, if all are replaced; else none.
    """

    def __init__(self, model: Any, keep: Keep, layers: Sequence[nn.Module]) -> None:
        self._keep = keep
        self._layers = layers
        self._spared = False
        self._begun = False
        diffusion = model.diffusion_module
        self._handles = [
            diffusion.register_forward_pre_hook(self._before_step, with_kwargs=True),
            diffusion.register_forward_hook(self._after_step, always_call=True),
            diffusion.diffusion_conditioning.register_forward_pre_hook(
                self._before_conditioning, with_kwargs=True
            ),
            model.distogram_head.register_forward_pre_hook(self._after_sampling),
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _before_step(self, diffusion: Any, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if not self._begun:
            torch.clear_autocast_cache()
            self._begun = True
        self._keep.source = _source(diffusion, given)
        self._spared = bool(self._layers) and self._keep.serves(self._layers)
        return args, {**given, "enable_efficient_fusion": False} if self._spared else given

    def _before_conditioning(self, _: Any, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self._spared and given.get("pair_z") is not None:
            return args, {**given, "inplace_safe": False}  # what is prepared is not copied then
        return args, given

    def _after_step(self, *_: object) -> None:
        self._keep.source = None
        self._spared = False

    def _after_sampling(self, *_: object) -> None:
        self._begun = False
        self._keep.forget()


def _source(diffusion: Any, given: dict[str, Any]) -> tuple[Tensor, ...] | None:
    """What the pair representation of a step is computed from; None where that is not plain to see."""
    if (pair_z := given.get("pair_z")) is not None:
        return (pair_z,)
    position, trunk = given.get("input_feature_dict", {}).get("relp"), given.get("z_trunk")
    if trunk is None or not isinstance(position, Tensor) or not given.get("use_conditioning", True):
        return None
    return (trunk, position, *diffusion.diffusion_conditioning.parameters())
