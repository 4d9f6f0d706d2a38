"""A plan says which way the pair-biased attentions of the model are computed."""

from __future__ import annotations

from dataclasses import dataclass

# How a layer can be computed today. `stock` is the model's own code, untouched.
BUILT_WAYS = ("dense", "none", "stock")


@dataclass(frozen=True)
class Plan:
    """One way for every layer.

    Attributes:
        name: The value of `--bias` that asked for it, for reports.
        way: One of `BUILT_WAYS`.
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
