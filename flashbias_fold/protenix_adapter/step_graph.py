"""One denoising step recorded as a CUDA graph and replayed: two thousand launches become one.

From step to step only the noisy coordinates and the noise level change, so what one step launches is right
for all that follow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flashbias_fold.protenix_adapter.cuda_recorder import CudaRecorder
from flashbias_fold.protenix_adapter.recording import RecordedForward, Recorder

# Tokens times samples up to which it pays. On an H200, with five samples, a step of the base model took 28.0
# ms and replayed 6.0 at 64 tokens, 31.1 and 9.8 at 256, 32.7 and 17.5 at 512, 44.3 and 37.7 at 1024; at 2048
# it took 99.7 and 94.1, for which 4.2 GiB is much to set aside.
MOST_PLACES = 8192
# Rehearsing, recording and checking took three to five of these steps, which 5 replays gave back at 256
# tokens and 21 at 1024.
FEWEST_STEPS = 20


class StepGraph(RecordedForward):
    """Stands in for the forward of a model's diffusion module, on the instance, until it is removed.

    Before the confidence head, which needs the memory, and whenever a prediction ends, everything is let go.

    Args:
        model: A Protenix model, whose layers are replaced already.
        recorder: What records.
    """

    def __init__(self, model: Any, recorder: Recorder | None = None) -> None:
        diffusion = model.diffusion_module
        super().__init__(diffusion, recorder or CudaRecorder(diffusion), ("x_noisy", "t_hat_noise_level"))
        self._model = model
        self._handles = [
            model.register_forward_pre_hook(self.begin),
            model.distogram_head.register_forward_pre_hook(self.release),
            model.register_forward_hook(self.release, always_call=True),
        ]

    def remove(self) -> None:
        """Put the diffusion module's own forward back."""
        super().remove()
        for handle in self._handles:
            handle.remove()

    def _unfit(self, x: Tensor) -> str | None:
        if torch.is_autocast_enabled(x.device.type):
            return "autocast casts weights, to memory that it gives back"
        return super()._unfit(x)

    def _idle(self, given: dict[str, Any]) -> str | None:
        places = given["s_inputs"].shape[-2] * given["x_noisy"].shape[-3]
        if places > MOST_PLACES:
            return f"{places} tokens in all samples, more than {MOST_PLACES}: launches do not count"
        steps = int(self._model.configs.sample_diffusion.N_step)
        return f"{steps} steps, fewer than {FEWEST_STEPS}" if steps < FEWEST_STEPS else None
