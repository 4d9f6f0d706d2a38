"""Where a campaign runs."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from flashbias_fold.errors import SetupError, UsageError

# Ray alone, as in the extra [cluster]: by the extra, pip would bring along all that Protenix pins and that an
# environment without a GPU does without.
INSTALL = "pip install 'ray>=2.40'"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The options of `predict` that belong to `--engine ray`; see its help for what each one means."""

    address: str | None = None
    devices: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that no campaign can have."""
        if self.devices is not None and self.devices < 1:
            raise UsageError(f"--devices: expected a number of at least 1, got {self.devices}")


def require_ray() -> None:
    """Raise SetupError where the extra is not installed; nothing of Ray is imported yet."""
    try:
        found = importlib.util.find_spec("ray")
    except ImportError:
        found = None
    if found is None:
        raise SetupError(f"--engine ray needs Ray, which is not installed; install it with: {INSTALL}")
