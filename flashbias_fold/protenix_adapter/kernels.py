"""Which of Protenix's own kernels a device can run, and why not the others."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StockKernels:
    """The kernels of stock Protenix that are used, with the reason.

    Attributes:
        attention: Protenix's `triangle_attention` setting.
        multiplication: Protenix's `triangle_multiplicative` setting.
        reason: Why these, for `doctor`.
    """

    attention: str
    multiplication: str
    reason: str


def stock_kernels(device: torch.device) -> StockKernels:
    """Protenix's default, cuEquivariance, where it can run; plain torch elsewhere."""
    if device.type != "cuda":
        return StockKernels("torch", "torch", "cuEquivariance needs an NVIDIA GPU")
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        # Protenix's own rule for such cards.
        return StockKernels("torch", "torch", f"compute capability {major}.{minor} is below 8.0")
    if importlib.util.find_spec("cuequivariance_torch") is None:
        return StockKernels("torch", "torch", "cuequivariance_torch is not installed")
    if importlib.util.find_spec("cuequivariance_ops_torch") is None:
        return StockKernels("torch", "torch", "cuequivariance_ops_torch is not installed")
    return StockKernels("cuequivariance", "cuequivariance", "Protenix's default")
