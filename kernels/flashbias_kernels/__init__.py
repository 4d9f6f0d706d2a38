"""Attention with an additive bias, for models whose bias is as large as their scores.

    from flashbias_kernels import biased_attention
    out = biased_attention(q, k, v, bias=bias, key_mask=mask)

Shapes follow torch's ``scaled_dot_product_attention``: ``(..., heads, length, dim)``. Factors of biases that
have a closed form are in ``flashbias_kernels.factors``.
"""

from flashbias_kernels.attention import Choice, biased_attention, choose_backend
from flashbias_kernels.drop_ins import flash_bias_func, triangle_attention
from flashbias_kernels.norm import Norm, layer_norm
from flashbias_kernels.projections import (
    HeadWeights,
    add_output,
    project_heads,
    reference_heads,
    reference_output,
)
from flashbias_kernels.reference import reference_attention
from flashbias_kernels.row_sums import sum_rows
from flashbias_kernels.transition import TransitionWeights, reference_transition, transition
from flashbias_kernels.triangle_product import (
    TriangleWeights,
    reference_triangle_multiplication,
    triangle_multiplication,
)

__all__ = [
    "Choice",
    "HeadWeights",
    "Norm",
    "TransitionWeights",
    "TriangleWeights",
    "add_output",
    "biased_attention",
    "choose_backend",
    "flash_bias_func",
    "layer_norm",
    "project_heads",
    "reference_attention",
    "reference_heads",
    "reference_output",
    "reference_transition",
    "reference_triangle_multiplication",
    "sum_rows",
    "transition",
    "triangle_attention",
    "triangle_multiplication",
]
