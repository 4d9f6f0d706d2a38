"""Measure whether runs of one prediction give the same bytes, and what it costs to have them do so.

    python scripts/reproducibility.py [--model NAME] [--tokens 256,1024] [--device cuda|cpu] [--rounds N]
                                      [--steps N] [--cycles N] [--json FILE] [--against FILE]

For each size, for stock Protenix and for ours (the exact bias), with the denoising step recorded and without,
predict the same job twice from one seed and compare all bytes of coordinates and confidences: with the atoms
of a token summed in order, as every run of ours does, and as Protenix has it, in whatever order threads come.
Then time both in turn. Weights of an official model are random, on which times do not depend. With --against,
compare with the bytes that another process has recorded.

exit status: 0 all bytes of ordered runs are the same, 1 some are not, 2 wrong arguments
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flashbias_fold.bench import machine
from flashbias_fold.bench.model.inputs import chain, problem
from flashbias_fold.bench.model.methods import Method
from flashbias_fold.bench.model.session import SEED, STAGES, Session
from flashbias_fold.errors import FlashbiasError, UsageError
from flashbias_fold.files import read_json, write_json
from flashbias_fold.pairformer import Plan
from flashbias_fold.predict.account import now
from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.components import open_components
from flashbias_fold.protenix_adapter.engine import Prediction
from flashbias_fold.protenix_adapter.features import Features
from flashbias_fold.protenix_adapter.kernels import chosen_device
from flashbias_fold.protenix_adapter.models import architecture, demo_model
from flashbias_fold.protenix_adapter.ordered_sums import OrderedSums
from flashbias_fold.protenix_adapter.recording import SWITCH

OUTPUTS = ("coordinate", "plddt", "pae", "pde", "contact_probs")
DEMO = "demo"


def main() -> int:
    """Measure, print and record."""
    options = read_options()
    try:
        record = measure(options)
    except FlashbiasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    ordered = [row for row in record["bytes"] if row["ordered"]]
    same = all(row["same"] and row["same_as_other_process"] is not False for row in ordered)
    return 0 if same else 1


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Make the record."""
    digests = read_digests(options.against)
    device = chosen_device(options.device)
    environment.prepare()
    components = open_components()
    session = Session(
        demo_model() if options.model == DEMO else architecture(options.model),
        random_weights=options.model != DEMO,
        device=device,
        dtype="bf16",
        samples=5,
        steps=options.steps,
        cycles=options.cycles,
    )
    if session.sums is not None:
        session.sums.remove()  # put on and off below
    record: dict[str, Any] = {
        "benchmark": "reproducibility",
        "date": now(),
        **machine.commit(),
        "model": options.model,
        "steps": session.steps,
        "cycles": session.cycles,
        "samples": 5,
        "layernorm": environment.layernorm_kind(),
        "machine": machine.describe(device),
        "versions": machine.versions(),
        "bytes": [],
        "times": [],
    }
    for tokens in options.tokens:
        features = problem(chain(tokens), session.config, components, 1).features
        for bias in ("stock", "dense"):
            kernels = session.kernels
            plan = None if bias == "stock" else Plan.for_bias(bias)
            session.take(Method(bias, kernels.attention, kernels.multiplication, plan))
            for measured in measure_bytes(session, features, options, is_ours=plan is not None):
                row = {"tokens": tokens, "bias": bias, **measured}
                other = digests.get(key_of(row))
                row["same_as_other_process"] = None if other is None else other == row["sha256"]
                print(in_words(row), flush=True)
                record["bytes"].append(row)
            if options.rounds:
                row = {"tokens": tokens, "bias": bias, **time_both(session, features, options.rounds)}
                print(cost_in_words(row), flush=True)
                record["times"].append(row)
            if options.json:  # a stop does not take it away
                write_json(options.json, record)
    return record


def measure_bytes(
    session: Session, features: Features, options: argparse.Namespace, *, is_ours: bool
) -> Iterator[dict[str, Any]]:
    """Compare runs in every way that a method has."""
    for recorded in (True, False) if is_ours else (False,):
        for ordered in (True, False) if options.unordered else (True,):
            yield compare_runs(session, features, recorded=recorded, ordered=ordered)


def compare_runs(session: Session, features: Features, *, recorded: bool, ordered: bool) -> dict[str, Any]:
    """Predict twice and compare the bytes."""
    with switched(recorded), summing(session, ordered=ordered):
        first, second = (session.predict_features(features, SEED) for _ in range(2))
    digests = [digest(prediction) for prediction in (first, second)]
    apart = (first.output["coordinate"] - second.output["coordinate"]).abs().max().item()
    return {
        "recorded": recorded,
        "ordered": ordered,
        "same": digests[0] == digests[1],
        "largest_coordinate_difference": apart,
        "sha256": digests[0],
    }


def time_both(session: Session, features: Features, rounds: int) -> dict[str, Any]:
    """Time predictions with ordered sums and with Protenix's own, in turn."""
    seconds: dict[str, list[dict[str, float]]] = {"ordered": [], "unordered": []}
    for turn in range(2 * rounds):
        name = "ordered" if turn % 4 in (0, 3) else "unordered"  # what drifts hits both alike
        with summing(session, ordered=name == "ordered"):
            stages = session.predict_features(features, SEED).stages_s
        seconds[name].append({stage: stages[stage] for stage in STAGES})
    whole = {name: statistics.median(sum(row.values()) for row in rows) for name, rows in seconds.items()}
    return {"seconds": seconds, "cost": whole["ordered"] / whole["unordered"] - 1}


@contextmanager
def summing(session: Session, *, ordered: bool) -> Iterator[None]:
    """Sum atoms in order for a while, or as Protenix does."""
    sums = OrderedSums(session.network) if ordered else None
    try:
        yield
    finally:
        if sums is not None:
            sums.remove()


@contextmanager
def switched(recorded: bool) -> Iterator[None]:
    """Allow the recorded denoising step, or not."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = str(int(recorded))
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


def digest(prediction: Prediction) -> str:
    """Return the digest of all that was predicted."""
    whole = hashlib.sha256()
    for name in OUTPUTS:
        whole.update(prediction.output[name].float().cpu().numpy().tobytes())
    return whole.hexdigest()


def read_digests(path: Path | None) -> dict[tuple[Any, ...], str]:
    """Read what another process has recorded."""
    if path is None:
        return {}
    record = read_json(path)
    if not isinstance(record, dict) or "bytes" not in record:
        raise UsageError(f"--against: {path} is no record of this script")
    return {key_of(row): row["sha256"] for row in record["bytes"]}


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return which measurement a row is."""
    return tuple(row[name] for name in ("tokens", "bias", "recorded", "ordered"))


def in_words(row: dict[str, Any]) -> str:
    """Say whether two runs were the same."""
    sums = "sums in order" if row["ordered"] else "Protenix's sums"
    step = ", recorded step" if row["recorded"] else ""
    same = "the same bytes" if row["same"] else "other bytes"
    other = {None: "", True: ", as in the other process", False: ", unlike the other process"}
    return (
        f"{row['tokens']} tokens, {row['bias']}{step}, {sums}: {same}{other[row['same_as_other_process']]} "
        f"(coordinates at most {row['largest_coordinate_difference']:.2g} A apart)"
    )


def cost_in_words(row: dict[str, Any]) -> str:
    """Say what ordered sums cost."""
    return f"{row['tokens']} tokens, {row['bias']}: {100 * row['cost']:+.2f} % of a whole prediction"


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="protenix_base_default_v1.0.0", help="or 'demo', with its weights")
    parser.add_argument("--tokens", type=sizes, default=(256, 1024), help="sizes, separated by commas")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--rounds", type=int, default=2, help="predictions timed each way; 0 times none")
    parser.add_argument("--steps", type=int, help="denoising steps; by default the model's own number")
    parser.add_argument("--cycles", type=int, help="recycling cycles; by default the model's own number")
    parser.add_argument(
        "--no-unordered",
        dest="unordered",
        action="store_false",
        help="compare no bytes of Protenix's own sums",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a record")
    parser.add_argument("--against", type=Path, metavar="FILE", help="a record of another process")
    return parser.parse_args()


def sizes(text: str) -> tuple[int, ...]:
    """Read numbers of tokens."""
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
