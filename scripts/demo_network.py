"""Protenix as the demonstration model is trained: its network, and its forward passes one by one."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import torch
from demo_examples import Example
from torch import Tensor, nn

from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.features import seed_everything
from flashbias_fold.protenix_adapter.models import build_config, demo_model

NoiseSampler = Callable[..., Tensor]


def build_network(seed: int, device: torch.device) -> tuple[nn.Module, Any]:
    """Protenix with fresh weights, and its configuration."""
    environment.choose_layernorm()
    config = build_config(demo_model())
    _without_checkpointing(config)
    config.triangle_attention = config.triangle_multiplicative = "torch"
    config.diffusion_chunk_size = None
    config.loss.diffusion_lddt_chunk_size = None
    config.loss.diffusion_bond_chunk_size = None
    config.loss.weight.update(alpha_bond=1.0, alpha_distogram=0.2)
    with environment.swallow_stdout():
        from protenix.model.protenix import Protenix

        seed_everything(seed)
        network = Protenix(config)
    return network.to(device), config


def _without_checkpointing(config: Any) -> None:
    """Keep activations: the model is small, and computing them twice costs a third of the time."""
    for name, value in config.items():
        if name == "blocks_per_ckpt":
            config[name] = None
        elif hasattr(value, "items"):
            _without_checkpointing(value)


class Model:
    """Protenix's forward passes, as its own training and inference loops call them."""

    def __init__(self, network: nn.Module, config: Any, dtype: str) -> None:
        self.network = network
        self.config = config
        self._bf16 = dtype == "bf16"

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Mixed precision, where it was asked for; Protenix itself keeps diffusion in fp32."""
        device = next(self.network.parameters()).device
        return torch.autocast(device.type, torch.bfloat16) if self._bf16 else contextlib.nullcontext()

    def trunk(self, features: dict[str, Any], cycles: int) -> tuple[Tensor, Tensor, Tensor]:
        """Single inputs, single and pair representation; dropout between cycles as often as in inference."""
        network: Any = self.network
        dropout = random.random() < self.config.mc_dropout_apply_rate
        return network.get_pairformer_output(features, N_cycle=cycles, mc_dropout=dropout)

    def denoise(
        self, example: Example, features: dict[str, Any], trunk: Any, samples: int, noise: NoiseSampler
    ) -> dict[str, Tensor]:
        """Noise the experimental structure, take the noise away again; what Protenix's losses read."""
        from protenix.model.generator import sample_diffusion_training

        network: Any = self.network
        with torch.autocast(example.coordinate.device.type, enabled=False):
            _, coordinate, level = sample_diffusion_training(
                noise_sampler=noise,
                denoise_net=network.diffusion_module,
                label_dict=example.label,
                input_feature_dict=features,
                N_sample=samples,
                **self._conditions(features, trunk),
            )
            distogram = network.distogram_head(trunk[2].float())
        return {"coordinate": coordinate, "noise_level": level, "distogram": distogram}

    @torch.no_grad()
    def fold(self, features: dict[str, Any], samples: int) -> tuple[Any, Any]:
        """Predict as inference does: the trunk's output and, if asked for, coordinates [sample, atom, 3]."""
        network: Any = self.network
        with self.precision():
            trunk = self.trunk(features, self.config.model.N_cycle)
            if not samples:
                return tuple(part.float() for part in trunk), None
            schedule = network.inference_noise_scheduler(
                N_step=self.config.sample_diffusion.N_step, device=trunk[0].device, dtype=torch.float32
            )
            coordinate = network.sample_diffusion(
                denoise_net=network.diffusion_module,
                input_feature_dict=features,
                noise_schedule=schedule,
                N_sample=samples,
                **self._conditions(features, trunk),
            )
        return tuple(part.float() for part in trunk), coordinate

    def confidence(self, features: dict[str, Any], trunk: Any, coordinate: Tensor) -> dict[str, Tensor]:
        """The confidence head's logits for given structures, under the names that Protenix's losses know."""
        network: Any = self.network
        plddt, pae, pde, resolved = network.run_confidence_head(
            input_feature_dict=features,
            s_inputs=trunk[0],
            s_trunk=trunk[1],
            z_trunk=trunk[2],
            pair_mask=None,
            x_pred_coords=coordinate,
        )
        logits = {"plddt": plddt, "pae": pae, "pde": pde, "resolved": resolved}
        return {"coordinate_mini": coordinate, **{name: value.float() for name, value in logits.items()}}

    def _conditions(self, features: dict[str, Any], trunk: Any) -> dict[str, Any]:
        """What the denoiser is given; what does not depend on the noise is computed once, as in inference."""
        network: Any = self.network
        s_inputs, s, z = (part.float() for part in trunk)
        names = ("ref_pos", "ref_charge", "ref_mask", "ref_element", "ref_atom_name_chars")
        names += ("atom_to_token_idx", "d_lm", "v_lm", "pad_info")
        with torch.autocast(z.device.type, enabled=False):
            pair_z = network.diffusion_module.diffusion_conditioning.prepare_cache(features["relp"], z, False)
            p_lm, c_l = network.diffusion_module.atom_attention_encoder.prepare_cache(
                **{name: features[name] for name in names}, r_l=True, z=pair_z, inplace_safe=False
            )
        return {
            "s_inputs": s_inputs,
            "s_trunk": s,
            "z_trunk": None,
            "pair_z": pair_z,
            "p_lm": p_lm,
            "c_l": c_l,
        }
