"""Attention with pair bias: the bias goes through the fused kernel, as it is or as factors."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flashbias_fold.factorize import Factors, computed
from flashbias_fold.pairformer.certificate import Certificate, relative_error
from flashbias_fold.pairformer.keep import Keep
from flashbias_fold.pairformer.layout import heads_first, with_room
from flashbias_fold.pairformer.plan import Rule
from flashbias_kernels import biased_attention, layer_norm

# Queries that are attended exactly, to measure the error: few, since every call with factors pays for them.
_MEASURED_ON = 64


class _Projected(NamedTuple):
    """What the single representation becomes: heads (..., H, N, C)."""

    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor | None

    def only(self, queries: Tensor) -> _Projected:
        """Those queries, and all keys."""
        gate = None if self.gate is None else self.gate[..., queries, :]
        return _Projected(self.q[..., queries, :], self.k, self.v, gate)


class PairBiasAttention(nn.Module):
    """Drop-in for a stock attention with pair bias: same parameters under the same names, other arithmetic.

    The stock layer's submodules are taken over as they are, so that `state_dict` and checkpoints do not
    notice the exchange. No random number is drawn here. Every token attends to every token: the local
    attention of atoms is left to the stock layer.

    Args:
        stock: A module with the attributes of AlphaFold's attention with pair bias: `layernorm_a`,
            `layernorm_z`, `linear_nobias_z` (pair -> one bias a head), `attention` with its five projections,
            `n_heads`, `has_s`, and with `has_s` also `linear_a_last`.
        rule: How it is computed: `dense` adds the exact bias, `none` leaves it out, `lowrank` adds factors
            of it, as long as they are good enough.
        keep: Where the bias is kept from call to call, if calls come with the same pair representation.
    """

    # What a module of PyTorch is, its types cannot tell.
    layernorm_a: Any
    layernorm_z: Any
    linear_nobias_z: Any
    attention: Any
    linear_a_last: Any

    def __init__(self, stock: Any, rule: Rule, keep: Keep | None = None) -> None:
        super().__init__()
        for name, part in stock.named_children():
            self.add_module(name, part)
        self.n_heads = stock.n_heads
        self.has_s = stock.has_s
        self.rule = rule
        self._keep = keep
        self.begin()

    def begin(self) -> None:
        """Forget the last prediction: results depend on nothing before them, and reports are of one."""
        if self._keep is not None:
            self._keep.forget()
        self._last: Factors | None = None
        self._certificate = Certificate(self.rule)

    def forward(
        self,
        a: Tensor,
        s: Tensor | None,
        z: Tensor,
        n_queries: int | None = None,
        n_keys: int | None = None,
        inplace_safe: bool = False,
        chunk_size: int | None = None,
        enable_efficient_fusion: bool = False,
    ) -> Tensor:
        """Update of the single representation `a` (..., N, C) from pairs `z`; signature of the stock layer.

        `z` is (..., N, N, C), or (..., C, N, N) and already normalised with `enable_efficient_fusion`.
        `chunk_size` is about the local attention, which is not done here.
        """
        if n_queries or n_keys:
            raise ValueError("local attention is left to the stock layer")
        rows = self._project(self.layernorm_a(a=a, s=s) if self.has_s else self.layernorm_a(a))
        out = self._attend(rows, self._bias(rows, s, z, enable_efficient_fusion))
        return self._let_through(out, s, inplace_safe)

    def _project(self, a: Tensor) -> _Projected:
        own = self.attention
        q, k, v = (self._heads(linear(a)) for linear in (own.linear_q, own.linear_k, own.linear_v))
        return _Projected(q, k, v, None if own.linear_g is None else self._heads(own.linear_g(a)))

    def _attend(self, rows: _Projected, bias: dict[str, Any]) -> Tensor:
        attended = biased_attention(rows.q, rows.k, rows.v, gate=rows.gate, **bias)
        return self.attention.linear_o(attended.transpose(-2, -3).flatten(-2))

    def _let_through(self, out: Tensor, s: Tensor | None, inplace: bool = False) -> Tensor:
        """As much of the output as the conditioning wants."""
        if not self.has_s:
            return out
        share = torch.sigmoid(self.linear_a_last(s))
        return out.mul_(share) if inplace else share * out

    def _bias(self, rows: _Projected, s: Tensor | None, z: Tensor, fused: bool) -> dict[str, Any]:
        """What `biased_attention` is given of it: the bias (..., H, N, N), or factors."""
        if self.rule.way == "none":
            return {}
        if self._keep is None:
            return self._chosen(rows, s, self._exact(z, fused))
        weights = (self.layernorm_z.weight, self.linear_nobias_z.weight)
        kept = self._keep.find(self, z, fused, weights)
        if kept is None:
            bias = self._chosen(rows, s, self._exact(z, fused))
            self._keep.put(self, z, weights, bias)
            return bias
        return {"bias": self._exact(z, fused)} if kept.bias is None else kept.bias

    def _exact(self, z: Tensor, fused: bool) -> Tensor:
        norm, linear = self.layernorm_z, self.linear_nobias_z
        if fused:
            # An offset of the normalisation would be the same for all keys: softmax does not see it.
            weight = linear.weight * norm.weight
            return with_room((weight @ z.flatten(-2)).unflatten(-1, z.shape[-2:]))
        if z.is_cuda:
            dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else z.dtype
            return heads_first(linear(layer_norm(z, norm.weight, norm.bias, norm.eps, dtype)))
        return heads_first(linear(norm(z)))

    def _chosen(self, rows: _Projected, s: Tensor | None, exact: Tensor) -> dict[str, Any]:
        """Factors of the exact bias where the rule asks for them and they are good enough, or itself."""
        whole = {"bias": exact}
        if self.rule.way != "lowrank" or exact.shape[-1] == 1:
            return whole
        rule = self.rule
        assert rule.rank is not None
        factors = computed(exact, rule.rank, self._last, reach=rule.reach)
        if not self._certificate.accepts(factors, self._error_of(factors, exact, rows, s)):
            self._last = None
            return whole
        self._last = factors if self._keep is None else None
        return factors.arguments()

    def _error_of(self, factors: Factors, exact: Tensor, rows: _Projected, s: Tensor | None) -> Tensor:
        """Of what some tokens become, relative to what they become with the exact bias."""
        length = rows.q.shape[-2]
        count = min(length, _MEASURED_ON)
        queries = torch.linspace(0, length - 1, count, device=rows.q.device).round().long()
        some = rows.only(queries)
        some_s = None if s is None else s[..., queries, :]
        found, right = (
            self._let_through(self._attend(some, {"bias": bias}), some_s).float()
            for bias in (factors.bias(queries), exact[..., queries, :])
        )
        return relative_error(found, right)

    def _heads(self, projected: Tensor) -> Tensor:
        """(..., N, H * C) -> (..., H, N, C)."""
        return projected.unflatten(-1, (self.n_heads, -1)).transpose(-2, -3)

    def report(self) -> dict[str, Any]:
        """What ran, for `report.json`; in diffusion measured once, with the first step's queries."""
        return self._certificate.report()
