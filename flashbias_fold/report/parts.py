"""What a report keeps of a structure and of its PAE: enough to draw, and small."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

LARGEST_MAP = 128
MOST_PAE = 31.75  # Angstroms: the middle of the last bin of AlphaFold 3's head
_DECIMALS = 2


def pae_map(of: str, pae: ArrayLike, *, size: int = LARGEST_MAP, most: float = MOST_PAE) -> dict[str, Any]:
    """A PAE of tokens x tokens as bytes, at most `size` a side, each the mean over a rectangle of tokens.

    Args:
        of: The key of the method.
        pae: In Angstroms.
        size: The most rows and columns.
        most: What becomes 255, as does everything above it.
    """
    errors = np.asarray(pae, dtype=np.float64)
    if errors.ndim != 2 or errors.shape[0] != errors.shape[1] or not errors.size:
        raise ValueError(f"expected a PAE of tokens x tokens, got {errors.shape}")
    if not np.isfinite(errors).all():
        raise ValueError("expected a PAE that is finite")
    n = len(errors)
    starts = np.arange(min(n, size)) * n // min(n, size)
    counts = np.diff(np.append(starts, n))
    sums = np.add.reduceat(np.add.reduceat(errors, starts, axis=0), starts, axis=1)
    shares = sums / np.outer(counts, counts) / most
    values = np.rint(255 * np.clip(shares, 0, 1)).astype(np.uint8)
    return {
        "of": of,
        "size": len(starts),
        "most": most,
        "values": base64.b64encode(values.tobytes()).decode(),
    }


def trace(of: str, chains: Mapping[str, Sequence[ArrayLike]]) -> dict[str, Any]:
    """A superposed structure as lines.

    Args:
        of: The key of the method, or `experiment`.
        chains: By chain, its unbroken stretches: C-alphas or P atoms, each stretch atoms x 3 in Angstroms.
    """
    return {
        "of": of,
        "chains": [
            {"id": name, "segments": [_points(stretch) for stretch in stretches if np.size(stretch)]}
            for name, stretches in chains.items()
        ],
    }


def _points(stretch: ArrayLike) -> list[list[float]]:
    coord = np.asarray(stretch, dtype=np.float64)
    if coord.ndim != 2 or coord.shape[1] != 3 or not np.isfinite(coord).all():
        raise ValueError(f"expected finite coordinates, atoms x 3, got {coord.shape}")
    # Adding zero turns -0.0, which would be written as such, into 0.0.
    return (np.round(coord, _DECIMALS) + 0.0).tolist()
