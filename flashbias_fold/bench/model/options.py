"""What `bench model` can be asked for; read by the command line, which imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashbias_fold.errors import UsageError

METHODS: dict[str, str] = {
    "stock-cuequivariance": "Protenix with NVIDIA's kernels for triangles, its default on a GPU",
    "stock-triattention": "Protenix with its own Triton kernel for triangle attention",
    "stock-deepspeed": "Protenix with DeepSpeed's kernel for triangle attention",
    "bionemo": "NVIDIA's BioNeMo Inference Runtime, for protenix-v2 alone (pip install bionemo-ir)",
    "stock-torch": "Protenix in plain torch, which it takes on a CPU",
    "dense": "ours, every bias as it is",
    "flashbias": "ours, the biases as the plan says",
}
OURS = ("dense", "flashbias")
BIONEMO = "bionemo"
# Stands for the one of them that Protenix takes on the device.
STOCK = "stock"
NAMES = {STOCK: "the one of these that Protenix takes here", **METHODS}
CHOICES: dict[str, tuple[str, ...]] = {
    "device": ("auto", "cpu", "cuda"),
    "dtype": ("bf16", "fp32"),
    "weights": ("auto", "real", "random"),
    "warm_up": ("whole", "short"),
}
# So that the command as it is ends on a CPU within about a minute.
MODEL = {"cpu": "demo", "cuda": "protenix_base_default_v1.0.0"}
TOKENS = {"cpu": (32, 64), "cuda": (256, 512, 1024)}
REPEATS = {"cpu": 3, "cuda": 5}
# A ratio is to the first of these that can run: what Protenix takes on such a device.
BASELINES = ("stock-cuequivariance", "stock-torch")
LARGEST_TOKENS = 8192
LARGEST_ALIGNMENT = 16384
_AT_LEAST_ONE = ("cycles", "steps", "samples", "repeats", "seconds", "alignment")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The options of `bench model`; see its help for what each one means. None: by the device or the model.

    Attributes:
        model: Its name.
        weights: `real` ones, from the disk; `random` ones of the right shapes; `auto` takes real ones where
            there are any. Times do not depend on them.
        tokens: Sizes of chains that are made up, if there is no input.
        alignment: Rows of the alignment of such a chain, the query included.
        input: Jobs to predict instead.
        methods: What is compared.
        plan: Of `flashbias`; by default the one that ships for the model, else factors of rank 32 for every
            triangle attention.
        cycles: Recycling cycles.
        steps: Denoising steps.
        samples: Structures.
        repeats: Interleaved rounds that count, after each method's first call.
        seconds: That the rounds of one size take at most, but for the first round.
        warm_up: Whether each method's first call, which does not count, is a `whole` prediction and its time
            told, or a `short` one: of large inputs a whole one takes minutes.
        layers: Whether one more prediction of each method is taken apart by kind of layer.
        device: Where.
        dtype: The autocast type.
        out: A folder for the record.
    """

    model: str | None = None
    weights: str = "auto"
    tokens: tuple[int, ...] | None = None
    alignment: int = 1
    input: Path | None = None
    methods: tuple[str, ...] | None = None
    plan: Path | None = None
    cycles: int | None = None
    steps: int | None = None
    samples: int | None = None
    repeats: int | None = None
    seconds: int | None = None
    warm_up: str = "whole"
    layers: bool = True
    device: str = "auto"
    dtype: str | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        """Refuse values that no run can have."""
        self._check_choices()
        self._check_numbers()
        if self.input is not None and self.tokens is not None:
            raise UsageError("--tokens: the input's sizes are its own")
        if self.input is not None and self.alignment > 1:
            raise UsageError("--alignment: the input's alignments are its own")
        if self.plan is not None and self.methods is not None and "flashbias" not in self.methods:
            raise UsageError("--plan: is for the method flashbias, which is not among --methods")
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise UsageError(f"--out: {self.out} is there and is no folder")

    def _check_choices(self) -> None:
        for option, known in CHOICES.items():
            value = getattr(self, option)
            if value is not None and value not in known:
                raise UsageError(
                    f"--{option.replace('_', '-')}: expected one of {', '.join(known)}, got '{value}'"
                )
        for name in self.methods or ():
            if name not in NAMES:
                raise UsageError(f"--methods: expected some of {', '.join(NAMES)}, got '{name}'")

    def _check_numbers(self) -> None:
        for option in _AT_LEAST_ONE:
            value = getattr(self, option)
            if value is not None and value < 1:
                raise UsageError(f"--{option}: expected a number of at least 1, got {value}")
        for tokens in self.tokens or ():
            if not 1 <= tokens <= LARGEST_TOKENS:
                raise UsageError(f"--tokens: expected numbers from 1 to {LARGEST_TOKENS}, got {tokens}")
        if self.alignment > LARGEST_ALIGNMENT:
            raise UsageError(
                f"--alignment: expected a number up to {LARGEST_ALIGNMENT}, got {self.alignment}"
            )

    def as_dict(self) -> dict[str, Any]:
        """For the record; where that is written says nothing about what was measured."""
        found = {key: value for key, value in vars(self).items() if key != "out"}
        # The name of a file, and none of a folder of this machine.
        return found | {key: found[key] and found[key].name for key in ("input", "plan")}
