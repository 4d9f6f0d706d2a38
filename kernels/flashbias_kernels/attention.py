"""The public function: checks its arguments, then runs them through the backend that suits them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor

from flashbias_kernels import reference, sdpa, triton_backend
from flashbias_kernels.problem import Problem, check

BACKENDS = ("triton", "sdpa", "reference")


@dataclass(frozen=True)
class Choice:
    """Which backend runs, and why."""

    backend: str
    reason: str


@overload
def biased_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_factor: Tensor | None = None,
    k_factor: Tensor | None = None,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    gate: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    ranks: Tensor | None = None,
    return_lse: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...


@overload
def biased_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_factor: Tensor | None = None,
    k_factor: Tensor | None = None,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    gate: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    ranks: Tensor | None = None,
    return_lse: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


def biased_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_factor: Tensor | None = None,
    k_factor: Tensor | None = None,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    gate: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    ranks: Tensor | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute ``softmax(scale * q k^T + q_factor k_factor^T + bias) v`` without materialising the scores.

    All tensors may have any strides, and what is broadcast stays so: a bias that the rows of a triangle share
    is read as it is.

    Args:
        q: Queries, ``(..., H, Lq, D)``.
        k: Keys, ``(..., H, Lk, D)``.
        v: Values, ``(..., H, Lk, Dv)``.
        q_factor: With `k_factor`, a bias of low rank: ``(..., H, Lq, R)``, broadcast over leading dimensions
            and heads. In the dtype of `q`, or in float32 where positions or distances need the digits.
        k_factor: ``(..., H, Lk, R)``.
        bias: A dense bias, broadcastable to ``(..., H, Lq, Lk)``; ``-inf`` forbids a pair.
        key_mask: Boolean, broadcastable to ``(..., Lk)`` over the leading dimensions without the heads;
            true where a key may be attended.
        gate: The output is multiplied by its sigmoid; broadcastable to the output.
        scale: Factor on the products of queries and keys, ``1 / sqrt(D)`` by default.
        causal: Query ``i`` attends to keys ``0`` to ``i`` alone.
        ranks: int32, a number for each head: how many of its factors' channels count. Read on the device.
        return_lse: Also return the logarithm of the sum of each query's exponentials, ``(..., H, Lq)``;
            ``-inf`` for a query without a key.
        backend: ``triton``, ``sdpa``, ``reference``, or ``auto``: the one that ``choose_backend`` names.

    Returns:
        ``(..., H, Lq, Dv)`` in the dtype of ``q``. A query with no key left to attend gives zeros.

    Raises:
        ValueError: Shapes, dtypes or devices that do not fit together, or not the backend.
    """
    problem = check(
        q,
        k,
        v,
        q_factor=q_factor,
        k_factor=k_factor,
        bias=bias,
        key_mask=key_mask,
        gate=gate,
        scale=scale,
        causal=causal,
        ranks=ranks,
    )
    chosen = _chosen(problem, backend).backend
    out, lse = _run(chosen, problem, return_lse)
    return (out, lse) if return_lse else out


def choose_backend(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Choice:
    """Which backend ``auto`` takes for these arguments of ``biased_attention``, and why."""
    return _chosen(check(q, k, v, **options), "auto")


def _chosen(problem: Problem, backend: str) -> Choice:
    if backend == "auto":
        return Choice("sdpa", "the portable way, on any device")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be auto, {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "triton":
        reason = triton_backend.why_not(problem)
        if reason is not None:
            raise ValueError(f"backend triton cannot do this: {reason}")
    return Choice(backend, "asked for")


def _run(backend: str, problem: Problem, return_lse: bool) -> tuple[Tensor, Tensor]:
    if problem.keys == 0:
        out = problem.q.new_zeros(problem.output_shape)
        return out, out.new_full(out.shape[:-1], float("-inf"))
    if backend == "triton":
        return triton_backend.attend(problem)
    if backend == "reference":
        out, lse = reference.attend(problem, torch.promote_types(problem.q.dtype, torch.float32))
        return out.to(problem.q.dtype), lse
    out = sdpa.attend(problem)
    return out, sdpa.log_sum_exp(problem) if return_lse else out
