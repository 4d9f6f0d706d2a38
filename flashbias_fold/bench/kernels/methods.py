"""Every way to compute triangle attention with a bias that is compared here."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashbias_fold.bench.kernels.options import METHODS, OURS
from flashbias_fold.bench.kernels.problem import Problem

Attention = Callable[[], Tensor]


def _nothing(device: torch.device) -> str | None:
    return None


@dataclass(frozen=True)
class Method:
    """One way.

    Attributes:
        bias: What it takes for the bias: ``dense``, ``factors`` or ``none``.
        bind: Makes of a problem and what stands for its bias a function that computes the attention. What
            a layer would do once, or does outside of its attention, is done here.
        why_not: Why it cannot run on such a device; None if it can.
        unless_asked: Why it is left out where no methods are named; None if it is not.
        scores: How many tensors as large as all scores it has at once on a CPU, forward and backward.
    """

    bias: str
    bind: Callable[[Problem, dict[str, Tensor]], Attention]
    why_not: Callable[[torch.device], str | None] = _nothing
    unless_asked: Callable[[torch.device], str | None] = _nothing
    scores: tuple[int, int] = (0, 5)


@dataclass(frozen=True)
class Contender:
    """A method, with the rank of its factors if it has any."""

    name: str
    method: Method
    rank: int | None = None

    @property
    def label(self) -> str:
        """The name, for people."""
        return self.name if self.rank is None else f"{self.name} R={self.rank}"

    @property
    def ours(self) -> bool:
        """Whether it is our own."""
        return self.name in OURS

    def backend(self, problem: Problem) -> str | None:
        """Which of our backends runs, asked for or chosen by the tensors; None of a peer."""
        from flashbias_kernels import choose_backend

        if not self.ours:
            return None
        if problem.backend != "auto":
            return problem.backend
        options: dict[str, Any] = problem.shared(self.method.bias, self.rank)
        return choose_backend(problem.q, problem.k, problem.v, key_mask=problem.key_mask, **options).backend

    def inputs(self, problem: Problem) -> dict[str, Tensor]:
        """What it computes with, and what gradients go to."""
        return problem.rows() | problem.shared(self.method.bias, self.rank)

    def bound(self, problem: Problem) -> Attention:
        """The function that computes it."""
        return self.method.bind(problem, problem.shared(self.method.bias, self.rank))


def contenders(names: tuple[str, ...] | None, ranks: tuple[int, ...]) -> list[Contender]:
    """Those methods, or all, in the order of METHODS."""
    return [
        Contender(name, METHOD[name], rank)
        for name in METHODS
        if names is None or name in names
        for rank in (ranks if METHOD[name].bias == "factors" else (None,))
    ]


def _ours(problem: Problem, shared: dict[str, Tensor]) -> Attention:
    from flashbias_kernels import biased_attention

    options: dict[str, Any] = {**shared, "key_mask": problem.key_mask, "backend": problem.backend}
    return lambda: biased_attention(problem.q, problem.k, problem.v, **options)


def _sdpa(problem: Problem, shared: dict[str, Tensor]) -> Attention:
    from torch.nn.functional import scaled_dot_product_attention

    def attend() -> Tensor:
        mask = shared["bias"]
        if problem.key_mask is not None:  # the same for all rows, so it can join the bias
            mask = mask.masked_fill(~problem.key_mask[0], float("-inf"))
        return scaled_dot_product_attention(problem.q, problem.k, problem.v, attn_mask=mask)

    return attend


def _flex(problem: Problem, shared: dict[str, Tensor]) -> Attention:
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.reset()  # it compiles only so many variants of a function; each size is one
    compiled = torch.compile(flex_attention, dynamic=False)
    bias, mask = shared["bias"], problem.key_mask

    def score(score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        biased = score + bias[0, head, query, key]
        return biased if mask is None else torch.where(mask[row, key], biased, float("-inf"))

    return lambda: compiled(problem.q, problem.k, problem.v, score_mod=score)


def _cuequivariance(problem: Problem, shared: dict[str, Tensor]) -> Attention:
    triangle_attention = importlib.import_module("cuequivariance_torch").triangle_attention
    mask = problem.mask[None, :, None, None, :]
    scale = problem.q.shape[-1] ** -0.5

    def attend() -> Tensor:
        q, k, v, bias = (t[None] for t in (problem.q, problem.k, problem.v, shared["bias"]))
        return triangle_attention(q, k, v, bias.float(), mask=mask, scale=scale)[0]

    return attend


def _triattention(problem: Problem, shared: dict[str, Tensor]) -> Attention:
    from flashbias_fold.protenix_adapter import peers

    biases = [peers.mask_bias(problem.mask, problem.q.dtype), shared["bias"]]
    return lambda: peers.triattention(problem.q, problem.k, problem.v, biases)


def _protenix(problem: Problem, shared: dict[str, Tensor]) -> Attention:
    from flashbias_fold.protenix_adapter import peers

    biases = [peers.mask_bias(problem.mask, problem.q.dtype), shared["bias"]]
    return lambda: peers.torch_attention(problem.q, problem.k, problem.v, biases)


def _slow_to_compile(device: torch.device) -> str | None:
    if device.type == "cuda":
        return None
    return "on a CPU it compiles for most of a minute; --methods with flex among them includes it"


def _needs(*packages: str, gpu: bool = False) -> Callable[[torch.device], str | None]:
    def why_not(device: torch.device) -> str | None:
        if gpu and device.type != "cuda":
            return "needs an NVIDIA GPU"
        for package in packages:
            if importlib.util.find_spec(package) is None:
                return f"{package} is not installed"
        return None

    return why_not


METHOD: dict[str, Method] = {
    "flashbias": Method("factors", _ours),
    "dense": Method("dense", _ours),
    "none": Method("none", _ours),
    "sdpa": Method("dense", _sdpa),
    "flex": Method("dense", _flex, unless_asked=_slow_to_compile),
    "cuequivariance": Method(
        "dense", _cuequivariance, _needs("cuequivariance_torch", "cuequivariance_ops_torch", gpu=True)
    ),
    "triattention": Method("dense", _triattention, _needs("protenix", "triton", gpu=True)),
    "protenix": Method("dense", _protenix, _needs("protenix"), scores=(2, 5)),
}
