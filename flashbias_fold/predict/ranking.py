"""How structures are ranked where we rank them: impossible ones last, a single chain by its pTM.

Within a job the order is that of Protenix's ranking score: 0.8 ipTM + 0.2 pTM, less 100 where there is a
clash. Protenix takes 0 for the ipTM of a single chain, so that every monomer would come behind complexes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Sample = Mapping[str, Any]


def best_sample(samples: Sequence[Sample]) -> Sample:
    """Return the best sample of a job: that with the highest ranking score among those that are plausible."""
    return max(samples, key=lambda sample: (is_plausible(sample), _number(sample.get("ranking_score"))))


def rank_between_jobs(sample: Sample) -> tuple[bool, float]:
    """Return what samples of different jobs are ordered by; the greatest is the best."""
    score = sample.get("ranking_score") if sample.get("iptm") is not None else sample.get("ptm")
    return is_plausible(sample), _number(score)


def is_plausible(sample: Sample) -> bool:
    """Tell whether nothing speaks against a sample; one of a version that did not look counts as such."""
    return bool(sample.get("plausible", True))


def describe_implausible(report: Mapping[str, Any]) -> str | None:
    """Return a line on the samples of a job that are no possible structures, or None if all of them are."""
    implausible = [sample for sample in report["samples"] if not is_plausible(sample)]
    if not implausible:
        return None
    first = implausible[0]
    return (
        f"warning: job '{report['name']}': {len(implausible)} of {len(report['samples'])} structures are not "
        f"plausible, such as sample {first['sample']} of seed {first['seed']}: {first['problems'][0]}"
    )


def _number(score: Any) -> float:
    """A score, the lowest where it is none."""
    return float(score) if isinstance(score, int | float) and math.isfinite(score) else -math.inf
