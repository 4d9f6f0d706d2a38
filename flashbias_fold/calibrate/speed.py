"""What `bench model` measured of whole predictions: where the exact bias is as fast as factors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from flashbias_fold.errors import UsageError

_METHODS = ("dense", "flashbias")
_FACTORS = {"neural", "lowrank"}


@dataclass(frozen=True)
class Stretch:
    """Sizes at which the exact bias was at least as fast as factors, both ends included."""

    first: int
    last: int


@dataclass(frozen=True)
class Speed:
    """A record of whole predictions of a model on a device.

    Attributes:
        source: The name of its file.
        model: Of which model.
        gpu: On which GPU; `cpu` for none.
        seconds: By tokens, of a prediction with the exact bias and of one with factors.
    """

    source: str
    model: str
    gpu: str
    seconds: dict[int, tuple[float, float]]

    @classmethod
    def load(cls, path: Path) -> Speed:
        """Read the JSON file that `bench model --out` writes.

        Raises:
            UsageError: It is none, or does not compare both methods.
        """
        try:
            record = json.loads(path.read_bytes())
            if record["benchmark"] != "model":
                raise ValueError
            model, gpu = str(record["options"]["model"]), str(record["machine"].get("gpu") or "cpu")
            rows = {(row["job"], row["method"]): row for row in record["rows"]}
            compared = list(_compared(rows))
        except OSError as error:
            raise UsageError(f"--speed: {path}: {error.strerror or error}") from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UsageError(f"--speed: {path}: no record of `flashbias-fold bench model`") from error
        if not compared:
            raise UsageError(f"--speed: {path}: no size was predicted by both {' and '.join(_METHODS)}")
        for tokens, _, _, ways in compared:
            if not ways & _FACTORS:
                raise UsageError(
                    f"--speed: {path}: at {tokens} tokens flashbias ran without factors; bench a plan that "
                    "has them at every size"
                )
        return cls(_one_line(path.name), _one_line(model), _one_line(gpu), _seconds(compared))

    def check(self, model: str) -> None:
        """Whether it is of this model.

        Raises:
            UsageError: It is of another one.
        """
        if self.model != model:
            raise UsageError(f"--speed: {self.source} is of the model {self.model}, not of {model}")

    def stretches(self) -> list[Stretch]:
        """Where the exact bias wins; between two sizes that differ the change is at their geometric mean.

        Below the smallest size that was measured it is as there, beyond the largest nobody knows.
        """
        sizes = list(self.seconds)
        firsts = [1, *(math.isqrt(one * other) + 1 for one, other in pairwise(sizes))]
        lasts = [*(first - 1 for first in firsts[1:]), sizes[-1]]
        found: list[Stretch] = []
        for first, last, (dense, factors) in zip(firsts, lasts, self.seconds.values(), strict=True):
            if dense > factors:
                continue
            goes_on = bool(found) and found[-1].last == first - 1
            found.append(Stretch(found.pop().first if goes_on else first, last))
        return found

    def in_words(self) -> list[str]:
        """Where the exact bias wins and why, for a reader."""
        where = " and ".join(f"{one.first} to {one.last}" for one in self.stretches())
        said = f"the exact bias at {where} tokens" if where else "factors at every size"
        return [
            f"On {self.gpu}: {said}, by what {self.source} says of the seconds of whole predictions.",
            *(
                f"{tokens} tokens: exact bias {dense:.3g}, factors {factors:.3g}"
                for tokens, (dense, factors) in self.seconds.items()
            ),
        ]


def _compared(rows: dict[tuple[str, str], Any]) -> Iterator[tuple[int, float, float, set[str]]]:
    """Of each job that both methods did its tokens, the seconds of both, and the ways of flashbias."""
    for job in dict.fromkeys(job for job, _ in rows):
        both = [rows[job, method] for method in _METHODS if (job, method) in rows]
        if len(both) == len(_METHODS):
            dense, factors = (float(row["parts"]["total"]["median_s"]) for row in both)
            tokens, ways = both[0]["tokens"], set(both[1]["ways"].keys())
            if not (isinstance(tokens, int) and tokens > 0 and 0 < dense + factors < math.inf):
                raise ValueError
            yield tokens, dense, factors, ways


def _seconds(compared: list[tuple[int, float, float, set[str]]]) -> dict[int, tuple[float, float]]:
    """By tokens, of both methods; of several jobs of one size the sum."""
    found: dict[int, tuple[float, float]] = {}
    for tokens, dense, factors, _ in sorted(compared, key=lambda one: one[0]):
        before = found.get(tokens, (0.0, 0.0))
        found[tokens] = (before[0] + dense, before[1] + factors)
    return found


def _one_line(text: str) -> str:
    return " ".join(text.split())
