"""How far predictions by other ways are from stock Protenix's, with the same seed and noise.

    python scripts/fidelity.py [--plan FILE] [--out DIR] [--limit N] [--jobs N] [--json FILE]
    python scripts/fidelity.py --page [--check]

The first form predicts the domains that the demonstration model was trained on and 50 others by stock, by
stock with another seed, by the exact bias (`dense`) and by a plan (`flashbias`), and compares each structure
with stock's from the same noise. It prints the differences, what the layers did, and whether that is near
enough. On a GPU it also compares stock and the plan in bf16. Predictions that are complete are not made
again; those of each set of settings have a folder of their own in DIR. The second form writes the tables of
docs/fidelity.md from the records in docs/fidelity.

exit status: 0 all that was judged is near enough, 1 something is not or failed, 2 wrong input or arguments,
130 interrupted
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import logging
import multiprocessing
import os
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NoReturn

import numpy as np
from biotite import structure as struc
from evaluate_demo import TRAINED, read_domains

from flashbias_fold.accuracy import INCLUSION_RADIUS
from flashbias_fold.cli import signals
from flashbias_fold.errors import FlashbiasError, JobError, UsageError
from flashbias_fold.files import read_json, write_atomic, write_json
from flashbias_fold.inputs import Job, load_inputs
from flashbias_fold.predict.settings import run_defaults
from flashbias_fold.protenix_adapter.components import open_components
from flashbias_fold.protenix_adapter.models import DEMO, build_config, find_model
from flashbias_fold.resources import resource

PLAN = resource("configs", "plans", "demo.yaml")
ENTRIES = resource("data", "demo", "entries.csv")
OTHERS = resource("data", "fidelity", "others.fasta")
PAGE = Path(__file__).parents[1] / "docs" / "fidelity.md"
SEED, OTHER_SEED = 101, 102
FAILED, WRONG, INTERRUPTED = 1, 2, 130

# What the layers of a plan may do that counts as a decomposed bias.
FACTORED, LARGEST_RANK = ("lowrank", "neural"), 32
TRIANGLE = ".tri_att_"

ALL, KNOWN, STRANGE, BEST = "all", "its domains", "others", "the best of each"
_PLACE = re.compile(r"(<!-- predictions (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Method:
    """A way to predict."""

    name: str
    bias: str
    seed: int
    dtype: str


@dataclass(frozen=True)
class Difference:
    """How far one structure is from the other that was made from the same noise, and its confidences."""

    domain: str
    known: bool
    sample: int
    best: bool
    ptm: float
    plddt: float
    lddt: float


@dataclass(frozen=True)
class Line:
    """Something that was asked for: a number, what it must not exceed or fall short of, and whether it may.

    A number that is None could not be judged, for the reason that `text` then ends with.
    """

    text: str
    number: float | None
    limit: float
    at_most: bool = True

    @property
    def verdict(self) -> str:
        """In a word; NaN fails."""
        if self.number is None:
            return "----"
        met = self.number <= self.limit if self.at_most else self.number >= self.limit
        return "PASS" if met else "FAIL"


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict, compare, print as the arguments say; returns the exit status."""

    def work() -> int:
        options = _options(arguments)
        return write_page(options.check) if options.page else measure(options)

    return exit_status(work, "interrupted; the same command continues where it stopped")


def exit_status(work: Callable[[], int], interrupted: str) -> int:
    """Of a script's work: its own, or that of the error that ended it, which is said in one line."""
    try:
        return work()
    except FlashbiasError as error:
        complain(f"error: {error}")
        return FAILED if isinstance(error, JobError) else WRONG
    except OSError as error:
        complain(f"error: {error.filename or 'input or output'}: {error.strerror or error}")
        return WRONG
    except KeyboardInterrupt:
        complain(interrupted)
        return INTERRUPTED


def measure(options: argparse.Namespace) -> int:
    """The first form; returns 0 if nothing that was judged is too far off."""
    jobs, known = chosen(options.limit)
    device, dtype = _device(options)
    plans = _Plans(options.plan)
    ways = methods(device, dtype)
    store = Store(options.out, {way: _settings(way, plans, device, options.samples) for way in ways})
    predict_missing(store, jobs, options)
    records = {way.name: [store.read(way, job) for job in jobs] for way in ways}
    result = summary(records, known, fp32=dtype == "fp32")
    result |= _provenance(records, device) | {"plan": plans.describe(), "seeds": [SEED, OTHER_SEED]}
    print(report(result))
    if options.json:
        write_json(options.json, result)
    return FAILED if any(line["verdict"] == "FAIL" for line in result["lines"]) else 0


# What is predicted


def chosen(limit: int | None) -> tuple[list[Job], set[str]]:
    """The domains as jobs, shortest first, and the names of those that the model was trained on.

    With a limit, the shortest of both kinds in turn.
    """
    known = read_domains(ENTRIES, TRAINED)
    fasta = "".join(f">{domain.name}\n{domain.sequence}\n" for domain in known) + OTHERS.read_text()
    jobs = sorted(jobs_of(fasta), key=lambda job: (job.n_token, job.name))
    names = {domain.name for domain in known}
    if limit is not None:
        ours = [job for job in jobs if job.name in names][: (limit + 1) // 2]
        jobs = ours + [job for job in jobs if job.name not in names][: limit - len(ours)]
    return jobs, names


def jobs_of(fasta: str) -> tuple[Job, ...]:
    """As `predict` reads them."""
    with tempfile.TemporaryDirectory(prefix="flashbias-fold-") as folder:
        path = Path(folder, "domains.fasta")
        path.write_text(fasta)
        inputs = load_inputs(path, open_components())
    for rejected in inputs.rejected:
        raise rejected.error
    return inputs.jobs


def methods(device: Any, dtype: str) -> tuple[Method, ...]:
    """The ways to predict, stock first."""
    from flashbias_fold.protenix_adapter.kernels import usable_dtype

    ways = [
        Method("stock", "stock", SEED, dtype),
        Method("seeds", "stock", OTHER_SEED, dtype),
        Method("dense", "dense", SEED, dtype),
        Method("flashbias", "flashbias", SEED, dtype),
    ]
    if dtype == "fp32" and usable_dtype(device, "bf16") == "bf16":
        ways += [Method(f"{bias}_bf16", bias, SEED, "bf16") for bias in ("stock", "flashbias")]
    return tuple(ways)


class Store:
    """The predictions on disk, a JSON file each; those of other settings lie in other folders."""

    def __init__(self, folder: Path, settings: dict[Method, dict[str, Any]]) -> None:
        self.settings = settings
        self._folders = {way: folder / f"{way.name}-{_digest(made)}" for way, made in settings.items()}
        for way_folder in self._folders.values():
            way_folder.mkdir(parents=True, exist_ok=True)

    def path(self, way: Method, job: Job) -> Path:
        """Where a prediction is kept."""
        return self._folders[way] / f"{job.name}.json"

    def read(self, way: Method, job: Job) -> dict[str, Any] | None:
        """A complete prediction of the very job, or None."""
        record = read_json(self.path(way, job))
        return record if record is not None and record["document"] == job.document else None


def predict_missing(store: Store, jobs: Sequence[Job], options: argparse.Namespace) -> None:
    """Predict what is not there, job by job, so that an interrupted run has whole comparisons."""
    cases = [(way, job) for job in jobs for way in store.settings if store.read(way, job) is None]
    there = len(jobs) * len(store.settings) - len(cases)
    complain(f"{len(cases)} predictions to make, {there} are there; they are kept in {options.out}")
    started, tokens, left = time.monotonic(), 0, sum(job.n_token for _, job in cases)
    run = _in_turn if options.jobs == 1 else functools.partial(_side_by_side, options.jobs)
    for done, (way, job, seconds) in enumerate(run(store, cases, options), 1):
        tokens, left = tokens + job.n_token, left - job.n_token
        minutes = (time.monotonic() - started) / tokens * left / 60
        complain(
            f"[{done}/{len(cases)}] {job.name} {way.name}: {seconds:.1f} s, about {minutes:.0f} min left"
        )


Case = tuple[Method, Job]


def _in_turn(
    store: Store, cases: Sequence[Case], options: argparse.Namespace
) -> Iterator[tuple[Method, Job, float]]:
    if cases:
        predictor = Predictor(store, options)
        for way, job in cases:
            yield way, job, predictor.predict(way, job)


def _side_by_side(
    processes: int, store: Store, cases: Sequence[Case], options: argparse.Namespace
) -> Iterator[tuple[Method, Job, float]]:
    executor = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(store, options)
    )
    try:
        running = {executor.submit(_predict, way, job): (way, job) for way, job in cases}
        for future in as_completed(running):
            yield (*running[future], future.result())
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()


_predictor: list[Predictor] = []  # of a process that works for another


def _begin(store: Store, options: argparse.Namespace) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    settle()
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // options.jobs))
    _predictor.append(Predictor(store, options))


def _predict(way: Method, job: Job) -> float:
    return _predictor[0].predict(way, job)


class Predictor:
    """The model, loaded once for each way and dtype."""

    def __init__(self, store: Store, options: argparse.Namespace) -> None:
        from flashbias_fold.bench import machine
        from flashbias_fold.protenix_adapter import environment

        environment.prepare()
        self._store = store
        self._components = open_components()
        self._device, _ = _device(options)
        self._samples = options.samples
        self._plans = _Plans(options.plan)
        self._engines: dict[tuple[str, str], Any] = {}
        self._made_by = machine.commit() | {"versions": machine.versions()}

    def predict(self, way: Method, job: Job) -> float:
        """Make a prediction and keep it; returns the seconds that it took."""
        started = time.monotonic()
        self._components.install_for(job.document)
        prediction = self._engine(way).predict(job.document, way.seed)
        record = {
            "name": job.name,
            "document": job.document,
            "settings": self._store.settings[way],
            "samples": list(_samples(prediction)),
            "layers": prediction.layers,
            "seconds": time.monotonic() - started,
            **self._made_by,
        }
        write_atomic(self._store.path(way, job), json.dumps(record))
        return record["seconds"]

    def _engine(self, way: Method) -> Any:
        from flashbias_fold.protenix_adapter.engine import Engine

        which = way.bias, way.dtype
        if which not in self._engines:
            self._engines[which] = Engine(
                find_model(DEMO),
                self._plans.of(way.bias),
                device=self._device,
                dtype=way.dtype,
                samples=self._samples,
            )
        return self._engines[which]


def _samples(prediction: Any) -> Iterator[dict[str, Any]]:
    """Of each structure, in the order of the noise: confidences, and where the C-alphas are."""
    alphas = prediction.features.atom_array.atom_name == "CA"
    coordinates = prediction.output["coordinate"].float().cpu().numpy()
    for place, said in zip(coordinates, prediction.output["summary_confidence"], strict=True):
        yield {
            **{key: float(said[key]) for key in ("ptm", "plddt", "ranking_score")},
            "alphas": np.round(place[alphas].astype(float), 3).tolist(),
        }


class _Plans:
    """Which plan a bias stands for, each read once."""

    def __init__(self, path: Path) -> None:
        from flashbias_fold.pairformer import Plan

        self._path = path
        self._plans = {bias: Plan.for_bias(bias) for bias in ("stock", "dense")}
        self._plans["flashbias"] = _everywhere(Plan.load(path))

    def of(self, bias: str) -> Any:
        """The plan of a bias."""
        return self._plans[bias]

    def describe(self) -> dict[str, Any]:
        """What flashbias runs; of files, their names."""
        rules = [
            {key: value.name if isinstance(value, Path) else value for key, value in vars(rule).items()}
            for rule in self.of("flashbias").rules
        ]
        return {"name": self._path.name, "rules": rules, "sha256": self.of("flashbias").digest}


def _everywhere(plan: Any) -> Any:
    """Without the rules of some GPUs and sizes: what factors do is asked also where they gain no time."""
    kept = tuple(rule for rule in plan.rules if rule.gpu is None and rule.tokens is None)
    return replace(plan, rules=kept)


def _settings(way: Method, plans: _Plans, device: Any, samples: int) -> dict[str, Any]:
    """What the predictions of a method depend on."""
    model = find_model(DEMO)
    config = build_config(model)
    return {
        **asdict(way),
        "weights": model.weights,
        "plan": plans.of(way.bias).digest,
        "device": device.type,
        "samples": samples,
        "steps": int(config.sample_diffusion.N_step),
        "cycles": int(config.model.N_cycle),
    }


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _device(options: argparse.Namespace) -> tuple[Any, str]:
    """Where it runs, and in which dtype it really does."""
    from flashbias_fold.protenix_adapter.kernels import chosen_device, usable_dtype

    device = chosen_device(options.device)
    return device, usable_dtype(device, options.dtype)


def settle() -> None:
    """As the command line does before torch is imported; Protenix and rdkit log by the page."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)


# What is made of it


def alpha_lddt(found: Any, stock: Any) -> float:
    """C-alpha LDDT of a structure to stock's, of places (N, 3)."""
    reference = struc.AtomArray(len(stock))
    reference.coord = np.asarray(stock, dtype=np.float32)
    reference.res_id = np.arange(len(stock))
    return float(
        struc.lddt(reference, np.asarray(found, dtype=np.float32), inclusion_radius=INCLUSION_RADIUS)
    )


def differences(found: dict[str, Any], stock: dict[str, Any], known: bool) -> Iterator[Difference]:
    """Of each structure to stock's from the same noise; then of the one ranked first to stock's."""
    ours, theirs = found["samples"], stock["samples"]
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        yield _difference(found["name"], known, number, False, one, other)
    first, right = (max(samples, key=lambda sample: sample["ranking_score"]) for samples in (ours, theirs))
    yield _difference(found["name"], known, ours.index(first), True, first, right)


def _difference(
    name: str, known: bool, number: int, best: bool, one: dict[str, Any], other: dict[str, Any]
) -> Difference:
    return Difference(
        domain=name,
        known=known,
        sample=number,
        best=best,
        ptm=abs(one["ptm"] - other["ptm"]),
        plddt=abs(one["plddt"] - other["plddt"]),
        lddt=alpha_lddt(one["alphas"], other["alphas"]),
    )


def summary(records: dict[str, list[Any]], known: set[str], *, fp32: bool) -> dict[str, Any]:
    """The figures of all comparisons, what the layers did, and the lines that were asked for."""
    found = {
        name: [
            difference
            for one, stock in zip(ours, records["stock"], strict=True)
            for difference in differences(one, stock, one["name"] in known)
        ]
        for name, ours in records.items()
        if name != "stock"
    }
    figures = {name: _figures_by_part(values) for name, values in found.items()}
    layers = layer_table(records["flashbias"], records["dense"])
    lines = asked(figures, layers, fp32=fp32)
    return {
        "figures": figures,
        "layers": layers,
        "lines": [asdict(line) | {"verdict": line.verdict} for line in lines],
        "domains": {name: _by_domain(values) for name, values in found.items()},
    }


def _figures_by_part(values: Sequence[Difference]) -> dict[str, dict[str, float]]:
    paired = [value for value in values if not value.best]
    parts = {
        ALL: paired,
        KNOWN: [value for value in paired if value.known],
        STRANGE: [value for value in paired if not value.known],
        BEST: [value for value in values if value.best],
    }
    return {part: figures(chosen) for part, chosen in parts.items() if chosen}


def figures(values: Sequence[Difference]) -> dict[str, float]:
    """Means and extremes."""
    return {
        "structures": len(values),
        "mean_ptm": fmean(value.ptm for value in values),
        "largest_ptm": max(value.ptm for value in values),
        "mean_lddt": fmean(value.lddt for value in values),
        "least_lddt": min(value.lddt for value in values),
        "mean_plddt": fmean(value.plddt for value in values),
        "largest_plddt": max(value.plddt for value in values),
    }


def _by_domain(values: Sequence[Difference]) -> dict[str, dict[str, float]]:
    names = dict.fromkeys(value.domain for value in values)
    return {
        name: {
            key: round(number, 6)
            for key, number in figures([v for v in values if v.domain == name and not v.best]).items()
            if key != "structures"
        }
        for name in names
    }


def layer_table(records: Sequence[dict[str, Any]], dense: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each attention did over all predictions; those that the plan left to stock too.

    `decomposed` is the share of predictions in which no call of the layer used anything but factors of a
    rank that is small enough.
    """
    return [
        _layer_row(layer["name"], [_layer(record, layer["name"]) for record in records])
        for layer in dense[0]["layers"]
    ]


def triangles(layers: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of triangle attentions."""
    return [layer for layer in layers if TRIANGLE in layer["name"]]


def _layer(record: dict[str, Any], name: str) -> dict[str, Any]:
    stock = {"way": "stock", "rank": None, "certified_error": 0.0, "fallbacks": 0}
    return next((layer for layer in record["layers"] if layer["name"] == name), stock)


def _layer_row(name: str, seen: Sequence[dict[str, Any]]) -> dict[str, Any]:
    factored = [
        layer["way"] in FACTORED and layer["rank"] <= LARGEST_RANK and not layer["fallbacks"]
        for layer in seen
    ]
    return {
        "name": name,
        "way": seen[0]["way"],
        "rank": seen[0]["rank"],
        "decomposed": fmean(factored),
        "mean_error": fmean(layer["certified_error"] for layer in seen),
        "largest_error": max(layer["certified_error"] for layer in seen),
        "fallbacks": sum(layer["fallbacks"] for layer in seen),
    }


def asked(
    figures: dict[str, dict[str, dict[str, float]]], layers: Sequence[dict[str, Any]], *, fp32: bool
) -> list[Line]:
    """The lines that were asked for, judged by all structures."""
    dense, ours, seeds = (figures[name][ALL] for name in ("dense", "flashbias", "seeds"))
    in_fp32 = dense["largest_ptm"] if fp32 else None
    return [
        Line(f"dense: largest difference in pTM{'' if fp32 else ', judged in fp32 alone'}", in_fp32, 1e-4),
        Line(
            f"flashbias: share of triangle attentions by factors of rank <= {LARGEST_RANK}, no fallback",
            fmean(layer["decomposed"] for layer in triangles(layers)),
            0.5,
            at_most=False,
        ),
        Line("flashbias: mean difference in pTM", ours["mean_ptm"], 0.005),
        Line("flashbias: largest difference in pTM", ours["largest_ptm"], 0.03),
        Line("flashbias: mean C-alpha LDDT to stock", ours["mean_lddt"], 0.98, at_most=False),
        Line(
            "flashbias: mean difference in pTM, a quarter of that of two seeds",
            ours["mean_ptm"],
            seeds["mean_ptm"] / 4,
        ),
        Line(
            "flashbias: mean C-alpha LDDT lost, a quarter of that of two seeds",
            1 - ours["mean_lddt"],
            (1 - seeds["mean_lddt"]) / 4,
        ),
        *_asked_of_bf16(figures),
    ]


def _asked_of_bf16(figures: dict[str, dict[str, dict[str, float]]]) -> Iterable[Line]:
    texts = ("mean difference in pTM", "mean C-alpha LDDT lost")
    if "flashbias_bf16" not in figures:
        return [Line(f"bf16: {text}, needs a GPU and --dtype fp32", None, 0.0) for text in texts]
    ours, stock = (figures[name][ALL] for name in ("flashbias_bf16", "stock_bf16"))
    pairs = [(made["mean_ptm"], 1 - made["mean_lddt"]) for made in (ours, stock)]
    return [
        Line(f"bf16: {text} to stock in fp32, twice that of stock in bf16", number, 2 * limit)
        for text, number, limit in zip(texts, *pairs, strict=True)
    ]


def _provenance(records: dict[str, list[Any]], device: Any) -> dict[str, Any]:
    """Where the predictions come from: more than one entry if the code changed between them."""
    from flashbias_fold.bench import machine

    made = [record for ours in records.values() for record in ours]
    by = {json.dumps([record["commit"], record["changed"], record["versions"]]) for record in made}
    keys = ("commit", "changed", "versions")
    settings = [ours[0]["settings"] for ours in records.values()]
    return {
        "made_by": [dict(zip(keys, json.loads(text), strict=True)) for text in sorted(by)],
        "machine": machine.describe(device),
        "methods": [{key: made[key] for key in ("name", "bias", "seed", "dtype")} for made in settings],
        "model": DEMO,
        **{key: settings[0][key] for key in ("weights", "device", "samples", "steps", "cycles")},
    }


# What is shown

_COLUMNS: tuple[tuple[str, Callable[[dict[str, float]], str]], ...] = (
    ("structures", lambda made: f"{made['structures']:.0f}"),
    ("pTM mean", lambda made: f"{made['mean_ptm']:.2g}"),
    ("largest", lambda made: f"{made['largest_ptm']:.2g}"),
    ("LDDT mean", lambda made: f"{made['mean_lddt']:.4f}"),
    ("least", lambda made: f"{made['least_lddt']:.3f}"),
    ("pLDDT mean", lambda made: f"{made['mean_plddt']:.2g}"),
    ("largest", lambda made: f"{made['largest_plddt']:.2g}"),
)
_LAYER_COLUMNS = ("layer", "way", "rank", "decomposed", "mean error", "largest", "fallbacks")
_TITLES = {
    "seeds": "stock, two seeds",
    "stock_bf16": "stock in bf16",
    "flashbias_bf16": "flashbias in bf16",
}


def report(result: dict[str, Any]) -> str:
    """All of it as text, in aligned columns."""
    tables = [aligned(difference_rows(result)), aligned(layer_rows(result))]
    return "\n\n".join([*tables, "\n".join(layer_counts(result)), "\n".join(line_texts(result))])


def difference_rows(result: dict[str, Any]) -> list[list[str]]:
    """Of each comparison and part of it, a row; the titles first."""
    rows = [["differences to stock", "of", *(title for title, _ in _COLUMNS)]]
    for name, parts in result["figures"].items():
        for part, made in parts.items():
            rows.append([_TITLES.get(name, name), part, *(cell(made) for _, cell in _COLUMNS)])
    return rows


def layer_rows(result: dict[str, Any]) -> list[list[str]]:
    """Of each triangle attention, a row; the titles first."""
    return [
        list(_LAYER_COLUMNS),
        *(
            [
                layer["name"],
                layer["way"],
                str(layer["rank"] or "-"),
                f"{layer['decomposed']:.0%}",
                f"{layer['mean_error']:.2g}",
                f"{layer['largest_error']:.2g}",
                str(layer["fallbacks"]),
            ]
            for layer in result["layers"]
        ),
    ]


def layer_counts(result: dict[str, Any]) -> list[str]:
    """How many attentions of each kind go which way, and the worst of them."""
    kinds = {"triangle attentions": triangles(result["layers"])}
    kinds["attentions with pair bias"] = [
        layer for layer in result["layers"] if TRIANGLE not in layer["name"]
    ]
    return [_counted(kind, layers) for kind, layers in kinds.items() if layers]


def _counted(kind: str, layers: Sequence[dict[str, Any]]) -> str:
    counts = Counter(layer["way"] + (f" R = {layer['rank']}" if layer["rank"] else "") for layer in layers)
    return (
        f"{len(layers)} {kind}: {', '.join(f'{count} {way}' for way, count in counts.most_common())}; "
        f"largest certified error {max(layer['largest_error'] for layer in layers):.2g}, "
        f"{sum(layer['fallbacks'] for layer in layers)} fallbacks"
    )


def line_texts(result: dict[str, Any]) -> Iterator[str]:
    """The lines that were asked for, with their verdicts."""
    for line in result["lines"]:
        if line["number"] is None:
            yield f"{line['verdict']}  {line['text']}"
            continue
        bound = f"at {'most' if line['at_most'] else 'least'} {line['limit']:.3g}"
        yield f"{line['verdict']}  {line['text']}: {line['number']:.4g} ({bound})"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal, its head the first row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def write_page(check: bool) -> int:
    """Write the tables of the page, or say by the status whether they are as they should be."""
    return fill(PAGE, _PLACE, _page_part, check)


def fill(path: Path, place: re.Pattern[str], part: Callable[[str], str], check: bool) -> int:
    """Write the parts of a page that come from records, or only say whether they are there; 0 if they are.

    Args:
        path: Of the page.
        place: What finds one: the mark before it, the record's name, the mark behind it.
        part: What belongs there, by that name.
        check: Whether to leave the page as it is.
    """
    page = path.read_text()
    right = place.sub(lambda found: found[1] + part(found[2]) + found[3], page)
    if check:
        return int(page != right)
    write_atomic(path, right)
    return 0


def _page_part(record: str) -> str:
    result = json.loads((PAGE.with_suffix("") / f"{record}.json").read_text())
    lines = "\n".join(f"    {text}" for text in line_texts(result))
    tables = [markdown(difference_rows(result)), markdown(layer_rows(result))]
    return "\n\n".join([*tables, *(f"{text}." for text in layer_counts(result)), lines]) + "\n"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table for a page."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


# The arguments


def complain(line: str) -> None:
    """Say it where errors and progress go."""
    print(line, file=sys.stderr, flush=True)


class Parser(argparse.ArgumentParser):
    """One line for an error."""

    def error(self, message: str) -> NoReturn:
        """Raise it, for `main` to print."""
        raise UsageError(f"{message} (see --help)")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--plan", metavar="FILE", type=Path, default=PLAN, help="what flashbias runs (default: %(default)s)")
    add(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("preds", "fidelity"),
        help="folder for the predictions (default: %(default)s)",
    )
    add("--limit", metavar="N", type=_count, help="only the N shortest domains, of both kinds in turn")
    add("--jobs", metavar="N", type=_count, default=1, help="so many processes (default: 1)")
    add(
        "--samples",
        metavar="N",
        type=_count,
        default=int(run_defaults().samples),
        help="structures for each seed (default: %(default)s)",
    )
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where (default: a GPU if there)")
    add("--dtype", choices=("fp32", "bf16"), default="fp32", help="of all methods (default: %(default)s)")
    add("--json", metavar="FILE", type=Path, help="write what was measured, with where it comes from")
    add("--page", action="store_true", help="write the tables of docs/fidelity.md from its records")
    add("--check", action="store_true", help="with --page: change nothing; exit 1 if it is not up to date")
    options = parser.parse_args(arguments)
    if options.json and not options.json.parent.is_dir():
        raise UsageError(f"--json: there is no folder {options.json.parent}")
    if options.check and not options.page:
        raise UsageError("--check: is for --page")
    return options


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got '{text}'")
    return number


if __name__ == "__main__":
    settle()
    signals.catch()
    sys.exit(main())
