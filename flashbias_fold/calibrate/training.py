"""Lessons of one layer's factor network, taken from the model as it predicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flashbias_fold.factorize import FactorNetwork
from flashbias_fold.factorize.precision import all_digits
from flashbias_fold.pairformer import TriangleAttention
from flashbias_fold.pairformer.triangle import factors_of, sample

# Ranks that networks are trained and judged at.
LADDER = (4, 8, 16, 32, 64, 96)
_RATES = {"output": 2e-3, "bias": 1e-3}
_STEPS = 2  # for each look: the model's own work costs more than a step
_ROWS = 16  # of the pair representation, that an error is taken of
_MOST_CHANGE = 1.0  # of all weights together, before the optimiser scales it
_TINY = 1e-6


@dataclass(frozen=True)
class Look:
    """What comes to a layer.

    Attributes:
        layer: Which computes the exact bias.
        x: The pair representation, normalised, as it is attended to.
        key_mask: Which pairs count.
        tokens: What the model knows of each place.
    """

    layer: TriangleAttention
    x: Tensor
    key_mask: Tensor | None
    tokens: Tensor

    @classmethod
    def at(cls, layer: TriangleAttention, x: Tensor, mask: Tensor | None, tokens: Tensor) -> Look:
        """From a layer's own arguments."""
        return cls(layer, *layer.rows_of(x, mask), tokens)

    def errors(self, network: FactorNetwork | None, ranks: list[int], reach: int = 0) -> list[float]:
        """Of the layer's output, for each rank: by a network, or by factors that are computed."""
        exact = self.layer.exact_bias(self.x)
        rows = sample(self.x.shape[-3], _ROWS, self.x.device, self.key_mask)
        found = []
        for rank in ranks:
            factors = factors_of(exact, self.x, self.key_mask, rank, network, self.tokens, reach=reach)
            found.append(float(self.layer.error_of(factors, exact, self.x, self.key_mask, rows)))
        return found


class Pupil:
    """A network and its optimiser; within the `reach` the bias is exact beside its factors."""

    def __init__(self, network: FactorNetwork, reach: int = 0) -> None:
        self.network = network
        self.reach = reach
        self._rate = _RATES[network.judged_by]
        self._optimiser = torch.optim.Adam(network.parameters(), self._rate)
        self.looks = 0

    def learn(self, look: Look, progress: float, generator: torch.Generator) -> float:
        """Steps on what comes to the layer; the relative error of its output, or of the bias, before them.

        Args:
            look: What comes.
            progress: Which share of the training is done; the steps become smaller with it.
            generator: Of ranks and rows.
        """
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * 0.5 * (1.0 + math.cos(math.pi * progress))
        exact = look.layer.exact_bias(look.x)
        before = math.nan
        for step in range(_STEPS):
            with torch.enable_grad():
                loss = self._loss(look, exact, generator)
            if not bool(torch.isfinite(loss)):  # a pair representation that is not finite teaches nothing
                break
            before = float(loss.detach()) if step == 0 else before
            self._optimiser.zero_grad(set_to_none=True)
            with all_digits(look.x.device):
                loss.backward()
            if bool(nn.utils.clip_grad_norm_(self.network.parameters(), _MOST_CHANGE).isfinite()):
                self._optimiser.step()
        self.looks += 1
        return math.exp(before)

    def _loss(self, look: Look, exact: Tensor, generator: torch.Generator) -> Tensor:
        """The logarithm of the relative error: layers differ in it by orders of magnitude."""
        rank = self.network.rank
        if self.network.judged_by == "output":
            ranks = ranks_up_to(rank)
            rank = ranks[int(torch.randint(len(ranks), (), generator=generator))]
        factors = factors_of(exact, look.x, look.key_mask, rank, self.network, look.tokens, reach=self.reach)
        if self.network.judged_by == "bias":
            counted = 1.0 if look.key_mask is None else look.key_mask.any(-2)[..., None, None, :]
            exact = exact.float() * counted
            rest = exact - factors.bias() * counted
            return (rest.norm() / exact.norm().clamp(min=_TINY) + _TINY).log()
        order = torch.randperm(look.x.shape[-3], generator=generator)[:_ROWS].to(look.x.device)
        return (look.layer.error_of(factors, exact, look.x, look.key_mask, order) + _TINY).log()

    def state(self) -> dict[str, Any]:
        """To go on from."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "looks": self.looks,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.looks = state["looks"]


def ranks_up_to(rank: int) -> list[int]:
    """Those of the ladder below, and the rank itself."""
    return [*(step for step in LADDER if step < rank), rank]
