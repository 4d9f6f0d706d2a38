"""Attention with an additive bias, for models whose bias is as large as their scores.

    from flashbias_kernels import biased_attention
    out = biased_attention(q, k, v, bias=bias, key_mask=mask)

Shapes follow torch's ``scaled_dot_product_attention``: ``(..., heads, length, dim)``. Factors of biases that
have a closed form are in ``flashbias_kernels.factors``.
"""

from flashbias_kernels.attention import Choice, biased_attention, choose_backend
from flashbias_kernels.drop_ins import flash_bias_func, triangle_attention
from flashbias_kernels.norm import layer_norm
from flashbias_kernels.reference import reference_attention
from flashbias_kernels.row_sums import sum_rows
from flashbias_kernels.transition import TransitionWeights, reference_transition, transition

__all__ = [
    "Choice",
    "TransitionWeights",
    "biased_attention",
    "choose_backend",
    "flash_bias_func",
    "layer_norm",
    "reference_attention",
    "reference_transition",
    "sum_rows",
    "transition",
    "triangle_attention",
]
