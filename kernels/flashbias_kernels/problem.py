"""What is to be computed: tensors that fit together, or a ValueError that says which does not and why."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """The arguments of `biased_attention`, checked. No tensor is expanded or copied.

    Attributes:
        leading: The dimensions in front of the heads, which all tensors broadcast to.
        heads: How many heads.
        queries: The length of the queries.
        keys: The length of the keys.
        scale: The factor on the scores, never None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    q_factor: Tensor | None
    k_factor: Tensor | None
    bias: Tensor | None
    band: Tensor | None
    key_mask: Tensor | None
    gate: Tensor | None
    ranks: Tensor | None
    scale: float
    causal: bool
    leading: Shape
    heads: int
    queries: int
    keys: int

    @property
    def rank(self) -> int:
        """How many channels the factors have; 0 where there are none."""
        return 0 if self.q_factor is None else self.q_factor.shape[-1]

    @property
    def has_wide_factors(self) -> bool:
        """Whether the factors have 32 bits beside queries in 16."""
        factor = self.q_factor
        return factor is not None and factor.dtype == torch.float32 and self.q.dtype.itemsize == 2

    @property
    def output_shape(self) -> Shape:
        """(..., heads, queries, value dimension)."""
        return (*self.leading, self.heads, self.queries, self.v.shape[-1])

    def empty_output(self) -> Tensor:
        """Room for it: the heads of a place lie together where those of the queries do.

        Then what follows, a projection of all heads, reads it as it is.
        """
        if self.q.stride(-3) >= self.q.stride(-2):
            return self.q.new_empty(self.output_shape)
        *leading, heads, length, dim = self.output_shape
        return self.q.new_empty((*leading, length, heads, dim)).transpose(-2, -3)

    @property
    def live_q_factor(self) -> Tensor | None:
        """The factor of the queries, zero in the channels beyond each head's rank."""
        return None if self.q_factor is None else self.only_live(self.q_factor)

    def only_live(self, channels: Tensor) -> Tensor:
        """Channels of factors, zero beyond each head's rank."""
        if self.ranks is None:
            return channels
        live = torch.arange(self.rank, device=self.ranks.device) < self.ranks[:, None]
        return channels.where(live[:, None, :], 0.0)

    @property
    def shares_factors(self) -> bool:
        """Whether several rows have the same factors, so that their product is smaller than the scores."""
        if self.q_factor is None or self.k_factor is None:
            return False
        own = broadcast("factors", self.q_factor.shape[:-3], self.k_factor.shape[:-3])
        return math.prod(own) < math.prod(self.leading)

    @property
    def allowed_keys(self) -> Tensor | None:
        """The key mask with dimensions for heads and queries."""
        return None if self.key_mask is None else self.key_mask[..., None, None, :]

    @property
    def allowed_pairs(self) -> Tensor | None:
        """Of causal attention, which key each query may see: no later one."""
        if not self.causal:
            return None
        return torch.ones(self.queries, self.keys, dtype=torch.bool, device=self.q.device).tril()


def check(
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
) -> Problem:
    """Look at shapes, dtypes and devices.

    Raises:
        ValueError: Something does not fit.
    """
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        _check_heads(name, tensor, q)
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q and k differ in their last dimension: {q.shape[-1]} and {k.shape[-1]}")
    if k.shape[-2] != v.shape[-2]:
        raise ValueError(f"k and v differ in length: {k.shape[-2]} and {v.shape[-2]}")
    if not q.shape[-3] == k.shape[-3] == v.shape[-3]:
        raise ValueError(f"q, k and v have {q.shape[-3]}, {k.shape[-3]} and {v.shape[-3]} heads")
    leading = broadcast("the leading dimensions of q, k and v", q.shape[:-3], k.shape[:-3], v.shape[:-3])
    heads, queries, keys = q.shape[-3], q.shape[-2], k.shape[-2]
    others = {"q_factor": q_factor, "k_factor": k_factor, "bias": bias, "band": band}
    others |= {"key_mask": key_mask, "gate": gate, "ranks": ranks}
    for name, other in others.items():
        if other is not None and other.device != q.device:
            raise ValueError(f"{name} is on {other.device} but q is on {q.device}")
    _check_factors(q_factor, k_factor, q.dtype, (*leading, heads), queries, keys)
    _check_bias(bias, (*leading, heads, queries, keys))
    _check_band(band, (*leading, heads), queries)
    _check_mask(key_mask, (*leading, keys))
    _check_gate(gate, q.dtype, (*leading, heads, queries, v.shape[-1]))
    _check_ranks(ranks, q_factor, heads)
    if scale is None:
        scale = 1.0 / math.sqrt(q.shape[-1])
    bias, gate, key_mask = _at_least(bias, 3), _at_least(gate, 3), _at_least(key_mask, 1)
    return Problem(
        q, k, v, q_factor, k_factor, bias, band, key_mask, gate, ranks, scale, causal,
        leading, heads, queries, keys,
    )  # fmt: skip


def _at_least(tensor: Tensor | None, dims: int) -> Tensor | None:
    """A view with so many dimensions, new ones in front."""
    return None if tensor is None else tensor[(None,) * (dims - tensor.dim())]


def _check_heads(name: str, tensor: Tensor, q: Tensor) -> None:
    if tensor.dim() < 3:
        raise ValueError(f"{name} must be (..., heads, length, dim), got shape {tuple(tensor.shape)}")
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {tensor.dtype}")
    if tensor.dtype != q.dtype:
        raise ValueError(f"{name} is {tensor.dtype} but q is {q.dtype}")
    if tensor.device != q.device:
        raise ValueError(f"{name} is on {tensor.device} but q is on {q.device}")


def _check_factors(
    q_factor: Tensor | None,
    k_factor: Tensor | None,
    dtype: torch.dtype,
    heads: Shape,
    queries: int,
    keys: int,
) -> None:
    if q_factor is None and k_factor is None:
        return
    if q_factor is None or k_factor is None:
        missing = "q_factor" if q_factor is None else "k_factor"
        raise ValueError(f"q_factor and k_factor belong together, but {missing} is missing")
    if q_factor.dim() < 3 or k_factor.dim() < 3:
        raise ValueError(
            "q_factor and k_factor must be (..., heads, length, rank), got shapes "
            f"{tuple(q_factor.shape)} and {tuple(k_factor.shape)}"
        )
    if q_factor.shape[-1] != k_factor.shape[-1]:
        raise ValueError(
            f"q_factor and k_factor differ in rank: {q_factor.shape[-1]} and {k_factor.shape[-1]}"
        )
    if q_factor.dtype != k_factor.dtype:
        raise ValueError(f"k_factor is {k_factor.dtype} but q_factor is {q_factor.dtype}")
    for name, factor, length in (("q_factor", q_factor, queries), ("k_factor", k_factor, keys)):
        if factor.dtype not in (dtype, torch.float32):
            raise ValueError(f"{name} is {factor.dtype} but q is {dtype}; float32 is taken beside any")
        if factor.shape[-2] != length:
            raise ValueError(f"{name} has length {factor.shape[-2]}, expected {length}")
        _check_broadcast(name, factor.shape[:-2], "the heads", heads)


def _check_bias(bias: Tensor | None, scores: Shape) -> None:
    if bias is None:
        return
    if not bias.is_floating_point():
        raise ValueError(f"bias must be floating point, got {bias.dtype}; a boolean mask is key_mask")
    _check_broadcast("bias", bias.shape, "the scores", scores)


def _check_band(band: Tensor | None, heads: Shape, queries: int) -> None:
    if band is None:
        return
    if not band.is_floating_point():
        raise ValueError(f"band must be floating point, got {band.dtype}")
    if band.dim() < 3 or band.shape[-1] % 2 == 0:
        raise ValueError(f"band must be (..., heads, length, 2 * reach + 1), got shape {tuple(band.shape)}")
    if band.shape[-2] != queries:
        raise ValueError(f"band has length {band.shape[-2]}, expected {queries}")
    _check_broadcast("band", band.shape[:-2], "the heads", heads)


def _check_mask(key_mask: Tensor | None, keys: Shape) -> None:
    if key_mask is None:
        return
    if key_mask.dtype != torch.bool:
        raise ValueError(f"key_mask must be boolean, got {key_mask.dtype}")
    _check_broadcast("key_mask", key_mask.shape, "the keys", keys)


def _check_gate(gate: Tensor | None, dtype: torch.dtype, output: Shape) -> None:
    if gate is None:
        return
    if gate.dtype != dtype:
        raise ValueError(f"gate is {gate.dtype} but q is {dtype}")
    _check_broadcast("gate", gate.shape, "the output", output)


def _check_ranks(ranks: Tensor | None, q_factor: Tensor | None, heads: int) -> None:
    if ranks is None:
        return
    if q_factor is None:
        raise ValueError("ranks are of factors, but there are none")
    if ranks.dtype != torch.int32 or tuple(ranks.shape) != (heads,):
        raise ValueError(
            f"ranks must be int32, one for each of {heads} heads, got {ranks.dtype} {tuple(ranks.shape)}"
        )


def _check_broadcast(name: str, shape: Shape, what: str, target: Shape) -> None:
    if broadcast(f"{name} and {what}", shape, target) != target:
        raise ValueError(f"{name} of shape {tuple(shape)} does not broadcast to {what} {target}")


def broadcast(what: str, *shapes: Shape) -> Shape:
    """As torch.broadcast_shapes, which takes ten times as long, and at its first call a second for sympy."""
    result: list[int] = [1] * max(map(len, shapes))
    for shape in shapes:
        offset = len(result) - len(shape)
        for place, size in enumerate(shape, start=offset):
            if result[place] == 1:
                result[place] = size
            elif size not in (1, result[place]):
                listed = ", ".join(str(tuple(shape)) for shape in shapes)
                raise ValueError(f"{what} do not broadcast: {listed}")
    return tuple(result)
