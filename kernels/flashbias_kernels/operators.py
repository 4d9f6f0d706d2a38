"""The Triton kernels as operators of torch: what autograd and torch.compile know of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op
from torch.nn import Parameter

from flashbias_kernels import triton_backend
from flashbias_kernels.problem import Problem, check

_ARGUMENTS = {
    "q": "Tensor",
    "k": "Tensor",
    "v": "Tensor",
    "q_factor": "Tensor?",
    "k_factor": "Tensor?",
    "bias": "Tensor?",
    "band": "Tensor?",
    "key_mask": "Tensor?",
    "gate": "Tensor?",
    "ranks": "Tensor?",
    "scale": "float",
    "causal": "bool",
}
_INPUTS = ", ".join(f"{kind} {name}" for name, kind in _ARGUMENTS.items())
_LEARNT = ("q", "k", "v", "q_factor", "k_factor", "bias", "band")


def attend(problem: Problem) -> tuple[Tensor, Tensor]:
    """The output and the logarithms of the sums, differentiable."""
    gate, arguments = problem.gate, {name: getattr(problem, name) for name in _ARGUMENTS}
    learns = _learns(*(arguments[name] for name in (*_LEARNT, "gate")))
    if not learns and _plain(*arguments.values()):
        return triton_backend.attend(problem)  # nobody looks on, and an operator takes its time
    if gate is None or not learns:
        return attention(*arguments.values())
    # The gradient wants the output as it was before the gate.
    out, lse = attention(*{**arguments, "gate": None}.values())
    return out * torch.sigmoid(gate), lse


def _learns(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _plain(*arguments: Any) -> bool:
    """Whether these are tensors with numbers and nothing else: no tracing, no transformation."""
    return not torch.compiler.is_compiling() and all(
        type(value) in (Tensor, Parameter) for value in arguments if isinstance(value, Tensor)
    )


def _problem(*arguments: Any) -> Problem:
    named = dict(zip(_ARGUMENTS, arguments, strict=True))
    return check(named.pop("q"), named.pop("k"), named.pop("v"), **named)


@custom_op("flashbias_kernels::attention", mutates_args=(), schema=f"({_INPUTS}) -> (Tensor, Tensor)")
def attention(*arguments: Any) -> tuple[Tensor, Tensor]:
    """As `biased_attention` by the Triton kernels, with all arguments in order."""
    return triton_backend.attend(_problem(*arguments))


@attention.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    problem = _problem(*arguments)
    return (
        problem.empty_output(),
        problem.q.new_empty(problem.output_shape[:-1], dtype=torch.float32),
    )


@custom_op(
    "flashbias_kernels::attention_backward",
    mutates_args=(),
    schema=f"({_INPUTS}, Tensor out, Tensor lse, Tensor dout, Tensor dlse, bool[] wanted) -> Tensor[]",
)
def attention_backward(*arguments: Any) -> list[Tensor]:
    """Gradients of q, k, v, q_factor, k_factor, bias and band; empty where it is not wanted."""
    *inputs, out, lse, dout, dlse, wanted = arguments
    problem = _problem(*inputs)
    names = {name for name, one in zip(_LEARNT, wanted, strict=True) if one}
    found = triton_backend.gradients(problem, out, lse, dout, dlse, names)
    return [found.get(name, out.new_empty(0)) for name in _LEARNT]


@attention_backward.register_fake
def _(*arguments: Any) -> list[Tensor]:
    *inputs, out, _lse, _dout, _dlse, wanted = arguments
    given = inputs[: len(_LEARNT)]
    return [
        torch.empty_like(tensor, memory_format=torch.contiguous_format) if one else out.new_empty(0)
        for tensor, one in zip(given, wanted, strict=True)
    ]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tensors = [value for value in (*inputs, *output) if isinstance(value, Tensor)]
    ctx.others = [None if isinstance(value, Tensor) else (value,) for value in inputs]
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, dout: Tensor, dlse: Tensor) -> tuple[Tensor | None, ...]:
    saved = iter(ctx.saved_tensors)
    inputs = [next(saved) if other is None else other[0] for other in ctx.others]
    wanted = list(ctx.needs_input_grad[: len(_LEARNT)])
    found = attention_backward(*inputs, *saved, dout, dlse, wanted)
    gradients = [gradient if one else None for gradient, one in zip(found, wanted, strict=True)]
    return (*gradients, *(None,) * (len(inputs) - len(gradients)))


attention.register_autograd(_differentiate, setup_context=_keep)
