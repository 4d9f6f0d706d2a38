"""What a second worker brings to a campaign on this machine's CPU, and what handing out jobs costs.

    python scripts/campaign_throughput.py [--rounds N] [--jobs N] [--tokens N] [--steps N] [--json FILE]
                                          [--queued N] [--long N] [--long-tokens N] [--long-steps N]

First the same jobs are done by campaigns in turn, as often as there are rounds: with one worker of one
thread, with two such workers, and, to compare, with one worker that has all cores. What counts is the time
from the first job given to a worker to the last one done. Then a campaign of many long jobs is begun and
interrupted when some are done: the time in which workers had no job, although there was one, is what
handing them out costs. The model is the demonstration model.

exit status: 0 both are as promised (two workers do 1.6 times as much as one, handing out takes less than 2 %
of a job of ten seconds), 1 one of them is not
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from flashbias_fold.bench import machine
from flashbias_fold.files import read_json, write_json
from flashbias_fold.predict.account import now

GAIN, SHARE, LONG_S = 1.6, 0.02, 10.0
LETTERS = "ACDEFGHIKLMNPQRSTVWY"
PATIENCE_S = 3600
# Workers, and what the environment says of threads; without it a worker has its share of the cores.
WAYS = {"one": (1, "1"), "two": (2, "1"), "one_with_all_cores": (1, "")}


def main() -> int:
    """Measure, print and record."""
    options = read_options()
    with tempfile.TemporaryDirectory(prefix="campaign-") as scratch:
        rounds = compare(options, Path(scratch))
        handing_out = hand_out(options, Path(scratch))
    gain = statistics.median(row["two"]["per_hour"] / row["one"]["per_hour"] for row in rounds)
    record = {
        "benchmark": "campaign",
        "date": now(),
        **machine.commit(),
        "machine": machine.describe(torch.device("cpu")) | {"cores": len(os.sched_getaffinity(0))},
        "versions": versions(),
        "options": {key: value for key, value in vars(options).items() if key != "json"},
        "rounds": rounds,
        "gain": round(gain, 3),
        "handing_out": handing_out,
    }
    print(f"two workers do {gain:.2f} times as much as one (wanted: {GAIN})")
    share = handing_out["share_of_ten_seconds"]
    print(
        f"a worker waits {1000 * handing_out['seconds_each']:.1f} ms for a job, of which {options.queued:,} "
        f"are there: {share:.2%} of ten seconds (wanted: {SHARE:.0%})"
    )
    if options.json is not None:
        write_json(options.json, record)
    return 0 if gain >= GAIN and share < SHARE else 1


def read_options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    for name, default, what in (
        ("rounds", 5, "how often each is measured"),
        ("jobs", 24, "jobs in a round"),
        ("tokens", 64, "residues of each"),
        ("steps", 20, "denoising steps of each"),
        ("queued", 10_000, "long jobs that are waiting"),
        ("long", 12, "long jobs to be done"),
        ("long-tokens", 112, "residues of each"),
        ("long-steps", 40, "denoising steps of each"),
    ):
        parser.add_argument(f"--{name}", metavar="N", type=int, default=default, help=f"{what} ({default})")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write a record of it all")
    return parser.parse_args()


def compare(options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """The ways in turn; which is the first changes from round to round."""
    jobs = write_jobs(scratch / "jobs.fasta", options.jobs, options.tokens)
    rounds = []
    for number, names in zip(
        range(options.rounds), itertools.cycle(itertools.permutations(WAYS)), strict=False
    ):
        row: dict[str, Any] = {}
        for name in names:
            workers, threads = WAYS[name]
            out = scratch / f"{number}-{name}"
            done = subprocess.run(
                command(jobs, out, options.steps, workers), env=environment(threads), check=False
            )
            said = campaign_of(out)
            if done.returncode != 0 or said is None:
                raise SystemExit(f"a campaign has failed ({name}); see above")
            row[name] = {
                "per_hour": round(said["per_hour"], 1),
                "in_job_s": round(said["in_jobs_s"] / options.jobs, 4),
            }
        print(f"round {number + 1}: {row}", flush=True)
        rounds.append({name: row[name] for name in WAYS})
    return rounds


def hand_out(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Interrupt a campaign with a long queue when some of its jobs are done."""
    jobs = write_jobs(scratch / "long.fasta", options.queued, options.long_tokens)
    out = scratch / "long"
    process = subprocess.Popen(command(jobs, out, options.long_steps, 2), env=environment("1"))
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        if len(list(out.glob("*/report.json"))) >= options.long:
            process.terminate()  # an interrupt is ignored by what a shell started in the background
            process.wait()
        time.sleep(0.5)
    process.kill()
    said = campaign_of(out)
    done = sum(worker["done"] for worker in said["workers"]) if said else 0
    if said is None or not done:
        raise SystemExit("the campaign with the long queue has failed; see above")
    each = said["between_jobs_s"] / done
    return {
        "queued": options.queued,
        "done": done,
        "in_job_s": round(said["in_jobs_s"] / done, 3),
        "seconds_each": round(each, 5),
        "share_of_ten_seconds": round(each / LONG_S, 6),
    }


def write_jobs(path: Path, count: int, tokens: int) -> Path:
    """Proteins of that length, none of which is another."""
    generator = random.Random(1)
    width = len(str(count))
    with path.open("w") as file:
        for number in range(count):
            file.write(f">job{number:0{width}}\n{''.join(generator.choices(LETTERS, k=tokens))}\n")
    return path


def command(jobs: Path, out: Path, steps: int, workers: int) -> list[str]:
    """A campaign."""
    what = ["predict", str(jobs), "--out", str(out), "--engine", "ray", "--devices", str(workers)]
    how = ["--model", "demo", "--device", "cpu", "--samples", "1", "--steps", str(steps), "--quiet"]
    return [sys.executable, "-m", "flashbias_fold", *what, *how]


def environment(threads: str) -> dict[str, str]:
    """What a campaign is started with: so many threads for each worker, where any number is given."""
    others = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    return others | ({"OMP_NUM_THREADS": threads} if threads else {})


def campaign_of(out: Path) -> dict[str, Any] | None:
    """What `run.json` says of a campaign."""
    said = read_json(out / "run.json")
    return said.get("campaign") if isinstance(said, dict) else None


def versions() -> dict[str, str]:
    """Of what it depends on."""
    import ray

    return machine.versions() | {"ray": ray.__version__}


if __name__ == "__main__":
    sys.exit(main())
