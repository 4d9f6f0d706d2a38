"""The least time that a layer takes on a GPU, by its operations and by what it must read and write.

Of each call of a layer there are counted

- the operations of its matrix products, two for a multiplication with its addition, at the rate of the
  matrix units for the type that the layer computes in;
- its exponentials, one for each score of an attention;
- the bytes of its inputs and outputs, each once.

These are done by different units at the same time, so the floor is the longest of the three. It is that of
what the layer computes, whichever kernels do it: what these read twice, or do besides, is not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashbias_fold.bench.kernels.floor import RATES

# Bytes a second that a copy moves, read and written together, as measured.
_MEMORY = {"NVIDIA H200": 4.3e12}
_TF32_SHARE = 0.5  # of the rate of bf16, by the data sheets of all GPUs that have both


@dataclass(frozen=True)
class Rates:
    """What a GPU does in a second."""

    exponentials: float
    matrix_operations: float
    bytes: float


@dataclass(frozen=True)
class Work:
    """What a call of a layer comes to.

    Attributes:
        operations: Of matrix products.
        exponentials: Of attention's softmax.
        bytes: Read and written at least.
        speed: The matrix units' rate for its type over that of bf16; None where it is not known.
    """

    operations: float
    exponentials: float
    bytes: float
    speed: float | None


def rates_of(machine: dict[str, Any]) -> Rates | None:
    """Of the GPU that `machine.describe` found; None where they were not measured."""
    capability = tuple(machine.get("compute_capability", ()))
    memory = _MEMORY.get(machine.get("gpu", ""))
    if capability not in RATES or memory is None or machine.get("max_clock_mhz") is None:
        return None
    each = RATES[capability]
    clocks = machine["multiprocessors"] * machine["max_clock_mhz"] * 1e6
    return Rates(each.exponentials * clocks, each.matrix_operations * clocks, memory)


def floor_s(work: Work | None, rates: Rates | None) -> float | None:
    """Seconds; None where there is no formula or no rate."""
    if work is None or rates is None or work.speed is None:
        return None
    return max(
        work.operations / (rates.matrix_operations * work.speed),
        work.exponentials / rates.exponentials,
        work.bytes / rates.bytes,
    )


def work_of(kind: str, module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Work | None:
    """Of a call of a layer; None of a kind that has no formula."""
    count = _COUNTS.get(kind)
    return None if count is None else count(module, args, options)


def _triangle_attention(layer: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Work:
    """Rows, queries and keys are all tokens; five projections, and one to the bias."""
    x = _argument("x", args, options)
    tokens, (hidden, channels), heads = x.shape[-2], layer.mha.linear_q.weight.shape, layer.no_heads
    pairs = tokens**2
    projections = 2 * pairs * channels * (5 * hidden + heads)
    return _work(x, projections + 4 * tokens * pairs * hidden, 2 * x.numel(), tokens * pairs * heads)


def _triangle_multiplication(layer: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Work:
    """Two projections with their gates, the product over the third place, the output with its gate."""
    z = _argument("z", args, options)
    tokens, (hidden, channels) = z.shape[-2], layer.linear_a_p.weight.shape
    pairs = tokens**2
    projections = 2 * pairs * channels * (5 * hidden + channels)
    return _work(z, projections + 2 * tokens * pairs * hidden, 2 * z.numel())


def _transition(layer: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Work:
    """Two projections to the wide layer, and one back."""
    x = _argument("x", args, options)
    return _work(x, 6 * x.numel() * layer.linear_no_bias_a.weight.shape[0], 2 * x.numel())


def _pair_bias(layer: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Work:
    """Five projections of the single representation, and one of all pairs to the bias."""
    a, z = _argument("a", args, options), options["z"]
    tokens, channels = a.shape[-2:]
    pairs = tokens**2
    operations = 10 * tokens * channels**2 + 2 * z.numel() * layer.n_heads + 4 * pairs * channels
    return _work(z, operations, z.numel(), pairs * layer.n_heads)


def _argument(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    """The first argument, which may come by its name."""
    return args[0] if args else options[name]


def _work(x: Tensor, operations: float, elements: int, exponentials: float = 0.0) -> Work:
    return Work(operations, exponentials, elements * x.element_size(), _speed(x))


def _speed(x: Tensor) -> float | None:
    if torch.is_autocast_enabled(x.device.type) or x.element_size() == 2:
        return 1.0
    return _TF32_SHARE if torch.backends.cuda.matmul.allow_tf32 else None


_COUNTS: dict[str, Callable[[Any, tuple[Any, ...], dict[str, Any]], Work]] = {
    "triangle attention": _triangle_attention,
    "triangle multiplication": _triangle_multiplication,
    "pair transition": _transition,
    "single transition": _transition,
    "attention with pair bias": _pair_bias,
}
