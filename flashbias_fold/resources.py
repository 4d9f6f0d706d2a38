"""Where the files that ship with the package lie: `configs/` and `data/`.

In a wheel they are inside the package; in a checkout (and an editable install) they are beside it.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def resource(*parts: str) -> Path:
    """The path of a shipped file or folder, such as ``resource("configs", "models", "demo.yaml")``."""
    inside = _PACKAGE.joinpath(*parts)
    return inside if inside.exists() else _PACKAGE.parent.joinpath(*parts)
