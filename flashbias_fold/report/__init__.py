"""The page of `flashbias-fold compare`: one HTML file, made from its `report.json` alone.

What a report holds is said in `docs/compare.schema.json`.
"""

from flashbias_fold.report.page import page
from flashbias_fold.report.parts import pae_map, trace

__all__ = ["pae_map", "page", "trace"]
