"""A block of the Pairformer that reads the pairs of the ending node where they lie, without transposing."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from flashbias_fold.pairformer.transition import Transition
from flashbias_fold.pairformer.triangle import TriangleAttention


class PairformerBlock(nn.Module):
    """Drop-in for a stock block: the same submodules under the same names, computed in the same order.

    The stock block copies the pair representation to its transpose before the attention of the ending node,
    and back behind it. Here that attention is given the transpose by its strides, and what it finds is added
    in place. Where that is not safe, as where gradients are wanted, or where the attention of the ending node
    is a stock one, the stock block's own code runs.

    Args:
        stock: A block of AlphaFold's Pairformer, with or without the track of the single representation.
    """

    # What a module of PyTorch is, its types cannot tell.
    tri_mul_out: Any
    tri_mul_in: Any
    tri_att_start: Any
    tri_att_end: Any
    pair_transition: Any
    attention_pair_bias: Any
    single_transition: Any

    def __init__(self, stock: Any) -> None:
        super().__init__()
        for name, part in stock.named_children():
            self.add_module(name, part)
        self.n_heads = stock.n_heads
        self.c_s = stock.c_s
        self.p_drop = stock.p_drop
        self._stock = type(stock)
        self.train(stock.training)

    def forward(
        self,
        s: Tensor | None,
        z: Tensor,
        pair_mask: Tensor | None,
        triangle_multiplicative: str = "torch",
        triangle_attention: str = "torch",
        inplace_safe: bool = False,
        chunk_size: int | None = None,
    ) -> tuple[Tensor | None, Tensor]:
        """Update the single representation `s` (..., N, C) and the pairs `z` (..., N, N, C).

        The signature is the stock block's.
        """
        kernels = (triangle_multiplicative, triangle_attention)
        if not inplace_safe or not isinstance(self.tri_att_end, TriangleAttention):
            return self._stock.forward(self, s, z, pair_mask, *kernels, inplace_safe, chunk_size)
        for multiply in (self.tri_mul_out, self.tri_mul_in):
            z = multiply(
                z,
                mask=pair_mask,
                inplace_safe=True,
                _add_with_inplace=True,
                triangle_multiplicative=triangle_multiplicative,
            )
        options = {
            "triangle_attention": triangle_attention,
            "inplace_safe": True,
            "chunk_size": chunk_size,
        }
        if isinstance(self.tri_att_start, TriangleAttention):
            z = self.tri_att_start(z, mask=pair_mask, add_in_place=True, **options)
        else:
            z += self.tri_att_start(z, mask=pair_mask, **options)
        transposed_mask = None if pair_mask is None else pair_mask.transpose(-1, -2)
        self.tri_att_end(z.transpose(-2, -3), mask=transposed_mask, add_in_place=True, **options)
        if isinstance(self.pair_transition, Transition):
            z = self.pair_transition(z, add_in_place=True)
        else:
            z += self.pair_transition(z)
        if s is not None and self.c_s > 0:
            s = s + self.attention_pair_bias(a=s, s=None, z=z)
            s = s + self.single_transition(s)
        return s, z
