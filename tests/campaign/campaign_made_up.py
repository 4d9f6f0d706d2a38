"""A campaign as `predict --engine ray` leaves it, all of it made up."""

from __future__ import annotations

import random
from typing import Any

STAGES = ("featurize", "trunk", "diffusion", "confidence", "write")
DEVICES = ("NVIDIA H200", "NVIDIA A100-SXM4-80GB")
REASON = "{} tokens need about {} GiB on cuda, there are 139 GiB"


def name_of(index: int, label: str = "") -> str:
    """The name of a job."""
    return f"target_{index:05}{label}"


def report(index: int, label: str = "", devices: tuple[str, ...] = DEVICES) -> dict[str, Any]:
    """The `report.json` of a job; the same for the same number."""
    rng = random.Random(index)
    tokens = round(2 ** rng.uniform(5, 11.5))
    device = devices[index % len(devices)]
    trunk = 1e-5 * tokens**2 * rng.uniform(1, 1.3) * (1 + index % len(devices))
    stages = {"featurize": 0.2, "trunk": trunk, "diffusion": tokens / 60, "confidence": 0.3, "write": 0.05}
    score = rng.uniform(0.3, 0.9)
    return {
        "name": name_of(index, label),
        "model": f"protenix_base_default_v1.0.0{label}",
        "demo_model": False,
        "n_token": tokens,
        "n_atom": 8 * tokens,
        "device": f"{device}{label}",
        "stages_s": stages,
        "wall_s": sum(stages.values()),
        "peak_memory_bytes": 2**30 + 1000 * tokens**2,
        "samples": [
            {
                "seed": 101,
                "sample": sample,
                "ptm": score - 0.01 * sample,
                "iptm": None if index % 2 else score - 0.02 * sample,
                "plddt": 90.0 * score,
                "ranking_score": score - 0.01 * sample,
                "has_clash": False,
                "cif": f"seed_101/predictions/{name_of(index, label)}_sample_{sample}.cif",
            }
            for sample in range(2)
        ],
        "files": [],
        "versions": {"torch": "2.7.1"},
    }


def reports(count: int, label: str = "", devices: tuple[str, ...] = DEVICES) -> list[dict[str, Any]]:
    """Those of the first jobs."""
    return [report(index, label, devices) for index in range(count)]


def run(
    done: int = 6,
    *,
    skipped: int = 1,
    failed: int = 3,
    pending: int = 0,
    status: str = "done",
    label: str = "",
) -> dict[str, Any]:
    """`run.json`: jobs in the order of their states; of the failed every other one does not fit a GPU."""
    states = ["done"] * done + ["skipped"] * skipped + ["failed"] * failed + ["pending"] * pending
    jobs = {name_of(index, label): state for index, state in enumerate(states)}
    broken = [name for name, state in jobs.items() if state == "failed"]
    return {
        "status": status,
        "engine": "ray",
        "started": "2026-11-21T10:00:00+00:00",
        "updated": "2026-11-21T12:30:00+00:00",
        "command": [
            "/opt/bin/flashbias-fold",
            "predict",
            f"targets{label}",
            "--out",
            "preds",
            "--engine",
            "ray",
        ],
        "arguments": {"input": "targets", "out": "preds", "seeds": [101], "overwrite": False, "plan": None},
        "model": {
            "name": f"protenix_base_default_v1.0.0{label}",
            "demo_model": False,
            "checkpoint": f"/weights/checkpoint/model.pt{label}",
        },
        "plan": {"name": f"flashbias{label}", "rules": [{"layers": "*"}]},
        "components": "biotite",
        "jobs": jobs,
        "rejected": [
            {
                "name": f"bad{label}",
                "error": f"targets/bad.json: job 'bad{label}': sequences[0]: expected letters{label}",
            }
        ],
        "versions": {"flashbias-fold": f"0.1.0{label}", "triton": None},
        "device": f"NVIDIA H200{label}",
        "campaign": {
            "driver": {"host": "gpu1", "pid": 4242},
            "cluster": {"address": f"gpu1:6379{label}", "nodes": 2},
            "workers": [
                {
                    "id": index,
                    "node": f"gpu{index // 2}{label}",
                    "device": f"{DEVICES[index % 2]}{label}",
                    "state": "lost" if index == 3 else "running",
                    "job": None if index == 3 else name_of(index, label),
                    "since": "2026-11-21T12:29:00+00:00",
                    "done": index,
                }
                for index in range(4)
            ],
            "deaths": 1,
            "failures": {
                name: {"kind": "memory", "error": REASON.format(9000 + place, 300 + place)}
                if place % 2
                else {"kind": "poison", "error": f"its worker died 3 times, the last time by signal 9{label}"}
                for place, name in enumerate(broken)
            },
            "elapsed_s": 9000.0,
            "per_hour": 1234.5,
            "remaining_s": 60.0 * pending,
        },
    }
