"""What every way to factors gives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from flashbias_kernels.band import spread


@dataclass(frozen=True)
class Factors:
    """A bias as a product, and near the diagonal as it is; up to a constant for each query.

    Softmax does not see these constants.

    Attributes:
        q: ``(..., H, queries, R)``.
        k: ``(..., H, keys, R)``.
        error: ``(..., H)``: root of the mean square of what the product lacks, in the unit of the scores; on
            the device. Infinite where a bias cannot be factored; nothing where it is not known.
        band: ``(..., H, queries, 2 * reach + 1)``, what the product lacks where query and key are at most
            `reach` places apart.
    """

    q: Tensor
    k: Tensor
    error: Tensor | None = None
    band: Tensor | None = None

    @property
    def rank(self) -> int:
        """How many channels there are."""
        return self.q.shape[-1]

    def arguments(self) -> dict[str, Tensor]:
        """What `biased_attention` is given in place of the bias."""
        given = {"q_factor": self.q, "k_factor": self.k}
        return given if self.band is None else {**given, "band": self.band}

    def bias(self, queries: Tensor | None = None) -> Tensor:
        """What they stand for, of all channels: of some queries, or of all."""
        q = self.q if queries is None else self.q[..., queries, :]
        bias = q.float() @ self.k.float().transpose(-1, -2)
        if self.band is None:
            return bias
        band = self.band if queries is None else self.band[..., queries, :]
        return bias + spread(band.float(), self.k.shape[-2], queries)
