"""What a comparison was asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flashbias_fold.choices import CHOICES, MAX_SEED, METHODS, PLAN_SUFFIXES
from flashbias_fold.errors import UsageError
from flashbias_fold.predict.settings import Settings as Predictions
from flashbias_fold.predict.settings import run_defaults

BASELINE = "stock"
_MOST_REPEATS = 1000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of `compare`; see its help for what each one means.

    Attributes:
        predictions: What every method's predictions have in common, and the input and output.
        methods: Values of `--bias`, and files of plans.
        truth: A folder of experimental structures, or one.
        repeats: How often each prediction is timed.
    """

    predictions: Predictions
    methods: tuple[str, ...] = METHODS
    truth: Path | None = None
    repeats: int = 2

    def __post_init__(self) -> None:
        """Refuse values that no comparison can have."""
        for method in self.methods:
            if method not in CHOICES["bias"] and not method.lower().endswith(PLAN_SUFFIXES):
                raise UsageError(
                    f"--methods: expected some of {', '.join(CHOICES['bias'])}, or files of plans "
                    f"({', '.join(PLAN_SUFFIXES)}), separated by commas, got '{method}'"
                )
        if not 1 <= self.repeats <= _MOST_REPEATS:
            raise UsageError(f"--repeats: expected a number from 1 to {_MOST_REPEATS}, got {self.repeats}")
        if self.predictions.plan is not None and "flashbias" not in self.methods:
            raise UsageError("--plan: is for the method flashbias, which is not among --methods")
        if len(self.predictions.seeds or ()) > 2:
            raise UsageError(
                "--seeds: expected one or two, that of all methods and that of the noise of stock, "
                f"got {len(self.predictions.seeds or ())}"
            )

    @property
    def seeds(self) -> tuple[int, int]:
        """That of every method, and the other one of stock, whose difference is the noise."""
        first, *others = self.predictions.seeds or tuple(run_defaults().seeds)[:1]
        following = first + 1 if first < MAX_SEED else 0
        return first, others[0] if others else following
