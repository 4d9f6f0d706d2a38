"""The tensors that every method gets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from flashbias_fold.bench.kernels.options import KernelOptions

_SEED = 0


@dataclass(frozen=True)
class Problem:
    """Triangle attention over all rows of a pair representation of so many tokens.

    Attributes:
        q: ``(rows, heads, tokens, dim)``, with as many rows as tokens; so `k`, `v` and `gradient`.
        bias: ``(1, heads, tokens, tokens)``, shared by the rows.
        factors: By rank, two of ``(1, heads, tokens, rank)`` whose product is the bias but for rounding.
        key_mask: ``(rows, tokens)``, or None where no token is padding: Protenix predicts without a mask.
        gradient: What the backward pass begins with.
        backend: Which of ours is asked for.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor
    factors: dict[int, tuple[Tensor, Tensor]]
    key_mask: Tensor | None
    gradient: Tensor
    backend: str = "auto"

    @property
    def mask(self) -> Tensor:
        """The mask for those who want one in any case."""
        if self.key_mask is not None:
            return self.key_mask
        return torch.ones(self.q.shape[0], self.q.shape[2], dtype=torch.bool, device=self.q.device)

    def with_gradients(self) -> Problem:
        """The same tensors, as leaves that gradients go to.

        In a prediction they ask for none, and for a mask that does torch takes a slower kernel, even where no
        graph is recorded.
        """

        def leaf(tensor: Tensor) -> Tensor:
            return tensor.detach().requires_grad_()

        return dataclasses.replace(
            self,
            q=leaf(self.q),
            k=leaf(self.k),
            v=leaf(self.v),
            bias=leaf(self.bias),
            factors={rank: (leaf(first), leaf(second)) for rank, (first, second) in self.factors.items()},
        )

    def rows(self) -> dict[str, Tensor]:
        """What each row has of its own."""
        return {"q": self.q, "k": self.k, "v": self.v}

    def shared(self, bias: str, rank: int | None) -> dict[str, Tensor]:
        """What stands for the bias: `bias` is ``dense``, ``factors`` or ``none``."""
        if bias == "dense":
            return {"bias": self.bias}
        if bias == "factors" and rank is not None:
            return dict(zip(("q_factor", "k_factor"), self.factors[rank], strict=True))
        return {}


def make_problem(tokens: int, options: KernelOptions, device: torch.device, dtype: torch.dtype) -> Problem:
    """Random tensors, the same ones each time; scores and bias have standard deviation 1."""
    generator = torch.Generator(device).manual_seed(_SEED)
    heads, least = options.heads, min(options.ranks)

    def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    def of_rows() -> Tensor:
        if options.layout == "contiguous":
            return normal(tokens, heads, tokens, options.dim, dtype=dtype)
        return normal(tokens, tokens, heads, options.dim, dtype=dtype).transpose(-2, -3)

    # One bias for all ranks: orthonormal columns spread the factors over more channels, their product stays.
    q_factor, k_factor = (normal(1, heads, tokens, least) * least**-0.25 for _ in range(2))
    factors = {}
    for rank in options.ranks:
        turn = torch.linalg.qr(normal(rank, least))[0].transpose(0, 1)
        factors[rank] = (q_factor @ turn).to(dtype), (k_factor @ turn).to(dtype)
    key_mask = None
    if options.padding:
        key_mask = (torch.arange(tokens, device=device) < tokens - options.padding).expand(tokens, tokens)
    return Problem(
        q=of_rows(),
        k=of_rows(),
        v=of_rows(),
        bias=(q_factor @ k_factor.transpose(-1, -2)).to(dtype),
        factors=factors,
        key_mask=key_mask,
        gradient=of_rows(),
        backend=options.backend,
    )


def bytes_of(tokens: int, options: KernelOptions, dtype: torch.dtype) -> int:
    """Memory of a problem, its result and the gradients: less than any method needs."""
    of_rows = 8 * tokens**2 * options.heads * options.dim
    of_bias = options.heads * tokens * (2 * tokens + 4 * sum(options.ranks))
    return (of_rows + of_bias) * dtype.itemsize
