"""What a calibration was asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashbias_fold.choices import LARGEST_REACH, MAX_SEED, REACH
from flashbias_fold.errors import UsageError

LARGEST_RANK = 96
_LEAST = {"rank": 4, "reach": 0, "passes": 1, "steps": 1, "cycles": 1}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of `calibrate`; see its help for what each one means."""

    inputs: Path
    out: Path
    model: str = "auto"
    network: str = "sketch"
    rank: int = 32
    reach: int = REACH
    passes: int = 8
    seed: int = 101
    steps: int | None = None
    cycles: int | None = None
    device: str = "auto"
    dtype: str | None = None
    resume: bool = False
    trust_checkpoint: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no calibration can have."""
        for option, least in _LEAST.items():
            value = getattr(self, option)
            if value is not None and value < least:
                raise UsageError(f"--{option}: expected a number of at least {least}, got {value}")
        if self.rank > LARGEST_RANK:
            raise UsageError(f"--rank: expected a number up to {LARGEST_RANK}, got {self.rank}")
        if self.reach > LARGEST_REACH:
            raise UsageError(f"--reach: expected a number up to {LARGEST_REACH}, got {self.reach}")
        if not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"--seed: expected a number from 0 to {MAX_SEED}, got {self.seed}")
        if self.out.suffix != ".safetensors":
            raise UsageError(f"--out: expected a name that ends in .safetensors, got {self.out}")

    def identity(self) -> dict[str, Any]:
        """What the networks depend on, besides the model's weights and the inputs."""
        chosen = ("network", "rank", "reach", "passes", "seed", "steps", "cycles", "dtype")
        return {name: getattr(self, name) for name in chosen}
