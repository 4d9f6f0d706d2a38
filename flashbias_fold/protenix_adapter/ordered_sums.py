"""Sums over the atoms of each token in a fixed order, so that a GPU gives the same bytes in every run.

Protenix averages atoms into tokens by `scatter_add_`, which on a GPU adds in the order in which threads come:
the last bits differ from run to run, and after 200 denoising steps so do the structures. Nothing else in its
inference depends on such an order. Here the atoms of a token are added one after the other, as they stand in
the input.
"""

from __future__ import annotations

import contextlib
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flashbias_kernels import sum_rows


class OrderedSums:
    """Stands in for the sums of a model's atom encoders, on the instance, until it is removed.

    Args:
        model: A Protenix model.
    """

    def __init__(self, model: nn.Module) -> None:
        from protenix.model.modules.transformer import AtomAttentionEncoder

        self._encoders = [part for part in model.modules() if isinstance(part, AtomAttentionEncoder)]
        for encoder in self._encoders:
            _stand_in(encoder)

    def remove(self) -> None:
        """Put the encoders' own forwards back."""
        for encoder in self._encoders:
            for part in (encoder, encoder.linear_no_bias_q):
                vars(part).pop("forward", None)
        self._encoders = []


def _stand_in(encoder: Any) -> None:
    """Have an encoder add in order from its last projection on, whose output is what it sums.

    Not before: every call of torch costs a little more while calls are looked at, and a step has thousands.
    """
    encode, project = encoder.forward, encoder.linear_no_bias_q.forward
    looking = contextlib.ExitStack()

    def project_and_look(x: Tensor) -> Tensor:
        projected = project(x)
        looking.enter_context(_OrderedScatter())
        return projected

    def encode_in_order(*args: Any, **options: Any) -> Any:
        with looking:
            return encode(*args, **options)

    encoder.linear_no_bias_q.forward, encoder.forward = project_and_look, encode_in_order


class _OrderedScatter(TorchFunctionMode):
    """Has `scatter_add_` over rows add in order, while it is entered; of counts any order gives the same."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.scatter_add_:
            out, dim, index, rows = args
            if rows.dim() > 1 and dim in (-2, rows.dim() - 2):
                return out.add_(sum_rows(rows, _one_for_all(index), out.shape[dim]))
        return func(*args, **(kwargs or {}))


def _one_for_all(index: Tensor) -> Tensor:
    """Return the index of the rows, which is repeated for every column and sample."""
    index = index[..., 0]
    while index.dim() > 1:
        assert index.stride(0) == 0 or len(index) == 1
        index = index[0]
    return index
