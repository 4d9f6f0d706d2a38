"""The table of the FlashBias poster: pTM, time and memory of stock, without bias, dense bias and FlashBias.

    python scripts/reproduce_table.py --model protenix_base_default_v1.0.0 [--out DIR]
    python scripts/reproduce_table.py --model demo [--out DIR] [--limit N] [--record FILE]
    python scripts/reproduce_table.py --page [--check]

The first form predicts 7wux and 7r6r, with their alignments, and compares them with experiment; it
takes the official weights of the model and a GPU. The second does the same for the domains that the
demonstration model was trained on, on any machine. Both are one run of `flashbias-fold compare`: DIR has its
page and numbers, and the same command goes on where it was stopped. The third form writes the tables of
docs/compare.md from the records in docs/compare.

exit status: 0 all compared, 1 some entries failed, 2 wrong input or arguments, 130 interrupted
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluate_demo import TRAINED, read_domains
from fidelity import Parser, exit_status, fill, markdown, settle

from flashbias_fold.bench import machine
from flashbias_fold.cli import signals
from flashbias_fold.compare.run import compare
from flashbias_fold.compare.settings import Settings
from flashbias_fold.files import write_atomic, write_json
from flashbias_fold.inputs import load_inputs
from flashbias_fold.predict.progress import Reporter
from flashbias_fold.predict.settings import Settings as Predictions
from flashbias_fold.protenix_adapter.components import open_components
from flashbias_fold.protenix_adapter.models import DEMO, find_model
from flashbias_fold.resources import resource

COMPLEXES = ("7wux", "7r6r")
METHODS = ("stock", "none", "dense", "flashbias")  # in the order of the poster
PAGE = Path(__file__).parents[1] / "docs" / "compare.md"
_PLACE = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_COLUMNS = (
    "method", "pTM", "time, s", "memory, GiB", "times as fast", "LDDT to stock", "to experiment", "verdict",
)  # fmt: skip
_GIB = 2**30
DRAWINGS = ("traces", "pae_maps")  # of an entry


def main(arguments: Sequence[str] | None = None) -> int:
    """Do as the arguments say; returns the exit status."""

    def work() -> int:
        options = _options(arguments)
        if options.page:
            return fill(PAGE, _PLACE, _page_part, options.check)
        return reproduce(options)

    return exit_status(work, "interrupted; the same command continues where it stopped")


def reproduce(options: argparse.Namespace) -> int:
    """Compare, and print the tables."""
    find_model(options.model)  # a wrong name leaves nothing behind
    out: Path = options.out or Path("preds", f"table-{options.model}")
    inputs, truth = _demo_inputs(out, options.limit) if options.model == DEMO else _complexes(out)
    settings = Settings(
        predictions=Predictions(
            input=inputs,
            out=out,
            model=options.model,
            device=options.device,
            dtype=options.dtype,
            samples=options.samples,
            overwrite=options.overwrite,
        ),
        methods=METHODS,
        truth=truth,
        repeats=options.repeats,
    )
    with Reporter() as reporter:
        result = compare(settings, reporter)
    if result.report is not None:
        record = record_of(result.report)
        if options.record:
            write_json(options.record, record)
        write_atomic(out / "table.md", tables(record))
        print(tables(record), end="")
    return result.exit_status


def _demo_inputs(out: Path, limit: int | None) -> tuple[Path, Path]:
    """The domains that the demonstration model knows, as FASTA, and where their structures are."""
    domains = read_domains(resource("data", "demo", "entries.csv"), TRAINED)
    domains = sorted(domains, key=lambda domain: len(domain.sequence))
    # Of all sizes, whatever the limit.
    kept = domains if limit is None else domains[:: -(-len(domains) // limit)]
    path = out / "inputs" / "domains.fasta"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(f">{domain.name}\n{domain.sequence}\n" for domain in kept))
    return path, resource("data", "truth")


def _complexes(out: Path) -> tuple[Path, Path]:
    """The two complexes in one file, with their alignments, and a folder with their structures."""
    documents, folder = [], out / "inputs"
    truth = folder / "truth"
    truth.mkdir(parents=True, exist_ok=True)
    for name in COMPLEXES:
        source = resource("data", "complexes", name)
        inputs = load_inputs(source / f"{name}.json", open_components())
        for rejected in inputs.rejected:
            raise rejected.error
        documents += [job.document for job in inputs.jobs]
        shutil.copyfile(source / f"{name}.cif.gz", truth / f"{name}.cif.gz")
    path = folder / "complexes.json"
    write_json(path, documents)
    return path, truth


# What is shown


def record_of(report: dict[str, Any]) -> dict[str, Any]:
    """What of a report is kept: everything but drawings and the layers of each entry, to six digits."""
    entries = [
        {key: value for key, value in entry.items() if key not in DRAWINGS}
        | {
            "results": [
                {key: value for key, value in result.items() if key != "layers"}
                for result in entry["results"]
            ]
        }
        for entry in report["entries"]
    ]
    return _rounded({**report, "entries": entries})


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def tables(record: dict[str, Any]) -> str:
    """A table over all entries; of few, one for each of them too."""
    parts = []
    if len(record["entries"]) <= len(COMPLEXES):
        for entry in record["entries"]:
            parts += [f"{entry['name']}, {entry['n_token']} tokens:", markdown(_entry_rows(record, entry))]
    if len(record["entries"]) > 1:
        parts += [f"{_counted(record)}, means:", markdown(_overall_rows(record))]
    return "\n\n".join([*parts, _made(record)]) + "\n"


def _counted(record: dict[str, Any]) -> str:
    sizes = [entry["n_token"] for entry in record["entries"]]
    return f"{len(sizes)} entries of {min(sizes)} to {max(sizes)} tokens"


def _entry_rows(record: dict[str, Any], entry: dict[str, Any]) -> list[list[str]]:
    """Without verdicts, which are of all entries."""
    found = []
    for result in entry["results"]:
        near = {f"lddt_ca_to_{to}": (result[f"to_{to}"] or {}).get("lddt_ca") for to in ("stock", "truth")}
        found.append((result["method"], {**result, **near}, ""))
    return [row[:-1] for row in _rows(record, found)]


def _overall_rows(record: dict[str, Any]) -> list[list[str]]:
    found = []
    for row in record["summary"]:
        if not row["measures"]:  # it failed everywhere
            continue
        means = {name: interval["mean"] for name, interval in row["measures"].items()}
        found.append((row["method"], means, row["verdict"] or ""))
    return _rows(record, found)


def _rows(record: dict[str, Any], found: Sequence[tuple[str, dict[str, Any], str]]) -> list[list[str]]:
    labels = {method["key"]: method["label"] for method in record["methods"]}
    stock = found[0][1]["wall_s"]
    rows = [list(_COLUMNS)]
    for key, values, verdict in found:
        near = [values.get(f"lddt_ca_to_{target}") for target in ("stock", "truth")]
        rows.append(
            [
                labels[key],
                f"{values['ptm']:.4f}",
                f"{values['wall_s']:.2f}",
                f"{values['peak_memory_bytes'] / _GIB:.2f}",
                f"{stock / values['wall_s']:.2f}",
                *("" if value is None else f"{value:.3f}" for value in near),
                verdict,
            ]
        )
    return rows


def _made(record: dict[str, Any]) -> str:
    """Where the numbers come from, and how sure they are."""
    made, ratio = record["provenance"], record["speed"]["wall_ratio"]
    commit, _, changed = (made["commit"] or "unknown").partition(" ")
    label = next(one["label"] for one in record["methods"] if one["key"] == record["speed"]["method"])
    return (
        f"{record['verdict']['headline']}. {record['verdict']['text']} Stock takes {ratio['mean']:.2f} times "
        f"as long as {label} ({ratio['low']:.2f} to {ratio['high']:.2f}).\n\n"
        f"{machine.place(made['machine'])}; torch {made['versions']['torch']}; "
        f"commit {commit[:12]}{changed and ' ' + changed}; "
        f"medians of {made['repeats']} after {made['warm_ups']} to warm up; "
        f"seeds {', '.join(map(str, made['seeds']))}."
    )


def _page_part(record: str) -> str:
    return tables(json.loads((PAGE.with_suffix("") / f"{record}.json").read_text()))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", metavar="NAME", help="which model, as for predict")
    add("--out", metavar="DIR", type=Path, help="folder for the results (default: preds/table-NAME)")
    add("--limit", metavar="N", type=int, help="of the demonstration model's domains at most so many")
    add("--repeats", metavar="N", type=int, default=2, help="how often each is timed (default: 2)")
    add("--samples", metavar="N", type=int, help="structures for each seed (default: 5)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where (default: a GPU if there)")
    add("--dtype", choices=("bf16", "fp32"), help="arithmetic on a GPU (default: bf16)")
    add("--overwrite", action="store_true", help="predict again what is complete")
    add("--record", metavar="FILE", type=Path, help="write what the tables are made of, without drawings")
    add("--page", action="store_true", help="write the tables of docs/compare.md from its records")
    add("--check", action="store_true", help="with --page: change nothing; exit 1 if it is not up to date")
    options = parser.parse_args(arguments)
    if options.check and not options.page:
        parser.error("--check: is for --page")
    if not options.page and not options.model:
        parser.error("--model: expected the name of a model, such as demo")
    if options.limit is not None and options.limit < 1:
        parser.error("--limit: expected a number of at least 1")
    if options.record and (options.record.is_dir() or not options.record.parent.is_dir()):
        parser.error(f"--record: {options.record} cannot be written: expected a file in a folder that exists")
    return options


if __name__ == "__main__":
    settle()
    signals.catch()
    sys.exit(main())
