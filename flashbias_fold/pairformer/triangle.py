"""Triangle attention whose bias goes through the fused kernel, as it is or as factors."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flashbias_fold.factorize import Factors, decompose, refit
from flashbias_fold.pairformer.plan import Rule
from flashbias_kernels import biased_attention, layer_norm

_NEIGHBOURS = 16
# Rows of the pair representation that are attended exactly: to learn which pairs count, and, others, to
# measure the error. Few, since every call pays for them.
_LEARNT_FROM = 8
_MEASURED_ON = 8
_MOST_SCORES = 2**26  # at a time, of those rows


class _Projected(NamedTuple):
    """What rows become: heads (..., H, J, C), and the bias with heads last, where it was asked for."""

    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor | None
    bias: Tensor | None


class TriangleAttention(nn.Module):
    """Drop-in for a stock triangle attention: same parameters under the same names, other arithmetic.

    The stock layer's submodules (`layer_norm`, `linear`, `mha`) are taken over as they are, so that
    `state_dict` and checkpoints do not notice the exchange. No random number is drawn here: two methods
    can be compared only if they leave the generators alike.

    Args:
        stock: A module with the attributes of AlphaFold's triangle attention: `layer_norm`, `linear`
            (pair -> one bias a head), `mha` with its five projections, `no_heads` and `starting`.
        rule: How it is computed: `dense` adds the exact bias, `none` leaves it out, `lowrank` adds factors
            of it, as long as they are good enough.
    """

    # What a module of PyTorch is, its types cannot tell.
    layer_norm: Any
    linear: Any
    mha: Any

    def __init__(self, stock: Any, rule: Rule) -> None:
        super().__init__()
        self.layer_norm = stock.layer_norm
        self.linear = stock.linear
        self.mha = stock.mha
        self.no_heads = stock.no_heads
        self.starting = stock.starting
        self.rule = rule
        self.begin()

    def begin(self) -> None:
        """Forget the last prediction: results depend on nothing before them, and reports are of one."""
        self._basis: Tensor | None = None
        self._error = 0.0
        self._calls = self._fallbacks = 0

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        chunk_size: int | None = None,
        triangle_attention: str = "torch",
        inplace_safe: bool = False,
    ) -> Tensor:
        """Update of the pair representation `x` (..., I, J, C); signature of the stock layer.

        `triangle_attention` names the stock kernel and has no meaning here.
        """
        if not self.starting:
            x = x.transpose(-2, -3)
            mask = None if mask is None else mask.transpose(-1, -2)
        x = self._normalised(x)
        # AlphaFold's mask is 1 where a pair counts and 0 where it is padding.
        key_mask = None if mask is None else mask > 0.5
        if chunk_size is None or chunk_size >= x.shape[-3]:
            projected = self._project(x, with_bias=self.rule.way != "none")
            out = self._attend(projected, self._bias(projected.bias, x, key_mask), key_mask)
        else:
            out = self._in_chunks(x, key_mask, chunk_size, torch.empty_like(x) if not inplace_safe else x)
        return out if self.starting else out.transpose(-2, -3)

    def _normalised(self, x: Tensor) -> Tensor:
        """As the stock layer does it on a CPU; on a GPU in the dtype that the projections want."""
        norm = self.layer_norm
        if not x.is_cuda:
            return norm(x)
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
        return layer_norm(x, norm.weight, norm.bias, norm.eps, dtype)

    def _in_chunks(self, x: Tensor, key_mask: Tensor | None, rows: int, out: Tensor) -> Tensor:
        """Fewer rows at a time, for memory; `out` may be `x`, whose rows are spent once they are attended."""
        bias = self._bias(None if self.rule.way == "none" else self.linear(x), x, key_mask)
        for start in range(0, x.shape[-3], rows):
            part = slice(start, start + rows)
            projected = self._project(x[..., part, :, :])
            out[..., part, :, :] = self._attend(
                projected, bias, None if key_mask is None else key_mask[..., part, :]
            )
        return out

    def _project(self, x: Tensor, with_bias: bool = False) -> _Projected:
        """All that rows are projected to."""
        mha = self.mha
        linears = [mha.linear_q, mha.linear_k, mha.linear_v, mha.linear_g, self.linear if with_bias else None]
        found = _together(x, [linear for linear in linears if linear is not None])
        bias = found.pop() if with_bias else None
        q, k, v, *gate = map(self._heads, found)
        return _Projected(q, k, v, gate[0] if gate else None, bias)

    def _bias(self, projected: Tensor | None, x: Tensor, key_mask: Tensor | None) -> dict[str, Any]:
        """What `biased_attention` is given of it, every row the same: (..., 1, H, J, J), or factors."""
        if projected is None:
            return {}
        exact = _heads_first(projected)
        if self.rule.way == "lowrank" and exact.shape[-1] > 1:
            return self._factors_or(exact, x, key_mask)
        return {"bias": exact.unsqueeze(-4)}

    def _factors_or(self, exact: Tensor, x: Tensor, key_mask: Tensor | None) -> dict[str, Any]:
        """Factors of the exact bias, or itself where what they make of some rows is too far off."""
        assert self.rule.rank is not None and self.rule.tolerance is not None
        whole = {"bias": exact.unsqueeze(-4)}
        learn, measure = _sample(x.shape[-3], x.device, key_mask)
        factors = self._factors(exact, x[..., learn, :, :], _rows(key_mask, learn), key_mask)
        given = {"q_factor": factors.q.unsqueeze(-4), "k_factor": factors.k.unsqueeze(-4)}
        error = self._error_of(given, whole, x[..., measure, :, :], _rows(key_mask, measure))
        # One number from the device: the rows that follow wait for the decision anyway.
        worst = float(torch.where(factors.error.isfinite().all(), error, torch.inf))
        self._calls += 1
        if not worst <= self.rule.tolerance:  # NaN is not
            self._fallbacks += 1
            return whole
        self._error = max(self._error, worst)
        return given

    def _factors(self, bias: Tensor, x: Tensor, x_mask: Tensor | None, key_mask: Tensor | None) -> Factors:
        """Nearest where the rows `x` look."""
        assert self.rule.rank is not None
        weights, counted = self._weights(x, bias, x_mask), None
        if key_mask is not None:  # what stands at padding must not take channels
            counted = key_mask.any(-2)
            padding = ~counted[..., None, :, None]
            bias, weights = bias.masked_fill(padding, 0.0), weights.masked_fill_(padding, 0.0)
        last = self._basis  # of the cycle before, if this is another look at the same pairs
        fits = last is not None and last.shape[:-1] == (*bias.shape[:-2], bias.shape[-1])
        found = decompose(bias, self.rule.rank, key_mask=counted, start=last if fits else None)
        self._basis = found.basis
        return refit(bias, weights, found.factors)

    def _error_of(
        self, given: dict[str, Any], exact: dict[str, Any], x: Tensor, x_mask: Tensor | None
    ) -> Tensor:
        """Of what the rows `x` become, relative to what they become with the exact bias."""
        rows = self._project(x)
        found, right = (self._attend(rows, bias, x_mask).float() for bias in (given, exact))
        if x_mask is not None:
            found, right = found * x_mask[..., None], right * x_mask[..., None]
        return (found - right).norm() / right.norm().clamp(min=torch.finfo(torch.float32).tiny)

    def _weights(self, x: Tensor, bias: Tensor, key_mask: Tensor | None) -> Tensor:
        """How much the rows look at each pair, all together: (..., H, J, J)."""
        rows, total = self._project(x), torch.zeros(bias.shape, dtype=torch.float32, device=bias.device)
        step = max(1, _MOST_SCORES // bias.numel())
        for start in range(0, x.shape[-3], step):
            part = slice(start, start + step)
            q, k = rows.q[..., part, :, :, :].float(), rows.k[..., part, :, :, :].float()
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias.unsqueeze(-4)
            if key_mask is not None:
                scores = scores.masked_fill(~key_mask[..., part, None, None, :], float("-inf"))
            total += scores.softmax(-1).nan_to_num_(0.0).sum(-4)
        return total

    def _attend(self, rows: _Projected, bias: dict[str, Any], key_mask: Tensor | None) -> Tensor:
        attended = biased_attention(rows.q, rows.k, rows.v, key_mask=key_mask, gate=rows.gate, **bias)
        return self.mha.linear_o(attended.transpose(-2, -3).flatten(-2))

    def _heads(self, projected: Tensor) -> Tensor:
        """(..., J, H * C) -> (..., H, J, C)."""
        return projected.unflatten(-1, (self.no_heads, -1)).transpose(-2, -3)

    def report(self) -> dict[str, Any]:
        """What ran, for `report.json`; the error is the largest of all calls that used factors.

        The exact bias has none and needs no fallback.
        """
        error = {"dense": 0.0, "none": None}.get(self.rule.way, self._error)
        if self._calls and self._fallbacks == self._calls:
            error = 0.0
        return {
            "way": self.rule.way,
            "rank": self.rule.rank,
            "certified_error": error,
            "fallbacks": self._fallbacks,
        }


def _sample(rows: int, device: torch.device, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows to learn from and rows to measure on: evenly spaced, and apart where there are enough.

    Rows without a key, which are padding, come into it only where there is no other.
    """
    share = torch.linspace(0, 1, _LEARNT_FROM + _MEASURED_ON, device=device)
    if key_mask is None:
        places = (share * (rows - 1)).round().long()
    else:
        padding = ~key_mask.any(-1).reshape(-1, rows).any(0)
        last = (rows - padding.sum() - 1).clamp(min=0)
        places = padding.to(torch.int8).argsort(stable=True)[(share * last).round().long()]
    return places[::2], places[1::2]


def _together(x: Tensor, linears: list[Any]) -> list[Tensor]:
    """What each linear layer makes of `x`; on a GPU by one product, which reads it once.

    A CPU attends faster to what lies apart.
    """
    if not x.is_cuda or any(linear.bias is not None for linear in linears):
        return [linear(x) for linear in linears]
    weights = [linear.weight for linear in linears]
    # Places as far apart as lets a GPU load 16 neighbours at once.
    room = weights[0].new_zeros(-sum(map(len, weights)) % _NEIGHBOURS, weights[0].shape[1])
    whole = torch.cat([*weights, room])
    if x.dtype == torch.bfloat16:  # with or without autocast
        whole = whole.to(x.dtype)
    return list(nn.functional.linear(x, whole).split([*map(len, weights), len(room)], -1)[:-1])


def _rows(key_mask: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if key_mask is None else key_mask[..., rows, :]


def _heads_first(bias: Tensor) -> Tensor:
    """(..., J, J, H) -> (..., H, J, J), in memory too: all rows of the pair representation read it.

    Rows are as far apart as lets a GPU load 16 neighbours at once, whatever J is.
    """
    heads = bias.movedim(-1, -3)
    length = heads.shape[-1]
    room = heads.new_empty(*heads.shape[:-1], -(-length // _NEIGHBOURS) * _NEIGHBOURS)
    room[..., :length] = heads
    return room[..., :length]
