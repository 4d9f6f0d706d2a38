"""A report as `compare` would write it: real structures, everything else made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flashbias_fold.accuracy import read_structure
from flashbias_fold.report import pae_map, trace

ROOT = Path(__file__).parents[2]
HOSTILE = """</script><script>alert("1")</script><!-- & 'quoted' $name ${json} \u2028 \u202e名\ud800\x00"""
LAYERS = [f"pairformer_stack.blocks.{block}.tri_att_{end}" for block in range(4) for end in ("start", "end")]
METHODS = {
    "stock": ("stock", "stock", 101, None),
    "flashbias": ("FlashBias", "flashbias", 101, "demo.yaml"),
    "dense": ("dense bias", "dense", 101, None),
    "none": ("without bias", "none", 101, None),
    "stock_seed_102": ("stock, seed 102", "stock", 102, None),
}
# How far from stock each method is, and how long it takes.
OFF = {"stock": 0.0, "stock_seed_102": 0.05, "flashbias": 0.01, "dense": 0.0002, "none": 4.0}
PACE = {"stock": 1.0, "stock_seed_102": 1.0, "flashbias": 0.62, "dense": 0.8, "none": 0.58}
STAGES = {"featurize": 0.31, "trunk": 4.2, "diffusion": 2.1, "confidence": 0.44, "write": 0.05}


def report(names: tuple[str, ...] = ("1igdA00", "1hz6B00", "1g6xA00"), label: str = "") -> dict[str, Any]:
    """The report of a run over domains of data/truth; `label` is put into everything that has a name."""
    rng = np.random.default_rng(7)
    entries = [_entry(name, label, rng) for name in names]
    return {
        "format": 1,
        "model": f"demo{label}",
        "demo_model": True,
        "methods": [
            {"key": key, "label": shown + label, "bias": bias, "seed": seed, "plan": plan and plan + label}
            for key, (shown, bias, seed, plan) in METHODS.items()
        ],
        "verdict": {
            "method": "flashbias",
            "noise": "stock_seed_102",
            "same": True,
            "headline": f"Same structures within noise{label}",
            "text": "FlashBias changes pTM by less than a second seed does, and the structures agree with "
            f"stock's as closely as those of two seeds agree with each other.{label}",
            "level": 0.95,
            "measures": [
                {
                    "name": name,
                    "change": _spread(near, rng),
                    "noise": _spread(noise, rng),
                    "negligible": negligible,
                    "same": True,
                }
                for name, near, noise, negligible in (
                    ("ptm_change", 0.00017, 0.00086, 0.001),
                    ("plddt_change", 0.011, 0.038, 0.1),
                    ("lddt_ca_to_stock", 0.986, 0.885, 0.999),
                )
            ],
        },
        "speed": {
            "method": "flashbias",
            "wall_ratio": _spread(1.417, rng),
            "trunk_ratio": _spread(1.93, rng),
            "memory_ratio": _spread(1.12, rng),
        },
        "summary": [_summary(method, entries, rng) for method in METHODS],
        "entries": entries,
        "failed": [{"name": f"1abc{label}", "why": f"the truth is not of this sequence{label}"}],
        "provenance": {
            "created": f"2026-11-21T10:30:00+00:00{label}",
            "command": ["flashbias-fold", "compare", "data/examples", "--truth", f"data/truth{label}"],
            "commit": f"53774bd{label}",
            "seeds": [101, 102],
            "repeats": 3,
            "warm_ups": 1,
            "machine": {"processor": f"x86_64{label}", "cores": 2, "gpu": None, f"memory_gib{label}": 24.0},
            "versions": {"flashbias-fold": f"0.1.0{label}", "protenix": "2.0.0", f"torch{label}": "2.13.0"},
        },
    }


def _spread(mean: float, rng: np.random.Generator) -> dict[str, float | int]:
    half = abs(mean) * float(rng.uniform(0.01, 0.05))
    high = min(mean + half, 1.0) if mean <= 1 else mean + half
    return {"mean": mean, "low": mean - half, "high": high, "n": 3}


def _entry(name: str, label: str, rng: np.random.Generator) -> dict[str, Any]:
    atoms = read_structure(ROOT / "data" / "truth" / f"{name}.pdb.gz")
    alphas = atoms[atoms.atom_name == "CA"]
    coord = alphas.coord - alphas.coord.mean(axis=0)
    n = len(coord)
    # Neighbours move together, as they do in predictions.
    shift = np.cumsum(rng.normal(size=(n, 3)), axis=0) / n**0.5
    traces, maps = [trace("experiment", {f"A{label}": _unbroken(coord)})], []
    for method in ("stock", "flashbias"):
        moved = coord + shift * (0.6 + 25 * OFF[method])
        traces.append(trace(method, {f"A{label}": [moved[: n // 2], moved[n // 2 :]]}))
        distance = np.linalg.norm(moved[:, None] - moved[None], axis=-1)
        maps.append(pae_map(method, np.clip(distance / 2 + rng.normal(size=(n, n)), 0.3, 31)))
    return {
        "name": name + label,
        "n_token": n,
        "n_atom": len(atoms),
        "truth": f"{name}.pdb.gz{label}",
        "results": [_result(method, name + label, n, label, rng) for method in METHODS],
        "warnings": [],
        "traces": traces,
        "pae_maps": maps,
    }


def _unbroken(coord: np.ndarray) -> list[np.ndarray]:
    gaps = np.flatnonzero(np.linalg.norm(np.diff(coord, axis=0), axis=1) > 4.5) + 1
    return np.split(coord, gaps)


def _result(method: str, name: str, n: int, label: str, rng: np.random.Generator) -> dict[str, Any]:
    off = OFF[method] * float(rng.uniform(0.5, 1.5))
    stages = {
        stage: value * n / 60 * (PACE[method] if stage == "trunk" else 1) for stage, value in STAGES.items()
    }
    is_stock = method == "stock"
    return {
        "method": method,
        "structure": f"{name}/{method}/seed_101/predictions/{name}_sample_0.cif",
        "ptm": 0.55 + n / 300 - off / 30,
        "iptm": None,
        "plddt": 84.2 - 4 * off,
        "ranking_score": 0.81 - off / 20,
        "plausible": method != "none",
        "problems": [f"chain A{label}: 1 break of the backbone"] if method == "none" else [],
        "stages_s": stages,
        "wall_s": sum(stages.values()),
        "runs_s": [sum(stages.values())] * 3,
        "peak_memory_bytes": int((1.1 + 0.2 * PACE[method]) * 2**30),
        "change": None
        if is_stock
        else {"ptm": -off / 30, "iptm": None, "plddt": -4 * off, "ranking_score": -off / 20, "pae": off / 3},
        "to_stock": None if is_stock else _closeness(off),
        "to_truth": _closeness(off + 0.3),
        "layers": [
            {
                **layer,
                "certified_error": float(rng.uniform(0.004, 0.03)) if layer["rank"] else 0.0,
                "fallbacks": 0,
            }
            for layer in _layers(method, label)
        ],
    }


def _closeness(off: float) -> dict[str, Any]:
    return {
        "lddt_ca": 1 - off / 12,
        "lddt_all": 1 - off / 10,
        "tm_score": 1 - off / 14,
        "rmsd": off,
        "interface": None,
    }


def _layers(method: str, label: str) -> list[dict[str, Any]]:
    if method in ("stock", "stock_seed_102", "none"):
        return []
    factors = {"way": "neural" + label, "rank": 32, "reach": 16}
    exact: dict[str, Any] = {"way": "dense", "rank": None, "reach": None}
    by_factors = {"flashbias": LAYERS[:5], "dense": []}[method]
    return [{"name": name + label, **(factors if name in by_factors else exact)} for name in LAYERS]


def _summary(method: str, entries: list[dict[str, Any]], rng: np.random.Generator) -> dict[str, Any]:
    results = [result for entry in entries for result in entry["results"] if result["method"] == method]
    measures: dict[str, Any] = {}
    for name in ("ptm", "plddt", "ranking_score", "wall_s", "peak_memory_bytes"):
        measures[name] = _spread(float(np.mean([result[name] for result in results])), rng)
    for target in ("stock", "truth"):
        for name in ("lddt_ca", "tm_score", "rmsd"):
            values = [result[f"to_{target}"][name] for result in results if result[f"to_{target}"]]
            if values:
                measures[f"{name}_to_{target}"] = _spread(float(np.mean(values)), rng)
    layers = []
    for index, layer in enumerate(results[0]["layers"]):
        errors = [result["layers"][index]["certified_error"] for result in results]
        kept = {key: layer[key] for key in ("name", "way", "rank", "reach")}
        means = {"mean_error": float(np.mean(errors)), "largest_error": max(errors)}
        layers.append({**kept, **means, "fallbacks": 0})
    stages = {stage: float(np.mean([result["stages_s"][stage] for result in results])) for stage in STAGES}
    words = {"flashbias": "same within noise", "none": "not the same"}.get(method)
    same = {"flashbias": True, "dense": True, "none": False}.get(method)
    return {
        "method": method,
        "same": same,
        "verdict": words,
        "measures": measures,
        "stages_s": stages,
        "layers": layers,
    }
