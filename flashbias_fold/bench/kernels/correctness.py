"""Every method against float64, before its time means anything."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashbias_fold.bench.kernels.problem import Problem
from flashbias_kernels import reference_attention

# The largest relative error of a right method, as root mean squares. Written out in torch with every step in
# the dtype, outputs and gradients of these problems are off by 0.7 to 1.1 units of the last place (2**-7,
# 2**-10) in 16 bits, by 1.5 to 3 (2**-23) in 32: four and eight units leave room for another order of the
# sums. A forgotten mask, a wrong scale or a block left out is off by far more.
_BARS = {torch.bfloat16: 4 * 2**-7, torch.float16: 4 * 2**-10, torch.float32: 8 * 2**-23}
# On a GPU most kernels multiply float32 as TF32, which has the digits of fp16. The error is shown either way.
_BAR_TF32 = 4 * 2**-10

# With at most so many scores every row is compared, and the gradients of bias and factors, to which every row
# adds; beyond, some rows alone: they are independent but for the bias.
_EVERY_ROW = {"cpu": 2**24, "cuda": 2**28}
_SOME_ROWS = 4
_SCORES_AT_ONCE = 2**24


@dataclass(frozen=True)
class Expected:
    """What is right, in float64.

    Attributes:
        rows: The rows that are compared.
        tensors: ``out``, and by the names of the inputs their gradients; of these rows, where rows have
            their own.
    """

    rows: Tensor
    tensors: dict[str, Tensor]


def bar(dtype: torch.dtype, device: torch.device) -> float:
    """The largest relative error of a method that is right."""
    return _BAR_TF32 if dtype == torch.float32 and device.type == "cuda" else _BARS[dtype]


def expect(problem: Problem, shared: dict[str, Tensor], *, gradients: bool) -> Expected:
    """Compute the problem in float64, for all rows or for some.

    Args:
        problem: The problem.
        shared: What stands for its bias.
        gradients: Whether gradients are wanted.
    """
    rows, complete = _rows_to_compare(problem)
    scores_of_row = problem.q.shape[1] * problem.q.shape[2] ** 2
    wide: dict[str, Any] = {name: t.detach().double().requires_grad_() for name, t in shared.items()}
    parts: dict[str, list[Tensor]] = {}
    sums = {name: torch.zeros_like(tensor) for name, tensor in wide.items()}
    for some in rows.split(max(1, _SCORES_AT_ONCE // scores_of_row)):
        own = {name: t.detach()[some].double().requires_grad_() for name, t in problem.rows().items()}
        key_mask = None if problem.key_mask is None else problem.key_mask[some]
        with torch.set_grad_enabled(gradients):
            out = reference_attention(own["q"], own["k"], own["v"], key_mask=key_mask, **wide)
        parts.setdefault("out", []).append(out.detach())
        if gradients:
            leaves = own | wide
            found = torch.autograd.grad(out, list(leaves.values()), problem.gradient[some].double())
            for name, gradient in zip(leaves, found, strict=True):
                if name in own:
                    parts.setdefault(name, []).append(gradient)
                else:
                    sums[name] += gradient
    tensors = {name: torch.cat(found) for name, found in parts.items()}
    return Expected(rows, tensors | (sums if gradients and complete else {}))


def errors(found: dict[str, Tensor], expected: Expected) -> dict[str, float]:
    """The relative error of each tensor that is known in float64; infinite where one is not finite."""
    result = {}
    for name, tensor in found.items():
        if name not in expected.tensors:
            continue
        right = expected.tensors[name]
        given = tensor.detach() if tensor.shape == right.shape else tensor.detach()[expected.rows]
        error = float((given.double() - right).square().mean().sqrt() / right.square().mean().sqrt())
        result[name] = error if math.isfinite(error) else math.inf
    return result


def _rows_to_compare(problem: Problem) -> tuple[Tensor, bool]:
    """The rows, and whether these are all."""
    count, heads, tokens, _ = problem.q.shape
    device = problem.q.device
    if count * heads * tokens**2 <= _EVERY_ROW[device.type]:
        return torch.arange(count, device=device), True
    return torch.linspace(0, count - 1, _SOME_ROWS, device=device).round().long(), False
