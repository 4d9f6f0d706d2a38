"""How what a layer makes of the pair representation lies in memory."""

from __future__ import annotations

from torch import Tensor

_NEIGHBOURS = 16


def heads_first(bias: Tensor) -> Tensor:
    """(..., J, J, H) -> (..., H, J, J), in memory too: all rows of the pair representation read it."""
    return with_room(bias.movedim(-1, -3))


def with_room(heads: Tensor) -> Tensor:
    """(..., H, J, J), its rows as far apart as lets a GPU load 16 neighbours at once, whatever J is."""
    length = heads.shape[-1]
    if length % _NEIGHBOURS == 0 and heads.is_contiguous():
        return heads
    room = heads.new_empty(*heads.shape[:-1], -(-length // _NEIGHBOURS) * _NEIGHBOURS)
    room[..., :length] = heads
    return room[..., :length]
