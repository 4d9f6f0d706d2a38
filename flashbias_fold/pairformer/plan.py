"""A plan says which way the pair-biased attentions of the model are computed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """One way for every layer.

    Attributes:
        name: The value of `--bias` that asked for it, for reports.
        way: `dense` or `none` (see `TriangleAttention`), or `stock`, the model's own code, untouched.
    """

    name: str
    way: str

    @classmethod
    def for_bias(cls, bias: str) -> Plan:
        """The plan that `--bias` stands for.

        `flashbias` runs the exact bias wherever no factors are known to be good enough, and without
        factors for the model that is everywhere.
        """
        return cls(name=bias, way="dense" if bias == "flashbias" else bias)
