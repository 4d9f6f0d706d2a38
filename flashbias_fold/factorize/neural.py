"""Factors by small networks, which are trained for a model once and then need no look at its bias, or one.

`SketchNetwork` is ours. What is hard to learn is solved: a sketch of the bias, its products with a few
random columns, spans most of what matters, and a turn of weighted least squares makes it precise. What the
rows of the pair representation tell beyond that is learnt: which channels the sketch lacks, which keys
count, and how much of the bias attention sees. It is trained on the error of the layer's output.

`MeanNetwork` is that of FlashBias's authors (arXiv 2505.12044): each place is known by the mean of its row
or column alone, so that no single pair can be told from another. It is trained on the error of the bias, and
here to be compared with.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from flashbias_fold.factorize.factors import Factors
from flashbias_fold.factorize.lowrank import random_columns
from flashbias_fold.factorize.precision import all_digits
from flashbias_fold.factorize.weighted import FLOOR, SHARE, far_alone, importance, turn, unit
from flashbias_kernels.band import diagonals


class FactorNetwork(nn.Module):
    """What both are: factors of the bias that a normalised pair representation is projected to.

    Attributes:
        kind: Its name in files.
        judged_by: What is small when it is right: the error of the layer's `output`, or of the `bias`.
    """

    kind: str
    judged_by: str

    def __init__(self, heads: int, rank: int) -> None:
        super().__init__()
        self.heads, self.rank = heads, rank

    def forward(
        self,
        x: Tensor,
        bias: Tensor,
        tokens: Tensor,
        rank: int,
        counted: Tensor | None = None,
        reach: int = 0,
    ) -> Factors:
        """Factors of a rank up to the network's own; their error is not known.

        Args:
            x: ``(..., J, J, C)``, normalised.
            bias: ``(..., H, J, J)``, what it is projected to.
            tokens: ``(J, S)``, what the model knew of each place before it looked at pairs.
            rank: The first channels that many.
            counted: Boolean, broadcastable to ``(..., J)``: places that are not padding.
            reach: Pairs at most so many places apart keep their bias, in a band; 0 for none.
        """
        raise NotImplementedError


class SketchNetwork(FactorNetwork):
    """A sketch of the bias and what a network adds to it, made precise by weighted least squares.

    Args:
        channels: Of the pair representation.
        tokens: Of what the model knows of each place; not used here.
        heads: Of the attention.
        rank: The largest that will be asked for; all smaller ones are trained along.
        hidden: Width of the network.
    """

    kind, judged_by = "sketch", "output"

    def __init__(self, channels: int, tokens: int, heads: int, rank: int, hidden: int = 128) -> None:
        super().__init__(heads, rank)
        self.body = nn.Sequential(
            nn.Linear(3 * channels, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()
        )
        self.channels = nn.Linear(hidden, heads * rank)
        self.of_keys = nn.Linear(hidden, heads)
        self.share = nn.Parameter(torch.full((heads, 1, 1), SHARE))
        self.log_floor = nn.Parameter(torch.full((heads, 1, 1), FLOOR).log())
        # Untrained, it is a sketch and what attention sees of the bias on average.
        for layer, size in ((self.channels, 1e-2), (self.of_keys, 0.0)):
            nn.init.normal_(layer.weight, std=size)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Tensor,
        bias: Tensor,
        tokens: Tensor,
        rank: int,
        counted: Tensor | None = None,
        reach: int = 0,
    ) -> Factors:
        """See `FactorNetwork.forward`."""
        with all_digits(bias.device):
            known = self.body(_places(x, counted))
            bias = bias.float()
            if counted is not None:  # padding is nobody's query
                bias = bias.masked_fill(~counted[..., None, :, None], 0.0)
            k = self._start(known, far_alone(bias, reach, counted), rank, counted)
            weights = importance(
                bias,
                counted,
                share=self.share,
                of_keys=self.of_keys(known).transpose(-1, -2).unsqueeze(-2),
                floor=self.log_floor.exp(),
                reach=reach,
            )
            q, k, constant = turn(bias, weights, k)
            return _with_band(bias - constant, q.to(x.dtype), k.to(x.dtype), reach)

    def _start(self, known: Tensor, bias: Tensor, rank: int, counted: Tensor | None) -> Tensor:
        """The keys' channels to begin with."""
        columns = random_columns(bias.shape[-1], self.rank, bias.device)[:, :rank]
        centred = _centred(bias, counted)
        sketch = unit(centred.transpose(-1, -2) @ columns)
        sketch = unit(
            centred.transpose(-1, -2) @ (centred @ sketch)
        )  # a second look: nearer to what is largest
        learnt = self.channels(known).unflatten(-1, (self.heads, self.rank))
        learnt = learnt.transpose(-2, -3)[..., :rank]
        return sketch + (learnt if counted is None else learnt * counted[..., None, :, None])


class MeanNetwork(FactorNetwork):
    """The authors': two networks of tangents, of the mean over a row and over a column.

    Args:
        channels: Of the pair representation.
        tokens: Of what the model knows of each place.
        heads: Of the attention.
        rank: Of the factors.
        hidden: Width of the networks.
    """

    kind, judged_by = "means", "bias"

    def __init__(self, channels: int, tokens: int, heads: int, rank: int, hidden: int = 256) -> None:
        super().__init__(heads, rank)
        widths = (channels + tokens, hidden, hidden, heads * rank)
        self.of_rows, self.of_columns = _tangents(*widths), _tangents(*widths)

    def forward(
        self,
        x: Tensor,
        bias: Tensor,
        tokens: Tensor,
        rank: int,
        counted: Tensor | None = None,
        reach: int = 0,
    ) -> Factors:
        """See `FactorNetwork.forward`; beyond the reach the bias is not looked at."""
        with all_digits(x.device):
            rows, columns = _mean(x, counted, -2), _mean(x, counted, -3)
            tokens = tokens.float().expand(*rows.shape[:-1], -1)
            q, k = (
                network(torch.cat([mean, tokens], -1)).unflatten(-1, (self.heads, self.rank))
                for network, mean in ((self.of_rows, rows), (self.of_columns, columns))
            )
            q, k = (side.transpose(-2, -3)[..., :rank].to(x.dtype) for side in (q, k))
            return _with_band(bias, q, k, reach)


NETWORKS: dict[str, type[Any]] = {network.kind: network for network in (SketchNetwork, MeanNetwork)}


def _with_band(bias: Tensor, q: Tensor, k: Tensor, reach: int) -> Factors:
    if not reach:
        return Factors(q, k)
    rest = bias.float() - q.float() @ k.float().transpose(-1, -2)
    return Factors(q, k, band=diagonals(rest, reach).to(q.dtype))


def _tangents(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, bias=False), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def _centred(bias: Tensor, counted: Tensor | None) -> Tensor:
    """Around the mean of each query, zero where there is padding."""
    if counted is None:
        return bias - bias.mean(-1, keepdim=True)
    kept = counted[..., None, :, None] & counted[..., None, None, :]
    bias = bias.masked_fill(~kept, 0.0)
    mean = bias.sum(-1, keepdim=True) / kept.sum(-1, keepdim=True).clamp(min=1)
    return (bias - mean).masked_fill(~kept, 0.0)


def _places(x: Tensor, counted: Tensor | None) -> Tensor:
    """What is seen of each place: the mean of its row, of its column, and itself."""
    itself = x.diagonal(dim1=-3, dim2=-2).transpose(-1, -2).float()
    return torch.cat([_mean(x, counted, -2), _mean(x, counted, -3), itself], -1)


def _mean(x: Tensor, counted: Tensor | None, dim: int) -> Tensor:
    if counted is None:
        return x.mean(dim, dtype=torch.float32)
    kept = counted[..., None, :, None] if dim == -2 else counted[..., :, None, None]
    return (x * kept).sum(dim, dtype=torch.float32) / counted.sum(-1, keepdim=True)[..., None].clamp(min=1)
