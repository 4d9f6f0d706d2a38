"""What every way to factors gives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """A bias as a product, up to a constant for each query, which softmax does not see.

    Attributes:
        q: ``(..., H, queries, R)``.
        k: ``(..., H, keys, R)``.
        error: ``(..., H)``: root of the mean square of what the product lacks, in the unit of the scores; on
            the device. Infinite where a bias cannot be factored; nothing where it is not known.
        ranks: int32 ``(H,)``, how many channels each head needs; nothing for all.
    """

    q: Tensor
    k: Tensor
    error: Tensor | None = None
    ranks: Tensor | None = None

    @property
    def rank(self) -> int:
        """How many channels there are."""
        return self.q.shape[-1]

    def product(self) -> Tensor:
        """The bias that they stand for, of all channels: for tests and pictures."""
        return self.q.float() @ self.k.float().transpose(-1, -2)
