"""How far a fused kernel may be from float64: as far as torch in the same dtypes, and a little more."""

import torch
from problems import DEVICE

OPERANDS = (torch.bfloat16, torch.float16)
DTYPES = (*OPERANDS, torch.float32)
# How far a result may be from float64's, relative to the same by torch in the same dtypes.
FACTOR = 1.5
# Where a GPU rounds to bf16, Triton's interpreter cuts digits off: twice as far, and always towards zero.
# Torch made to do the same gives the same.
CUT_OFF = 1.0 if DEVICE == "cuda" else 2.0
# Where torch is as good as this, it was lucky.
ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float32: 2**-22}


def normal(*shape, seed=0, scale=1.0):
    """The same numbers in every run."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def distance(found, right):
    """By norm, relative."""
    return float((found.double() - right).norm() / right.norm().clamp(min=1e-30))


def bar(theirs, right, *dtypes):
    """The largest distance that is let pass, from torch's result in the same dtypes."""
    least = [ROUNDING[dtype] / 2 for dtype in dtypes]
    return FACTOR * max(distance(theirs, right), *least) * (CUT_OFF if torch.bfloat16 in dtypes else 1)
