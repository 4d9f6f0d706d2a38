"""Triangle multiplication in two kernels and a product of matrices, for any number of tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flashbias_fold.pairformer.packed import Packed, product_dtype
from flashbias_kernels import Norm, TriangleWeights, triangle_multiplication
from flashbias_kernels.triangle_product import why_not_fused

# Where the kernels are worth it: on no machine that was measured, since none was yet.
FUSED_ON: set[str] = set()


class TriangleMultiplication(nn.Module):
    """Drop-in for a stock triangle multiplication: the same submodules under the same names.

    On a GPU its own kernels do it, for the shapes and dtypes that they know; elsewhere, and where gradients
    are wanted, the stock layer does.

    Args:
        stock: A triangle multiplication of AlphaFold's: `layer_norm_in`, `layer_norm_out`, six linear layers,
            and `_outgoing`.
    """

    # What a module of PyTorch is, its types cannot tell.
    layer_norm_in: Any
    layer_norm_out: Any
    linear_a_g: Any
    linear_b_g: Any
    linear_a_p: Any
    linear_b_p: Any
    linear_z: Any
    linear_g: Any

    def __init__(self, stock: Any) -> None:
        super().__init__()
        for name, part in stock.named_children():
            self.add_module(name, part)
        self.c_z = stock.c_z
        self.c_hidden = stock.c_hidden
        # In a list, so that its weights are not counted twice.
        self._stock = [stock]
        self._packed: Packed[TriangleWeights] = Packed()
        self.train(stock.training)

    def forward(
        self,
        z: Tensor,
        mask: Tensor | None = None,
        inplace_safe: bool = False,
        _add_with_inplace: bool = False,
        _inplace_chunk_size: int | None = 256,
        triangle_multiplicative: str = "torch",
    ) -> Tensor:
        """Return the update of the pairs `z` (..., N, N, C), or `z` with it; signature of the stock layer.

        With `_add_with_inplace` it is added to `z` where it lies, if `inplace_safe` says that nobody minds.
        """
        weights = self._weights_of_kernels(z)
        if weights is None:
            return self._stock[0](
                z, mask, inplace_safe, _add_with_inplace, _inplace_chunk_size, triangle_multiplicative
            )
        add = inplace_safe and _add_with_inplace
        return triangle_multiplication(
            z, weights, mask, outgoing=self._stock[0]._outgoing, add_input=add, in_place=add
        )

    def _weights_of_kernels(self, z: Tensor) -> TriangleWeights | None:
        """Return what the kernels need to compute it as stock would; None where they do not know how."""
        if z.device.type not in FUSED_ON or torch.is_grad_enabled():
            return None
        gates, values = (self.linear_a_g, self.linear_b_g), (self.linear_a_p, self.linear_b_p)
        linears = (*gates, *values, self.linear_z, self.linear_g)
        dtype = product_dtype(z, linears)
        # In fp16 Protenix computes the product in fp32: sums of N terms may leave its range.
        if dtype != torch.bfloat16 or why_not_fused(z, len(self.linear_a_g.weight), dtype) is not None:
            return None
        norms = (self.layer_norm_in, self.layer_norm_out)
        tensors = [linear.weight for linear in linears]

        def pack() -> TriangleWeights:
            a_gate, b_gate, a_value, b_value, update, update_gate = tensors
            before, after = (Norm(norm.weight, norm.bias, norm.eps) for norm in norms)
            return TriangleWeights.pack(
                (a_gate, b_gate), (a_value, b_value), update, update_gate, before, after, dtype
            )

        of_norms = [tensor for norm in norms for tensor in (norm.weight, norm.bias)]
        return self._packed.get([*tensors, *of_norms], (dtype, *(norm.eps for norm in norms)), pack)
