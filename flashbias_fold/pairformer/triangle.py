"""Triangle attention whose bias goes through the fused kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flashbias_kernels import biased_attention

_NEIGHBOURS = 16


class TriangleAttention(nn.Module):
    """Drop-in for a stock triangle attention: same parameters under the same names, other arithmetic.

    The stock layer's submodules (`layer_norm`, `linear`, `mha`) are taken over as they are, so that
    `state_dict` and checkpoints do not notice the exchange. No random number is drawn here: two methods
    can be compared only if they leave the generators alike.

    Args:
        stock: A module with the attributes of AlphaFold's triangle attention: `layer_norm`, `linear`
            (pair -> one bias a head), `mha` with its five projections, `no_heads` and `starting`.
        way: `dense` adds the exact bias, `none` leaves it out.
    """

    # What a module of PyTorch is, its types cannot tell.
    layer_norm: Any
    linear: Any
    mha: Any

    def __init__(self, stock: Any, way: str) -> None:
        super().__init__()
        self.layer_norm = stock.layer_norm
        self.linear = stock.linear
        self.mha = stock.mha
        self.no_heads = stock.no_heads
        self.starting = stock.starting
        self.way = way

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
        x = self.layer_norm(x)
        # Every row i shares this bias: (..., 1, H, J, J).
        bias = None if self.way == "none" else _heads_first(self.linear(x)).unsqueeze(-4)
        # AlphaFold's mask is 1 where a pair counts and 0 where it is padding.
        key_mask = None if mask is None else mask > 0.5
        rows = x.shape[-3] if chunk_size is None else chunk_size
        out = torch.empty_like(x) if rows < x.shape[-3] and not inplace_safe else x
        for start in range(0, x.shape[-3], rows):
            part = slice(start, start + rows)
            part_mask = None if key_mask is None else key_mask[..., part, :]
            update = self._attend(x[..., part, :, :], bias, part_mask)
            if rows >= x.shape[-3]:
                out = update
            else:
                out[..., part, :, :] = update  # a row's keys are its own, so its input is spent
        return out if self.starting else out.transpose(-2, -3)

    def _attend(self, x: Tensor, bias: Tensor | None, key_mask: Tensor | None) -> Tensor:
        mha = self.mha
        q, k, v = (self._heads(project(x)) for project in (mha.linear_q, mha.linear_k, mha.linear_v))
        attended = biased_attention(q, k, v, bias=bias, key_mask=key_mask).transpose(-2, -3)
        if mha.linear_g is not None:
            attended = attended * torch.sigmoid(mha.linear_g(x)).unflatten(-1, (self.no_heads, -1))
        return mha.linear_o(attended.flatten(-2))

    def _heads(self, projected: Tensor) -> Tensor:
        """(..., J, H * C) -> (..., H, J, C)."""
        return projected.unflatten(-1, (self.no_heads, -1)).transpose(-2, -3)

    def report(self) -> dict[str, Any]:
        """What ran, for `report.json`: the exact bias has no error and needs no fallback."""
        error = 0.0 if self.way == "dense" else None
        return {"way": self.way, "rank": None, "certified_error": error, "fallbacks": 0}


def _heads_first(bias: Tensor) -> Tensor:
    """(..., J, J, H) -> (..., H, J, J), in memory too: all rows of the pair representation read it.

    Rows are as far apart as lets a GPU load 16 neighbours at once, whatever J is.
    """
    heads = bias.movedim(-1, -3)
    length = heads.shape[-1]
    room = heads.new_empty(*heads.shape[:-1], -(-length // _NEIGHBOURS) * _NEIGHBOURS)
    room[..., :length] = heads
    return room[..., :length]
