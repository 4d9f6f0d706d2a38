"""Triangle attention whose bias goes through the fused kernel, as it is or as factors."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flashbias_fold.factorize import FactorNetwork, Factors, computed
from flashbias_fold.pairformer.certificate import Certificate, relative_error
from flashbias_fold.pairformer.layout import heads_first
from flashbias_fold.pairformer.packed import Packed, product_dtype
from flashbias_fold.pairformer.plan import Rule
from flashbias_kernels import HeadWeights, Norm, add_output, biased_attention, layer_norm, project_heads
from flashbias_kernels.projections import why_not_fused

# Where the kernels around the attention are worth it: on no machine that was measured, since none was yet.
FUSED_ON: set[str] = set()
_NEIGHBOURS = 16
# Rows of the pair representation that are attended exactly, to measure the error. Every call pays for them.
_MEASURED_ON = 8


class _Projected(NamedTuple):
    """What rows become: heads (..., H, J, C), and the bias with heads last, where it was asked for."""

    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor | None
    bias: Tensor | None


class _LayerWeights(NamedTuple):
    """Those of a layer, as the kernels around its attention read them."""

    heads: HeadWeights
    output: Tensor


class TriangleAttention(nn.Module):
    """Drop-in for a stock triangle attention: same parameters under the same names, other arithmetic.

    The stock layer's submodules (`layer_norm`, `linear`, `mha`) are taken over as they are, so that
    `state_dict` and checkpoints do not notice the exchange. No random number is drawn here: two methods
    can be compared only if they leave the generators alike.

    Args:
        stock: A module with the attributes of AlphaFold's triangle attention: `layer_norm`, `linear`
            (pair -> one bias a head), `mha` with its five projections, `no_heads` and `starting`.
        rule: How it is computed: `dense` adds the exact bias, `none` leaves it out, `lowrank` and `neural`
            add factors of it, as long as they are good enough.
        network: What makes the factors for `neural`.
    """

    # What a module of PyTorch is, its types cannot tell.
    layer_norm: Any
    linear: Any
    mha: Any

    def __init__(self, stock: Any, rule: Rule, network: FactorNetwork | None = None) -> None:
        super().__init__()
        self.layer_norm = stock.layer_norm
        self.linear = stock.linear
        self.mha = stock.mha
        self.no_heads = stock.no_heads
        self.starting = stock.starting
        self.rule = rule
        # In a list, so that the model does not count its weights among its own.
        self._networks = [] if network is None else [network.to(stock.linear.weight.device)]
        self._tokens: Tensor | None = None
        self._packed: Packed[_LayerWeights] = Packed()
        self.begin()

    @property
    def packs_weights(self) -> bool:
        """Tell if it keeps a copy of its weights, for kernels, so that no other copy is wanted."""
        return bool(FUSED_ON) and self.rule.rank is None

    @property
    def network(self) -> FactorNetwork | None:
        """What makes the factors, if a network does."""
        return self._networks[0] if self._networks else None

    def take_tokens(self, tokens: Tensor) -> None:
        """What the model knows of each place, before it looks at pairs; for the network."""
        self._tokens = tokens

    def begin(self) -> None:
        """Forget the last prediction: results depend on nothing before them, and reports are of one."""
        self._last: Factors | None = None
        self._certificate = Certificate(self.rule)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        chunk_size: int | None = None,
        triangle_attention: str = "torch",
        inplace_safe: bool = False,
        add_in_place: bool = False,
    ) -> Tensor:
        """Update of the pair representation `x` (..., I, J, C); the stock layer has all options but the last.

        `triangle_attention` names the stock kernel and has no meaning here. With `add_in_place` the update is
        added to `x`, which is returned.
        """
        weights = self._weights_of_kernels(x)
        if weights is not None:
            return self._in_kernels(x if add_in_place else torch.zeros_like(x), x, mask, weights, chunk_size)
        update = self._by_torch(x, mask, chunk_size, inplace_safe)
        return x.add_(update) if add_in_place else update

    def _by_torch(self, x: Tensor, mask: Tensor | None, chunk_size: int | None, inplace_safe: bool) -> Tensor:
        """Compute it with torch's operations around the attention."""
        x, key_mask = self.rows_of(x, mask)
        if chunk_size is None or chunk_size >= x.shape[-3]:
            projected = self._project(x, with_bias=self.rule.way != "none")
            out = self._attend(projected, self._bias(projected.bias, x, key_mask), key_mask)
        else:
            out = self._in_chunks(x, key_mask, chunk_size, torch.empty_like(x) if not inplace_safe else x)
        return out if self.starting else out.transpose(-2, -3)

    def rows_of(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The pair representation as it is attended to, normalised, and which pairs count."""
        return self._normalised(self._turned(x)), self._key_mask(mask)

    def _turned(self, x: Tensor) -> Tensor:
        """The pair representation as it is attended to."""
        return x if self.starting else x.transpose(-2, -3)

    def _key_mask(self, mask: Tensor | None) -> Tensor | None:
        """Which pairs count: AlphaFold's mask is 1 there and 0 where there is padding."""
        if mask is None:
            return None
        return (mask if self.starting else mask.transpose(-1, -2)) > 0.5

    def _weights_of_kernels(self, x: Tensor) -> _LayerWeights | None:
        """Return what the kernels around the attention need; None where they are not for it."""
        if x.device.type not in FUSED_ON or self.rule.rank is not None or torch.is_grad_enabled():
            return None
        mha, norm = self.mha, self.layer_norm
        if mha.linear_g is None:
            return None
        layers = (mha.linear_q, mha.linear_k, mha.linear_v, mha.linear_g)
        dtype = product_dtype(x, (*layers, self.linear, mha.linear_o))
        units = sum(len(layer.weight) for layer in layers)
        if dtype is None or why_not_fused(x, units, self.no_heads, dtype) is not None:
            return None
        tensors = [layer.weight for layer in (*layers, self.linear, mha.linear_o)]

        def pack() -> _LayerWeights:
            heads = HeadWeights.pack(
                tensors[:4], tensors[4], Norm(norm.weight, norm.bias, norm.eps), dtype=dtype
            )
            return _LayerWeights(heads, tensors[5].detach().to(dtype, copy=True).contiguous())

        return self._packed.get([*tensors, norm.weight, norm.bias], (dtype, norm.eps), pack)

    def _in_kernels(
        self, out: Tensor, x: Tensor, mask: Tensor | None, weights: _LayerWeights, chunk_size: int | None
    ) -> Tensor:
        """Add the update of `x` to `out`, which may be `x`: a row is read before it is added to, and once."""
        pairs, key_mask, target = self._turned(x), self._key_mask(mask), self._turned(out)
        rows = pairs.shape[-3]
        step = max(1, min(chunk_size or rows, rows))
        has_bias, whole = self.rule.way != "none", step == rows
        bias = None
        if has_bias and not whole:
            bias = project_heads(pairs, weights.heads, with_units=False).bias
        for start in range(0, rows, step):
            part = slice(start, start + step)
            heads = project_heads(pairs[..., part, :, :], weights.heads, with_bias=has_bias and whole)
            assert heads.units is not None
            q, k, v, gate = map(self._heads, heads.units.chunk(4, -1))
            own = heads.bias if whole else bias
            attended = biased_attention(
                q,
                k,
                v,
                key_mask=None if key_mask is None else key_mask[..., part, :],
                gate=gate,
                **({} if own is None else _shared(bias=own)),
            )
            add_output(target[..., part, :, :], attended.transpose(-2, -3).flatten(-2), weights.output)
        return out

    def exact_bias(self, x: Tensor) -> Tensor:
        """(..., H, J, J), of a normalised pair representation."""
        return heads_first(self.linear(x))

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
        exact = heads_first(projected)
        if self.rule.rank is not None and exact.shape[-1] > 1:
            return self._factors_or(exact, x, key_mask)
        return _shared(bias=exact)

    def _factors_or(self, exact: Tensor, x: Tensor, key_mask: Tensor | None) -> dict[str, Any]:
        """Factors of the exact bias, or itself where what they make of some rows is too far off."""
        rule, tokens, last = self.rule, self._tokens, self._last
        assert rule.rank is not None
        factors = factors_of(exact, x, key_mask, rule.rank, self.network, tokens, last, rule.reach)
        rows = sample(x.shape[-3], _MEASURED_ON, x.device, key_mask)
        if not self._certificate.accepts(factors, self.error_of(factors, exact, x, key_mask, rows)):
            self._last = None
            return _shared(bias=exact)
        self._last = factors
        return _shared(**factors.arguments())

    def error_of(
        self, factors: Factors, exact: Tensor, x: Tensor, key_mask: Tensor | None, rows: Tensor
    ) -> Tensor:
        """Of what some rows of `x` become by factors, relative to what they become with the exact bias."""
        projected = self._project(x[..., rows, :, :])
        if key_mask is not None:
            key_mask = key_mask[..., rows, :]
        given = (_shared(**factors.arguments()), _shared(bias=exact))
        found, right = (self._attend(projected, bias, key_mask).float() for bias in given)
        if key_mask is not None:
            found, right = found * key_mask[..., None], right * key_mask[..., None]
        return relative_error(found, right)

    def _attend(self, rows: _Projected, bias: dict[str, Any], key_mask: Tensor | None) -> Tensor:
        attended = biased_attention(rows.q, rows.k, rows.v, key_mask=key_mask, gate=rows.gate, **bias)
        return self.mha.linear_o(attended.transpose(-2, -3).flatten(-2))

    def _heads(self, projected: Tensor) -> Tensor:
        """(..., J, H * C) -> (..., H, J, C)."""
        return projected.unflatten(-1, (self.no_heads, -1)).transpose(-2, -3)

    def report(self) -> dict[str, Any]:
        """What ran, for `report.json`."""
        return self._certificate.report()


def factors_of(
    exact: Tensor,
    x: Tensor,
    key_mask: Tensor | None,
    rank: int,
    network: FactorNetwork | None = None,
    tokens: Tensor | None = None,
    last: Factors | None = None,
    reach: int = 0,
) -> Factors:
    """Factors of a bias (..., H, J, J): by a network, or computed.

    Args:
        exact: The bias.
        x: The normalised pair representation that it comes from.
        key_mask: Which pairs count.
        rank: How many channels.
        network: What makes them; they are computed where there is none.
        tokens: What networks are told of each place.
        last: Those of the cycle before, which are near already if they are of the same pairs.
        reach: Pairs at most so many places apart keep their bias; 0 for none.
    """
    counted = None if key_mask is None else key_mask.any(-2)
    if network is not None:
        assert tokens is not None
        return network(x, exact, tokens, rank, counted, reach)
    if counted is not None:  # what stands at padding must not take channels
        exact = exact.masked_fill(~counted[..., None, :, None], 0.0)
    return computed(exact, rank, last, counted, reach)


def sample(rows: int, most: int, device: torch.device, key_mask: Tensor | None) -> Tensor:
    """Rows to measure on, evenly spaced; without a key, which is padding, only where there is no other."""
    share = torch.linspace(0, 1, most, device=device)
    if key_mask is None:
        return (share * (rows - 1)).round().long()
    padding = ~key_mask.any(-1).reshape(-1, rows).any(0)
    last = (rows - padding.sum() - 1).clamp(min=0)
    return padding.to(torch.int8).argsort(stable=True)[(share * last).round().long()]


def _shared(**tensors: Tensor) -> dict[str, Any]:
    """The same for every row of the pair representation."""
    return {name: tensor.unsqueeze(-4) for name, tensor in tensors.items()}


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
