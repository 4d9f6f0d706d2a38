"""The error of each triangle attention's output against the rank of its factors, for all ways to make them.

    python scripts/error_by_rank.py FACTORS... [--json FILE] [--device cpu|cuda]
    python scripts/error_by_rank.py --page [--check]

The first form reads what `flashbias-fold calibrate` measured on the inputs that it kept aside: the error of
the networks in each file, and of factors computed in the call. It predicts these inputs once more, as
calibrate did, and measures the best factors by norm beside them: of each bias, around its rows' means, the
largest singular values. It prints the means over all layers. The files must be of one model, with the same
inputs, seed, steps, cycles and dtype; networks of means serve one rank each, and all of them make one row.
Inputs are found by their names in data/examples and data/demo. The second form writes the tables of
docs/fidelity.md from the records in docs/fidelity.

exit status: 0 done, 1 an input could not be predicted (with --check: the page is not what its records make),
2 wrong input or arguments, 130 interrupted
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from evaluate_demo import read_domains
from fidelity import (
    PAGE,
    Parser,
    aligned,
    exit_status,
    fill,
    jobs_of,
    markdown,
    settle,
)

from flashbias_fold.cli import signals
from flashbias_fold.errors import UsageError
from flashbias_fold.files import read_json, write_json
from flashbias_fold.inputs import Job, load_inputs
from flashbias_fold.predict.progress import Reporter
from flashbias_fold.protenix_adapter.components import open_components
from flashbias_fold.protenix_adapter.models import find_model
from flashbias_fold.resources import resource

EXAMPLES = resource("data", "examples")
DOMAINS = [resource("data", "demo", f"{table}.csv") for table in ("entries", "unseen", "strangers")]

SVD, LOWRANK, MEANS, SKETCH = "svd", "lowrank", "means", "sketch"
TITLES = {
    SVD: "optimal SVD",
    LOWRANK: "computed in the call (`lowrank`)",
    MEANS: "the authors' networks (`means`)",
    SKETCH: "our networks (`sketch`)",
}
HOW = {
    SVD: "measured here: of each bias, around its rows' means, the largest singular values, in float64",
    LOWRANK: "measured by calibrate: decomposed and fitted in the call, nothing kept from the cycle before",
    MEANS: "measured by calibrate: the networks of FlashBias's authors, trained for each rank",
    SKETCH: "measured by calibrate: one network for all ranks",
}
# What files must have in common, besides model and inputs, for their errors to be of the same predictions.
SAME = ("seed", "steps", "cycles", "dtype")

_WITHIN = " within "
_PLACE = re.compile(r"(<!-- ranks (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_STACKS = {"msa_module": "MSA ", "template_embedder": "template ", "confidence_head": "confidence head "}
_LAYER = re.compile(r"(\w+)\..*?blocks\.(\d+)\.(?:pair_stack\.)?tri_att_(\w+)")

# For each layer and rank, as text, the `mean` and the `largest` error of all calls.
Errors = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Way:
    """How factors are made: a row of the tables.

    Attributes:
        kind: One of TITLES.
        reach: Pairs of places at most so many apart keep their exact bias beside the factors.
    """

    kind: str
    reach: int = 0

    @classmethod
    def of(cls, key: str) -> Way:
        """The one that a record calls so."""
        kind, _, reach = key.partition(_WITHIN)
        return cls(kind, int(reach or 0))

    @property
    def key(self) -> str:
        """What records call it."""
        return f"{self.kind}{_WITHIN}{self.reach}" if self.reach else self.kind

    @property
    def title(self) -> str:
        """What readers are told."""
        return TITLES[self.kind] + (f", exact within {self.reach} places" if self.reach else "")

    @property
    def place(self) -> tuple[int, int]:
        """Where in the tables its row is."""
        return list(TITLES).index(self.kind), self.reach


@dataclass(frozen=True)
class Calibration:
    """What a file of `calibrate` says.

    Attributes:
        path: The file.
        common: What it must have in common with others, by what to call it.
        errors: By how factors were made.
        made: How they came about, for the record.
    """

    path: Path
    common: dict[str, Any]
    errors: dict[Way, Errors]
    made: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read a file.

        Raises:
            UsageError: It is none, or says nothing of errors.
        """
        from flashbias_fold.factorize.store import FactorFile

        file = FactorFile.load(path)
        try:
            return cls(path, _common(file), _errors_by_way(file), _made(file, path))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"{path}: expected the errors that calibrate measures ({error!r})") from error


def _common(file: Any) -> dict[str, Any]:
    about = file.about
    aside = [name for name in about["kept_aside"] if name not in about["failed"]]
    if not aside or not file.errors:
        raise ValueError("nothing was measured")
    return {
        "model": file.model,
        "weights": file.weights,
        "inputs": about["inputs"],
        "inputs kept aside": aside,
        "layers": list(file.errors),
        **{name: about["settings"][name] for name in SAME},
    }


def _errors_by_way(file: Any) -> dict[Way, Errors]:
    """Factors computed in the call are the same beside networks of any kind, and once is enough."""
    reach = file.reach
    found = {Way(file.kind, reach): _errors(file.errors, "neural")}
    if file.kind == SKETCH:
        found[Way(LOWRANK, reach)] = _errors(file.errors, "lowrank")
    return found


def _made(file: Any, path: Path) -> dict[str, Any]:
    return {"file": path.name, "settings": file.about["settings"], "torch": file.about["torch"]}


def _errors(by_layer: dict[str, Any], name: str) -> Errors:
    """Of one way, with numbers where there must be numbers."""
    return {
        layer: {
            str(int(rank)): {which: float(error[which]) for which in ("mean", "largest")}
            for rank, error in by_way[name].items()
        }
        for layer, by_way in by_layer.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write as the arguments say; returns the exit status."""

    def work() -> int:
        options = _options(arguments)
        return write_page(options.check) if options.page else measure(options)

    return exit_status(work, "interrupted")


def measure(options: argparse.Namespace) -> int:
    """The first form."""
    files = [Calibration.load(path) for path in options.factors]
    refuse_different(files)
    found = merged(files)
    jobs = inputs_named(files[0].common["inputs kept aside"], files[0].path)
    best, where = measured(files[0], jobs, options.device)
    found[Way(SVD)] = {layer: best[layer] for layer in files[0].common["layers"]}
    result = record(files, found, where)
    print(aligned(mean_rows(result)), *nearer(result), sep="\n")
    if options.json:
        write_json(options.json, result)
    return 0


# What the files say


def refuse_different(files: Sequence[Calibration]) -> None:
    """Whether their errors can stand in one table.

    Raises:
        UsageError: They cannot, and why.
    """
    first = files[0]
    for file in files[1:]:
        for what, value in file.common.items():
            if value != first.common[what]:
                raise UsageError(f"{file.path}: expected the same {what} as in {first.path}")


def merged(files: Iterable[Calibration]) -> dict[Way, Errors]:
    """The errors of all files by way, ranks in order.

    Raises:
        UsageError: Two files have the errors of one way at the same rank.
    """
    found: dict[Way, Errors] = {}
    for file in files:
        for way, errors in file.errors.items():
            for layer, by_rank in errors.items():
                there = found.setdefault(way, {}).setdefault(layer, {})
                twice = there.keys() & by_rank.keys()
                if twice:
                    raise UsageError(
                        f"{file.path}: expected what no file before it has, "
                        f"found {way.key} of rank {min(twice, key=int)} again"
                    )
                there |= by_rank
    return {
        way: {layer: dict(sorted(by_rank.items(), key=_rank)) for layer, by_rank in errors.items()}
        for way, errors in found.items()
    }


def _rank(entry: tuple[str, Any]) -> int:
    return int(entry[0])


# The best factors by norm


class Optimal:
    """The best factors by norm of any bias, called as a network is; those of the last bias are kept."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._bias: Any = None
        self._best: Any = None

    def __call__(
        self, x: Any, bias: Any, tokens: Any, rank: int, counted: Any = None, _reach: int = 0
    ) -> Any:
        """See `FactorNetwork.forward`; the first channels are the best of any fewer."""
        from flashbias_fold.factorize import Factors

        if bias is not self._bias:
            self._bias, self._best = bias, optimal(bias, self._rank, counted)
        q, k = (side[..., :rank].to(x.dtype) for side in (self._best.q, self._best.k))
        return Factors(q, k)


def optimal(bias: Any, rank: int, counted: Any = None) -> Any:
    """Return factors of a bias (..., H, J, J), around its rows' means, than which no others come nearer.

    Args:
        bias: The bias.
        rank: How many channels at most.
        counted: Boolean, broadcastable to (..., J): places that are not padding.
    """
    from flashbias_fold.factorize import Factors
    from flashbias_fold.factorize.precision import all_digits
    from flashbias_kernels.factors import table

    with all_digits(bias.device):
        bias = bias.double()
        bias = bias - bias.mean(-1, keepdim=True) if counted is None else _without_padding(bias, counted)
        return Factors(*table(bias, rank))


def _without_padding(bias: Any, counted: Any) -> Any:
    """Around the mean of each query over the keys that count, zero where there is padding."""
    queries, keys = counted[..., None, :, None], counted[..., None, None, :]
    bias = bias.masked_fill(~(queries & keys), 0.0)
    mean = bias.sum(-1, keepdim=True) / keys.sum(-1, keepdim=True).clamp(min=1)
    return (bias - mean).masked_fill(~(queries & keys), 0.0)


def measured(file: Calibration, jobs: Sequence[Job], device: str) -> tuple[Errors, dict[str, Any]]:
    """The errors of the best factors, in predictions as a file's were, and where these were made."""
    from flashbias_fold.calibrate.training import LADDER, Look
    from flashbias_fold.protenix_adapter.watch import triangle_attentions, watched

    best = Optimal(max(LADDER))
    engine = _engine(file, device)
    layers = triangle_attentions(engine.network)
    if strange := set(file.common["layers"]) - layers.keys():
        raise UsageError(f"{file.path}: the model has no layer {min(strange)}")
    found: dict[str, dict[str, list[float]]] = {name: {str(rank): [] for rank in LADDER} for name in layers}

    def see(name: str, x: Any, mask: Any, tokens: Any) -> None:
        errors = Look.at(layers[name], x, mask, tokens).errors(best, list(LADDER))
        for calls, error in zip(found[name].values(), errors, strict=True):
            calls.append(error)

    with Reporter() as reporter, watched(engine.network, see):
        reporter.begin(len(jobs))
        for job in jobs:
            reporter.job(job.name, f"{job.n_token} tokens")
            open_components().install_for(job.document)
            engine.predict(job.document, file.common["seed"], reporter)
            reporter.job_done("measured")
    return _summed_up(found), _where(engine)


def _engine(file: Calibration, device: str) -> Any:
    """The model as calibrate runs it."""
    from flashbias_fold.pairformer import Plan
    from flashbias_fold.protenix_adapter.engine import Engine
    from flashbias_fold.protenix_adapter.kernels import chosen_device

    name, weights = file.common["model"], file.common["weights"]
    model = find_model(name)
    if model.weights != weights:
        raise UsageError(f"{file.path}: was made with other weights of {name}")
    return Engine(
        model,
        Plan.for_bias("dense"),
        device=chosen_device(device),
        dtype=file.common["dtype"] or "bf16",
        samples=1,
        steps=file.common["steps"],
        cycles=file.common["cycles"],
    )


def _summed_up(found: dict[str, dict[str, list[float]]]) -> Errors:
    return {
        layer: {rank: {"mean": fmean(calls), "largest": max(calls)} for rank, calls in by_rank.items()}
        for layer, by_rank in found.items()
    }


def _where(engine: Any) -> dict[str, Any]:
    """What a reader of the record needs to believe it."""
    from flashbias_fold.bench import machine

    return {
        "machine": machine.describe(engine.device),
        "dtype": engine.dtype,
        "versions": machine.versions(),
        **machine.commit(),
    }


def inputs_named(names: Sequence[str], file: Path) -> list[Job]:
    """The examples and domains of these names, in this order.

    Raises:
        UsageError: There is none of some name.
    """
    rows = [row for table in DOMAINS for row in read_domains(table, table.stem) if row.name in names]
    domains = jobs_of("".join(f">{row.name}\n{row.sequence}\n" for row in rows)) if rows else ()
    known = {job.name: job for job in (*domains, *load_inputs(EXAMPLES, open_components()).jobs)}
    missing = [name for name in names if name not in known]
    if missing:
        raise UsageError(
            f"{file}: expected inputs kept aside that data/examples or data/demo has, "
            f"found {', '.join(missing)}"
        )
    return [known[name] for name in names]


# What is made of it


def record(files: Sequence[Calibration], found: dict[Way, Errors], where: dict[str, Any]) -> dict[str, Any]:
    """All errors, layer by layer, and how each of the ways came to its own."""
    ways, common = sorted(found, key=lambda way: way.place), files[0].common
    sources = {way: {"files": [file.made for file in files if way in file.errors]} for way in ways}
    return {
        "model": common["model"],
        "weights": common["weights"],
        "settings": {name: common[name] for name in SAME},
        "inputs": common["inputs"],
        "kept_aside": common["inputs kept aside"],
        "made": {
            way.key: {"how": HOW[way.kind], **(where if way.kind == SVD else sources[way])} for way in ways
        },
        "errors": {layer: {way.key: found[way][layer] for way in ways} for layer in common["layers"]},
    }


def mean_rows(result: dict[str, Any]) -> list[list[str]]:
    """Of each way, the means over all layers; the titles first."""
    ranks = _ranks(result)
    rows = [["mean of all layers", *(f"R = {rank}" for rank in ranks)]]
    for way in dict.fromkeys([Way(SVD), *_ways(result)]):
        means = (_mean_of_layers(result, way, rank) for rank in ranks)
        rows.append([way.title, *map(_cell, means)])
    return rows


def layer_rows(result: dict[str, Any], way: Way) -> list[list[str]]:
    """Of each layer, the errors of one way; the titles first."""
    ranks = _ranks(result)
    rows = [[way.title, *(f"R = {rank}" for rank in ranks)]]
    for layer in result["errors"]:
        rows.append([label(layer), *(_cell(_mean(result, layer, way, rank)) for rank in ranks)])
    return rows


def nearer(result: dict[str, Any]) -> Iterator[str]:
    """How often our networks are nearer than the authors'."""
    for way in _ways(result):
        pairs = [
            (by_way[way.key][rank]["mean"], error["mean"])
            for by_way in result["errors"].values()
            for rank, error in by_way.get(MEANS, {}).items()
            if rank in by_way[way.key]
        ]
        if way.kind == SKETCH and pairs:
            count = sum(ours < theirs for ours, theirs in pairs)
            yield f"{way.title}: nearer than the authors' in {count} of {len(pairs)} layers and ranks"


def label(layer: str) -> str:
    """A layer's name in words."""
    found = _LAYER.match(layer)
    return f"{_STACKS.get(found[1], '')}block {found[2]} {found[3]}" if found else layer


def _ways(result: dict[str, Any]) -> list[Way]:
    keys = dict.fromkeys(key for by_way in result["errors"].values() for key in by_way)
    return sorted(map(Way.of, keys), key=lambda way: way.place)


def _ranks(result: dict[str, Any]) -> list[int]:
    tables = (by_rank for by_way in result["errors"].values() for by_rank in by_way.values())
    return sorted({int(rank) for by_rank in tables for rank in by_rank})


def _mean(result: dict[str, Any], layer: str, way: Way, rank: int) -> float | None:
    error = result["errors"][layer].get(way.key, {}).get(str(rank))
    return None if error is None else error["mean"]


def _mean_of_layers(result: dict[str, Any], way: Way, rank: int) -> float | None:
    means = [mean for layer in result["errors"] if (mean := _mean(result, layer, way, rank)) is not None]
    return fmean(means) if means else None


def _cell(error: float | None) -> str:
    if error is None:
        return "not measured"
    return f"{error:.3f}" if error >= 0.01 else f"{error:.4f}"


# The page


def write_page(check: bool) -> int:
    """Write the tables of the page, or say by the status whether they are as they should be."""
    return fill(PAGE, _PLACE, _page_part, check)


def _page_part(name: str) -> str:
    path = PAGE.with_suffix("") / f"{name}.json"
    result = read_json(path)
    if not isinstance(result, dict) or not {"inputs", "kept_aside", "errors"} <= result.keys():
        raise UsageError(f"{path}: expected a record that --json wrote")
    learnt, kept = len(result["inputs"]), len(result["kept_aside"])
    texts = [f"{learnt} inputs to learn from, {kept} kept aside to measure on.", markdown(mean_rows(result))]
    texts += [f"{line[0].upper()}{line[1:]}." for line in nearer(result)]
    return "\n\n".join([*texts, *(markdown(layer_rows(result, way)) for way in _ways(result))]) + "\n"


# The arguments


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("factors", metavar="FACTORS", type=Path, nargs="*", help="files that flashbias-fold calibrate wrote")
    add("--json", metavar="FILE", type=Path, help="write what was measured, with where it comes from")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where (default: a GPU if there)")
    add("--page", action="store_true", help="write the tables of docs/fidelity.md from its records")
    add("--check", action="store_true", help="with --page: change nothing; exit 1 if it is not up to date")
    options = parser.parse_args(arguments)
    if bool(options.factors) == options.page:
        raise UsageError("expected files of factor networks, or --page (see --help)")
    if options.json and not options.json.parent.is_dir():
        raise UsageError(f"--json: there is no folder {options.json.parent}")
    if options.check and not options.page:
        raise UsageError("--check: is for --page")
    return options


if __name__ == "__main__":
    settle()
    signals.catch()
    sys.exit(main())
