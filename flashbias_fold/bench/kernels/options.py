"""What `bench kernels` can be asked for; read by the command line, which imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashbias_fold.errors import UsageError

METHODS: dict[str, str] = {
    "flashbias": "ours, the bias as factors: a line for each rank",
    "dense": "ours, the bias as it is",
    "none": "ours without a bias: what one that cost nothing would take",
    "sdpa": "torch's scaled_dot_product_attention, the bias as its mask",
    "flex": "torch's FlexAttention, compiled, the bias read in its score_mod",
    "cuequivariance": "NVIDIA's triangle_attention, which Protenix takes on a GPU",
    "triattention": "Protenix's own Triton kernel",
    "protenix": "Protenix's plain torch path, which it takes on a CPU",
}
OURS = ("flashbias", "dense", "none")
CHOICES: dict[str, tuple[str, ...]] = {
    "device": ("auto", "cpu", "cuda"),
    "dtype": ("bf16", "fp16", "fp32"),
    "passes": ("forward", "backward", "both"),
    "layout": ("projected", "contiguous"),
    "backend": ("auto", "triton", "sdpa"),
}
LARGEST_RANK = 1024
LARGEST_TOKENS = 65536
# So that the command as it is ends within two minutes.
TOKENS = {"cpu": (64, 128, 256), "cuda": (256, 512, 1024, 2048)}
REPEATS = {"cpu": 7, "cuda": 20}
# A ratio is to the first of these that can run: what Protenix takes on such a device, else plain torch.
BASELINES = {"cpu": ("protenix", "sdpa"), "cuda": ("cuequivariance", "sdpa")}


@dataclass(frozen=True, kw_only=True)
class KernelOptions:
    """The options of `bench kernels`; see its help for what each one means. None: by the device."""

    device: str = "auto"
    tokens: tuple[int, ...] | None = None
    heads: int = 4
    dim: int = 32
    ranks: tuple[int, ...] = (16, 32, 96)
    dtype: str | None = None
    passes: str = "both"
    layout: str = "projected"
    padding: int = 0
    backend: str = "auto"
    methods: tuple[str, ...] | None = None
    repeats: int | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        """Refuse values that no run can have."""
        shortest = min(self.tokens or TOKENS["cpu"])
        if self.padding >= shortest:
            raise UsageError(f"--padding: expected fewer than {shortest} tokens, got {self.padding}")
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise UsageError(f"--out: {self.out} is there and is no folder")

    @property
    def pass_names(self) -> tuple[str, ...]:
        """`forward`, `backward`, or both."""
        return ("forward", "backward") if self.passes == "both" else (self.passes,)

    def as_dict(self) -> dict[str, Any]:
        """For the record; where that is written says nothing about what was measured."""
        return {key: value for key, value in vars(self).items() if key != "out"}
