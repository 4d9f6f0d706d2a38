"""How much memory a prediction will need, by its size: what is alive at the peak of each stage.

On a GPU the tensors are those that a snapshot of the allocator on an H200 showed at the peaks, in bytes for
each pair of tokens. On a CPU, where allocators keep and round, they were fitted to runs of the demonstration
model. Tests hold both against what was measured.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import torch

from flashbias_fold.pairformer.transition import PIECE_BYTES
from flashbias_fold.protenix_adapter.memory import chunk_rows
from flashbias_fold.protenix_adapter.recording import SWITCH
from flashbias_fold.protenix_adapter.trunk_graph import FEWEST_CYCLES, MOST_TOKENS

LARGEST_TOKENS = 16384
_STEP = 8
_EXACT = 4  # bytes of a number in the parts that Protenix keeps in fp32
_HALF = 2
_LOGITS = 2 * 64 * _EXACT  # bytes a pair and sample: bins of the two error matrices
_HEAD_WIDTH = 32
_SCORE_TENSORS = 2  # scores and weights, where attention keeps them

# Bytes a pair of features on the device: relative positions, templates and bonds; what the trunk alone has.
_FEATURES = 1_180
_TEMPLATES = 624
_OUTER = 2 * 32 * 32  # numbers a pair of the outer product of an alignment, twice
_MULTIPLICATION = 7.2  # copies of the pairs at the peak of a triangle multiplication
_HIDDEN = 2 * 4  # two layers in a transition, each of four times the width
_CAST_WEIGHTS = 0.22  # of all weights' bytes: the trunk's in half precision, which autocast keeps
_RECORDED = 7.5  # copies of the pairs that a recorded trunk reads and writes: what goes in, what parts give
# On a CPU: Python, torch, Protenix and the components; what each token brings, as atoms and their neighbours;
# features of a pair; a sample's error matrices with what is made of them.
_PROCESS = 535_000_000
_PER_TOKEN = 700_000
_CPU_FEATURES = 2_500
_CPU_SAMPLE = 2 * _LOGITS
_ATTENDED = 5  # queries, keys, values, gate and output of a triangle attention

# From these sizes on Protenix moves each sample's error matrices to the host, and leaves fp32.
_LOGITS_MOVED = 2_000
_HALF_CONFIDENCE = 2_560
_HALF_DIFFUSION = 3_840


@dataclass(frozen=True)
class Need:
    """A prediction, as far as its memory goes.

    Attributes:
        config: Protenix's configuration of the model, with the dtype that it runs in.
        weights: Bytes of the model's weights, as they lie on the disk.
        samples: Structures for each seed.
        on_gpu: Whether it runs on a GPU, whose memory alone counts then; else that of the process.
        ours: Whether its layers are ours, and not the stock ones.
        scores_kept: Whether triangle attention materialises its scores, as Protenix's plain kernel does.
        recorded: Whether the cycles of its trunk are recorded, up to the size where that pays.
    """

    config: Any
    weights: int
    samples: int
    on_gpu: bool
    ours: bool
    scores_kept: bool
    recorded: bool = False
    # Thousands of jobs have few sizes, and each peak takes a hundred look-ups in the configuration.
    _peaks: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        config: Any,
        weights: int,
        samples: int,
        device: torch.device,
        *,
        bias: str,
        attention: str,
        recorded: bool = True,
    ) -> Need:
        """Describe a run with a value of `--bias` and Protenix's kernel for triangle attention.

        Without `recorded` it is one from before cycles of the trunk were recorded.
        """
        stock, on_gpu = bias == "stock", device.type == "cuda"
        switched_off = os.environ.get(SWITCH) == "0"
        return cls(
            config,
            weights,
            samples,
            on_gpu=on_gpu,
            ours=not stock,
            scores_kept=stock and attention == "torch",
            recorded=recorded and on_gpu and not stock and not switched_off,
        )

    def bytes_of(self, n_token: int) -> int:
        """The peak of a job of so many tokens."""
        if n_token not in self._peaks:
            self._peaks[n_token] = max(self.stages(n_token).values())
        return self._peaks[n_token]

    def largest(self, room: int) -> int:
        """The most tokens, in steps of 8, that need at most `room` bytes; 0 if not even 8 do.

        Where Protenix begins to spare memory the peak steps down, so that somewhat fewer may need more.
        """
        sizes = range(LARGEST_TOKENS, 0, -_STEP)
        return next((size for size in sizes if self.bytes_of(size) <= room), 0)

    def stages(self, n_token: int) -> dict[str, int]:
        """The peak of each stage."""
        return self._on_gpu(n_token) if self.on_gpu else self._on_cpu(n_token)

    def _on_gpu(self, n_token: int) -> dict[str, int]:
        config = self.config
        pair, transformer = int(config.model.pairformer.c_z), config.model.diffusion_module.transformer
        width = _EXACT if config.dtype == "fp32" else _HALF
        # The larger model's confidence head is never in fp32.
        exact_confidence = n_token <= _HALF_CONFIDENCE and config.model_name != "protenix-v2"
        confidence = _EXACT if exact_confidence else width
        diffusion = _EXACT if n_token <= _HALF_DIFFUSION else width
        logits = _LOGITS * (self.samples - 1) if n_token <= _LOGITS_MOVED else 0
        biases = int(transformer.n_blocks) * int(transformer.n_heads) * diffusion
        conditioning = biases if self.ours else 2 * 2 * pair * diffusion
        trunk = _FEATURES + _TEMPLATES + 4 * pair * width + self._widest(n_token, pair, width, outer=True)
        steps = _FEATURES + pair * width + 4 * pair * diffusion + conditioning
        heads = _FEATURES + pair * width + 6 * pair * confidence + logits
        heads += self._widest(n_token, pair, confidence, outer=False)
        cast = 0 if width == _EXACT else int(_CAST_WEIGHTS * self.weights)
        recording = int(_RECORDED * pair * width) * n_token**2 if self._is_recorded(n_token) else 0
        # Ours lets go of the copies before, but for those that a recording reads. On a GPU for which that is
        # much, the recording goes too, and less is needed than said here.
        cast_until_the_end = cast if recording or not self.ours else 0
        return {
            "trunk": self.weights + cast + recording + n_token**2 * trunk,
            "diffusion": self.weights + cast + recording + n_token**2 * steps,
            "confidence": self.weights + cast_until_the_end + recording + n_token**2 * heads,
        }

    def _is_recorded(self, n_token: int) -> bool:
        cycles = int(self.config.model.N_cycle)
        return self.recorded and n_token <= MOST_TOKENS and cycles >= FEWEST_CYCLES

    def _on_cpu(self, n_token: int) -> dict[str, int]:
        pair = int(self.config.model.pairformer.c_z)
        heads = self._heads(pair)
        block = _CPU_FEATURES + _EXACT * (_ATTENDED * heads * _HEAD_WIDTH + 4 * pair)
        if self.scores_kept:
            block += _SCORE_TENSORS * self._rows(n_token) * heads * _EXACT
        confidence = max(
            block + (self.samples - 1) * _LOGITS,
            _CPU_FEATURES + 8 * pair * _EXACT + self.samples * _CPU_SAMPLE,
        )
        same = _PROCESS + self.weights + n_token * _PER_TOKEN
        return {"trunk": same + n_token**2 * block, "confidence": same + n_token**2 * confidence}

    def _widest(self, n_token: int, pair: int, width: int, *, outer: bool) -> int:
        """Bytes a pair within the layer of pairs, or with `outer` of the alignment too, that needs most."""
        rows = self._rows(n_token)
        hidden: float = _HIDDEN * pair * width
        if self.ours:
            hidden = min(hidden, 2 * PIECE_BYTES / n_token**2)
        layers = [_MULTIPLICATION * pair * width, hidden + 2 * pair * width]
        if outer:
            layers.append(_OUTER * width * rows / n_token)
        if self.scores_kept:
            layers.append(4 * pair * width + _SCORE_TENSORS * rows * self._heads(pair) * width)
        return int(max(layers))

    def _rows(self, n_token: int) -> int:
        """That are attended at once."""
        return min(chunk_rows(self.config, n_token) or n_token, n_token)

    def _heads(self, pair: int) -> int:
        widened = bool(self.config.model.pairformer.hidden_scale_up)
        return max(4, pair // _HEAD_WIDTH if widened else 4)
