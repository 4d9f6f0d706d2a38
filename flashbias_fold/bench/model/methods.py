"""Every way to compute a whole prediction that is compared here."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch

from flashbias_fold.bench.model.options import BIONEMO, METHODS, OURS, STOCK, ModelOptions
from flashbias_fold.bionemo_adapter import MODEL as BIONEMO_MODEL
from flashbias_fold.errors import SetupError, UsageError
from flashbias_fold.pairformer import Plan
from flashbias_fold.protenix_adapter.kernels import StockKernels
from flashbias_fold.protenix_adapter.models import Model
from flashbias_fold.resources import resource

_FACTORS = "lowrank32.yaml"  # of models for which no plan ships
_CUEQUIVARIANCE = ("cuequivariance_torch", "cuequivariance_ops_torch")


@dataclass(frozen=True)
class Method:
    """One way.

    Attributes:
        name: What it is called.
        attention: Protenix's setting `triangle_attention`, for the layers that stay stock.
        multiplication: Its setting `triangle_multiplicative`.
        plan: What ours replaces; None of stock.
    """

    name: str
    attention: str
    multiplication: str
    plan: Plan | None = None

    @property
    def ours(self) -> bool:
        """Whether it is our own."""
        return self.name in OURS

    @property
    def is_peer(self) -> bool:
        """Whether it computes without Protenix's code."""
        return self.name == BIONEMO


def why_not(name: str, device: torch.device, model: str) -> str | None:
    """Why a method cannot compute a model on a device; None if it can."""
    packages, gpu = _NEEDS.get(name, ((), False))
    if gpu and device.type != "cuda":
        return "needs an NVIDIA GPU"
    if name == BIONEMO and model != BIONEMO_MODEL:
        return f"computes {BIONEMO_MODEL} alone"
    missing = next((package for package in packages if importlib.util.find_spec(package) is None), None)
    return missing and f"{missing} is not installed"


_NEEDS: dict[str, tuple[tuple[str, ...], bool]] = {
    "stock-cuequivariance": (_CUEQUIVARIANCE, True),
    "stock-triattention": (("triton",), True),
    "stock-deepspeed": (("deepspeed",), True),
    BIONEMO: (("bionemo_ir",), True),
}


def methods(
    options: ModelOptions, model: Model, *, random_weights: bool, kernels: StockKernels, device: torch.device
) -> tuple[list[Method], dict[str, str]]:
    """Those that can run, and why the others cannot, in the order of METHODS.

    Args:
        options: What was asked for.
        model: Which model.
        random_weights: Whether its weights are random.
        kernels: What Protenix takes on the device.
        device: Where.

    Raises:
        SetupError: One that was named cannot run.
    """
    names = {f"stock-{kernels.attention}" if name == STOCK else name for name in options.methods or METHODS}
    reasons = {name: why_not(name, device, model.name) for name in METHODS if name in names}
    missing = {name: reason for name, reason in reasons.items() if reason is not None}
    if missing and options.methods is not None:
        name, reason = next(iter(missing.items()))
        raise SetupError(f"--methods {name}: {reason}")
    plans: dict[str, Callable[[], Plan]] = {
        "dense": lambda: Plan.for_bias("dense"),
        "flashbias": lambda: plan_of(options, model, random_weights=random_weights),
    }
    found = []
    for name in reasons.keys() - missing.keys():
        if name in plans:
            found.append(Method(name, kernels.attention, kernels.multiplication, plans[name]()))
        elif name == BIONEMO:
            found.append(Method(name, name, name))
        else:
            attention = name.removeprefix("stock-")
            # All but the plain one differ from Protenix's default in the attention alone.
            own = "torch" if attention == "torch" else kernels.multiplication
            found.append(Method(name, attention, own))
    return sorted(found, key=lambda method: list(METHODS).index(method.name)), missing


def plan_of(options: ModelOptions, model: Model, *, random_weights: bool) -> Plan:
    """The user's, the one that ships for the model, or factors of rank 32 for every triangle attention.

    Raises:
        UsageError: It names networks, and they were trained for other weights than random ones.
    """
    folder = resource("configs", "plans")
    shipped = folder / f"{model.name}.yaml"
    if options.plan is not None:
        plan = Plan.load(options.plan)
    else:
        # Networks that ship are for the real weights.
        file = shipped if shipped.is_file() and not random_weights else folder / _FACTORS
        plan = dataclasses.replace(Plan.load(file), name=file.name)
    if random_weights and plan.factor_files():
        raise UsageError(f"--plan: {plan.name}: its networks are for trained weights, and these are random")
    return plan
