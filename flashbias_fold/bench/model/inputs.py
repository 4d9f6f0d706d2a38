"""Jobs of any size: chains that are made up, with an alignment if one is wanted."""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashbias_fold.bench.model.options import ModelOptions
from flashbias_fold.bench.model.session import SEED
from flashbias_fold.errors import InputError
from flashbias_fold.protenix_adapter.features import Features, featurize, seed_everything

_LETTERS = "ACDEFGHIKLMNPQRSTVWY"
_KEPT = 0.4  # of a sequence's letters in each row of its alignment


@dataclass(frozen=True)
class Problem:
    """What every method predicts.

    Attributes:
        name: Of the job.
        features: Made once.
        featurize_s: What that took.
    """

    name: str
    features: Features
    featurize_s: float


def documents(options: ModelOptions, components: Any) -> list[tuple[dict[str, Any], int]]:
    """The jobs of the input, or one for each size, as Protenix's JSON has them, with their tokens.

    Raises:
        InputError: The input has a job that cannot be run.
    """
    from flashbias_fold.inputs import load_inputs

    if options.input is None:
        return [(chain(tokens), tokens) for tokens in options.tokens or ()]
    found = load_inputs(options.input, components)
    if found.rejected:
        raise found.rejected[0].error
    if not found.jobs:
        raise InputError("there is no job", file=options.input)
    return [(job.document, job.n_token) for job in found.jobs]


def chain(tokens: int) -> dict[str, Any]:
    """A protein of random letters, the same ones each time."""
    letters = random.Random(tokens).choices(_LETTERS, k=tokens)
    protein = {"sequence": "".join(letters), "count": 1}
    return {"name": f"{tokens} tokens", "sequences": [{"proteinChain": protein}]}


def problem(document: dict[str, Any], config: Any, components: Any, alignment: int) -> Problem:
    """Featurise a job, with an alignment of so many rows if it is made up."""
    components.install_for(document)
    seed_everything(SEED)
    start = time.perf_counter()
    with _aligned(document, alignment) as ready:
        features = featurize(ready, config)
    return Problem(document["name"], features, time.perf_counter() - start)


@contextlib.contextmanager
def _aligned(document: dict[str, Any], rows: int) -> Iterator[dict[str, Any]]:
    if rows == 1:
        yield document
        return
    protein = document["sequences"][0]["proteinChain"]
    with tempfile.TemporaryDirectory(prefix="flashbias-fold-") as folder:
        path = Path(folder, "rows.a3m")
        path.write_text(
            "".join(f">{row}\n{text}\n" for row, text in enumerate(_rows(protein["sequence"], rows)))
        )
        yield {**document, "sequences": [{"proteinChain": {**protein, "unpairedMsaPath": str(path)}}]}


def _rows(sequence: str, rows: int) -> Iterator[str]:
    """The query, and rows that have some of its letters."""
    generator = random.Random(rows)
    yield sequence
    for _ in range(rows - 1):
        yield "".join(
            letter if generator.random() < _KEPT else generator.choice(_LETTERS) for letter in sequence
        )
