"""The public function: checks its arguments, then runs them through the backend that suits them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor

from flashbias_kernels import operators, reference, sdpa, triton_backend
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
    band: Tensor | None = None,
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
    band: Tensor | None = None,
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
    band: Tensor | None = None,
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
    is read as it is. Under autocast, queries, keys, values and gate are cast, as torch casts its own
    attention's; factors and bias in float32 keep their digits.

    Args:
        q: Queries, ``(..., H, Lq, D)``.
        k: Keys, ``(..., H, Lk, D)``.
        v: Values, ``(..., H, Lk, Dv)``.
        q_factor: With `k_factor`, a bias of low rank: ``(..., H, Lq, R)``, broadcast over leading dimensions
            and heads. In the dtype of `q`, or in float32 where positions or distances need the digits.
        k_factor: ``(..., H, Lk, R)``.
        bias: A dense bias, broadcastable to ``(..., H, Lq, Lk)``; ``-inf`` forbids a pair.
        band: What is added near the diagonal alone, ``(..., H, Lq, 2 * reach + 1)``, broadcast over leading
            dimensions and heads: entry `d` of query `i` is for key ``i + d - reach``.
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
    dtype = _autocast_dtype(q)
    problem = check(
        _cast(q, dtype),
        _cast(k, dtype),
        _cast(v, dtype),
        q_factor=_cast_short(q_factor, dtype),
        k_factor=_cast_short(k_factor, dtype),
        bias=bias,
        band=band,
        key_mask=key_mask,
        gate=None if gate is None else _cast(gate, dtype),
        scale=scale,
        causal=causal,
        ranks=ranks,
    )
    chosen = _chosen(problem, backend).backend
    if dtype is None:
        out, lse = _run(chosen, problem, return_lse)
    else:
        with torch.autocast(q.device.type, enabled=False):  # it would cast products of factors, too
            out, lse = _run(chosen, problem, return_lse)
    return (out, lse) if return_lse else out


def choose_backend(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Choice:
    """Which backend ``auto`` takes for these arguments of ``biased_attention``, and why."""
    return _chosen(check(q, k, v, **options), "auto")


def _autocast_dtype(q: Tensor) -> torch.dtype | None:
    """What autocast would have the queries in; None where it does not apply."""
    kind = q.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Like autocast, which leaves float64 alone."""
    if dtype is None or not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(dtype)


def _cast_short(factor: Tensor | None, dtype: torch.dtype | None) -> Tensor | None:
    """A factor in 16 bits follows the queries."""
    return factor if factor is None or factor.dtype == torch.float32 else _cast(factor, dtype)


def _chosen(problem: Problem, backend: str) -> Choice:
    if backend == "auto":
        return _automatic(problem)
    if backend not in BACKENDS:
        raise ValueError(f"backend must be auto, {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "triton":
        reason = triton_backend.why_not(problem)
        if reason is not None:
            raise ValueError(f"backend triton cannot do this: {reason}")
    return Choice(backend, "asked for")


def _automatic(problem: Problem) -> Choice:
    if not problem.q.is_cuda:
        return Choice("sdpa", "the portable way, and the fastest on a CPU")
    reason = triton_backend.why_not(problem)
    if reason is not None:
        return Choice("sdpa", reason)
    return Choice("triton", "compiled kernels, which read what is broadcast where it lies")


def _run(backend: str, problem: Problem, return_lse: bool) -> tuple[Tensor, Tensor]:
    if problem.keys == 0:
        out = problem.q.new_zeros(problem.output_shape)
        return out, out.new_full(out.shape[:-1], float("-inf"))
    if backend == "triton":
        return operators.attend(problem)
    if backend == "reference":
        out, lse = reference.attend(problem, torch.promote_types(problem.q.dtype, torch.float32))
        return out.to(problem.q.dtype), lse
    out = sdpa.attend(problem)
    return out, sdpa.log_sum_exp(problem) if return_lse else out
