"""Which of Protenix's own kernels a device can run, and why not the others."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch

from flashbias_fold.errors import SetupError
from flashbias_fold.protenix_adapter.driver import why_no_gpu

# Below this compute capability there is no arithmetic in bf16 and Protenix falls back to plain kernels.
_BF16_CAPABILITY = 8


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
    if major < _BF16_CAPABILITY:
        return StockKernels("torch", "torch", f"compute capability {major}.{minor} is below 8.0")
    if importlib.util.find_spec("cuequivariance_torch") is None:
        return StockKernels("torch", "torch", "cuequivariance_torch is not installed")
    if importlib.util.find_spec("cuequivariance_ops_torch") is None:
        return StockKernels("torch", "torch", "cuequivariance_ops_torch is not installed")
    return StockKernels("cuequivariance", "cuequivariance", "Protenix's default")


def chosen_device(name: str) -> torch.device:
    """The device called `cpu` or `cuda`; for `auto` a GPU where there is one.

    Raises:
        SetupError: There is no GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        reason, mend = why_no_gpu() or ("there is none", "flashbias-fold doctor says what is here")
        raise SetupError(f"--device cuda: torch sees no NVIDIA GPU here: {reason}; {mend}")
    return torch.device(name)


def usable_dtype(device: torch.device, asked: str) -> str:
    """The autocast type that is really used, by Protenix's own rules: fp32 on a CPU and on old cards."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < _BF16_CAPABILITY:
        return "fp32"
    return asked
