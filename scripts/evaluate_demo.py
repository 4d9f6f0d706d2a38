"""How good the demonstration model is: predict domains whose structure is known, and compare.

    python scripts/evaluate_demo.py [--out DIR] [--names A,B,... | --sample N] [--tables DIR]
    python scripts/evaluate_demo.py --score DIR

The first form predicts the domains that the model was trained on and others that it has never seen, with the
weights that ship, then the trained ones again without the pair bias of triangle attention (into
DIR_without_bias). Predictions that are complete are not made again. It prints a line for each domain and what
the model has to fulfil. The second form only scores the predictions in a folder, those of jobs named after a
structure that is known.

exit status: 0 all is fulfilled, 1 something is not, 2 wrong input or arguments, 130 interrupted
"""

from __future__ import annotations

import argparse
import csv
import io
import subprocess
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NoReturn

from flashbias_fold.accuracy import Accuracy, Geometry, accuracy, geometry, read_structure
from flashbias_fold.errors import FlashbiasError, InputError, JobError, UsageError
from flashbias_fold.files import write_atomic
from flashbias_fold.predict.folder import REPORT, JobFolder
from flashbias_fold.protenix_adapter.models import DEMO, build_config, find_model
from flashbias_fold.resources import resource


@dataclass(frozen=True)
class Criterion:
    """Something that the model has to fulfil.

    Attributes:
        point: The letter that it is known by; several criteria may make one point.
        number: What `measure` calls the number that it looks at.
        text: The same in words.
        limit: What the number must reach, or where `at_most`, not exceed.
        has_margin: Whether a sample of the domains may miss it by a margin.
    """

    point: str
    number: str
    text: str
    limit: float
    at_most: bool = False
    has_margin: bool = True


SURE = 0.7  # a pTM over this promises a structure that can be looked at
CRITERIA = (
    Criterion("a", "lddt", "mean C-alpha LDDT of the trained domains", 0.80),
    Criterion("a", "tm", "mean TM-score of the trained domains", 0.70),
    Criterion("b", "spearman", "rank correlation of pTM and TM-score", 0.60),
    Criterion("b", "ptm_gap", "mean pTM of the trained domains less that of the unseen", 0.20),
    Criterion("c", "bias_gain", "mean C-alpha LDDT of the trained domains lost without the bias", 0.10),
    Criterion("d", "mirrored", f"D-amino acids where pTM is over {SURE}", 0, at_most=True, has_margin=False),
    Criterion("d", "bonds", "backbone bonds of the trained domains within 0.1 A", 0.98, has_margin=False),
)

SEED, SAMPLES = 101, 5
EXACT, NO_BIAS = "dense", "none"
TRAINED, UNSEEN = "trained", "unseen"
TABLES = {TRAINED: "entries.csv", UNSEEN: "unseen.csv"}
FAILED, WRONG, INTERRUPTED = 1, 2, 130
SUFFIX = ".pdb.gz"
FIRST_CHAIN = "A00"  # what CATH adds to the name of an entry


@dataclass(frozen=True)
class Domain:
    """A domain of known structure, and whether the model was trained on it."""

    name: str
    fold: str
    sequence: str
    role: str


@dataclass(frozen=True)
class Score:
    """What the best sample of a prediction is worth."""

    ptm: float
    accuracy: Accuracy
    geometry: Geometry


@dataclass(frozen=True)
class Result:
    """A domain and its prediction, with and (where it was made) without the bias."""

    domain: Domain
    score: Score
    without_bias: Score | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate as the arguments say; returns the exit status."""
    try:
        options = _options(arguments)
        return score_folder(options.score, options.truth) if options.score else evaluate(options)
    except FlashbiasError as error:
        _complain(f"error: {error}")
        return FAILED if isinstance(error, JobError) else WRONG
    except OSError as error:
        _complain(f"error: {error.filename or 'input or output'}: {error.strerror or error}")
        return WRONG
    except KeyboardInterrupt:
        _complain("interrupted; the same command continues where it stopped")
        return INTERRUPTED


def evaluate(options: argparse.Namespace) -> int:
    """Predict, compare, print; returns 0 if every criterion is met."""
    domains = chosen(options)
    _require_truths(domains, options.truth)
    trained = [domain for domain in domains if domain.role == TRAINED]
    scores = predict_and_score(domains, EXACT, options.out, options.truth)
    without_bias: dict[str, Score] = {}
    if trained and not options.skip_ablation:
        out = options.out.resolve()  # the name of "." is none
        out = out.with_name(f"{out.name}_without_bias")
        without_bias = predict_and_score(trained, NO_BIAS, out, options.truth)
    results = [Result(domain, scores[domain.name], without_bias.get(domain.name)) for domain in domains]
    print(table(results), end="\n\n")
    if options.tables:
        write_tables(options.tables, results)
    return 0 if print_verdicts(measure(results), options.margin) else FAILED


def score_folder(folder: Path, truth: Path) -> int:
    """Print a line for each prediction in a folder whose true structure is known."""
    jobs = sorted(path.parent for path in folder.glob(f"*/{REPORT}"))
    if not jobs:
        raise UsageError(f"--score: expected a folder with predictions, found none in {folder}")
    known = [job for job in jobs if _truth_path(job.name, truth).is_file()]
    if not known:
        _complain(f"none of the predictions in {folder} has an experimental structure in {truth}")
    status = 0
    for job in known:
        try:
            score = score_job(job, truth)
        except InputError as error:  # somebody else's protein of the same name, say
            _complain(f"error: {error}")
            status = FAILED
            continue
        print(
            f"{job.name}: C-alpha LDDT {score.accuracy.lddt:.2f}, TM-score {score.accuracy.tm_score:.2f} "
            f"to the experimental structure (pTM {score.ptm:.2f})"
        )
    return status


def chosen(options: argparse.Namespace) -> list[Domain]:
    """The domains to evaluate, trained ones first."""
    trained = read_domains(options.entries, TRAINED)
    unseen = read_domains(options.unseen, UNSEEN)
    both = {domain.name for domain in trained} & {domain.name for domain in unseen}
    if both:
        raise InputError(
            f"expected domains that are not in {options.entries} too: {', '.join(sorted(both))}",
            file=options.unseen,
        )
    if options.sample is not None:
        return [*spread(trained, options.sample), *spread(unseen, options.sample)]
    if options.names is None:
        return [*trained, *unseen]
    unknown = set(options.names) - {domain.name for domain in (*trained, *unseen)}
    if unknown:
        raise UsageError(f"--names: no such domain: {', '.join(sorted(unknown))}")
    return [domain for domain in (*trained, *unseen) if domain.name in options.names]


def read_domains(path: Path, role: str) -> list[Domain]:
    """The domains that a table lists."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text())))
        domains = [Domain(row["name"], row["fold"], row["sequence"], role) for row in rows]
    except KeyError as error:
        raise InputError(f"expected a column {error}", file=path) from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"expected a table as CSV: {error}", file=path) from error
    if not domains:
        raise InputError("expected a table of domains, found none", file=path)
    return domains


def spread(domains: Sequence[Domain], n: int) -> list[Domain]:
    """Some of the domains, evenly over the list."""
    n = min(n, len(domains))
    return [domains[index * len(domains) // n] for index in range(n)]


def predict_and_score(domains: Sequence[Domain], bias: str, out: Path, truth: Path) -> dict[str, Score]:
    """Predict what is not complete in `out`, and score all by name."""
    run_predict(domains, bias, out)
    expected = expected_settings(bias)
    return {domain.name: score_job(out / domain.name, truth, expected) for domain in domains}


def run_predict(domains: Iterable[Domain], bias: str, out: Path) -> None:
    """Run the command line as users do; it says on standard error how far it is."""
    out.mkdir(parents=True, exist_ok=True)
    fasta = out / "domains.fasta"
    fasta.write_text("".join(f">{domain.name}\n{domain.sequence}\n" for domain in domains))
    command = [sys.executable, "-m", "flashbias_fold", "predict", str(fasta), "--out", str(out)]
    command += ["--model", DEMO, "--bias", bias, "--seeds", str(SEED), "--samples", str(SAMPLES)]
    _complain(f"predicting into {out} with bias {bias}")
    status = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise JobError(f"flashbias-fold predict failed with exit status {status}")


def expected_settings(bias: str) -> dict[str, Any]:
    """What results have to be made with: complete ones are kept, whatever they were made with."""
    model = find_model(DEMO)
    config = build_config(model)
    return {
        "model": model.name,
        "weights": model.weights,
        "bias": bias,
        "samples": SAMPLES,
        "steps": int(config.sample_diffusion.N_step),
        "cycles": int(config.model.N_cycle),
    }


def score_job(job: Path, truth: Path, expected: dict[str, Any] | None = None) -> Score:
    """Compare the best sample of a job with the experimental structure of its name."""
    report = JobFolder(job).report()
    if report is None:
        raise InputError("expected a complete prediction", file=job)
    try:
        made = report["settings"]
        best = max(report["samples"], key=lambda sample: sample["ranking_score"])
        ptm, cif = float(best["ptm"]), job / best["cif"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"expected a report of flashbias-fold predict: {error}", file=job / REPORT
        ) from error
    other = [key for key, value in (expected or {}).items() if made.get(key) != value]
    if other:
        raise InputError(f"made with other {', '.join(other)}; remove it or choose another --out", file=job)
    model = read_structure(cif)
    try:
        return Score(ptm, accuracy(model, read_structure(_truth_path(job.name, truth))), geometry(model))
    except InputError as error:
        raise InputError(error.message, file=error.file or cif) from error


def measure(results: Sequence[Result]) -> dict[str, float | None]:
    """The numbers that the criteria look at; None where there are no predictions to tell."""
    trained = [result for result in results if result.domain.role == TRAINED]
    unseen = [result for result in results if result.domain.role == UNSEEN]
    both = bool(trained and unseen)
    lost = [
        result.score.accuracy.lddt - result.without_bias.accuracy.lddt
        for result in trained
        if result.without_bias is not None
    ]
    sure = [result for result in results if result.score.ptm > SURE]
    return {
        "lddt": _mean(result.score.accuracy.lddt for result in trained),
        "tm": _mean(result.score.accuracy.tm_score for result in trained),
        "spearman": _rank_correlation(results) if both else None,
        "ptm_gap": _mean_ptm(trained) - _mean_ptm(unseen) if both else None,
        "bias_gain": _mean(lost),
        "mirrored": sum(len(result.score.geometry.d_amino_acids) for result in sure),
        "bonds": _bond_share([result.score.geometry for result in trained]) if trained else None,
    }


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return fmean(numbers) if numbers else None


def _mean_ptm(results: Iterable[Result]) -> float:
    return fmean(result.score.ptm for result in results)


def _rank_correlation(results: Sequence[Result]) -> float:
    from scipy.stats import spearmanr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where all values are equal it is not a number, which will not do
        found = spearmanr(
            [result.score.ptm for result in results],
            [result.score.accuracy.tm_score for result in results],
        )
    return float(found.statistic)


def _bond_share(geometries: Sequence[Geometry]) -> float:
    bonds = sum(geometry.backbone_bonds for geometry in geometries)
    return sum(geometry.bonds_within for geometry in geometries) / bonds if bonds else 0.0


def print_verdicts(measured: dict[str, float | None], margin: float) -> bool:
    """Print each criterion, what was measured and whether that will do; returns whether all does."""
    fulfilled = True
    for criterion in CRITERIA:
        limit = criterion.limit - (margin if criterion.has_margin else 0)
        bound = f"at {'most' if criterion.at_most else 'least'} {limit:g}"
        value = measured[criterion.number]
        if value is None:
            print(f"{criterion.point}  ----  {criterion.text}: not judged ({bound})")
            continue
        met = value <= limit if criterion.at_most else value >= limit
        print(f"{criterion.point}  {'PASS' if met else 'FAIL'}  {criterion.text}: {value:.4g} ({bound})")
        fulfilled &= met
    return fulfilled


def table(results: Sequence[Result]) -> str:
    """A line for each domain, in aligned columns."""
    head = ("domain", "set", "length", "LDDT", "without bias", "TM", "pTM", "D-residues", "bonds")
    rows = [head, *(_cells(result) for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, role, *numbers in rows:
        aligned = [text.rjust(width) for text, width in zip(numbers, widths[2:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), role.ljust(widths[1]), *aligned]))
    return "\n".join(lines)


def _cells(result: Result) -> tuple[str, ...]:
    score, without = result.score, result.without_bias
    return (
        result.domain.name,
        result.domain.role,
        str(len(result.domain.sequence)),
        f"{score.accuracy.lddt:.3f}",
        f"{without.accuracy.lddt:.3f}" if without else "-",
        f"{score.accuracy.tm_score:.3f}",
        f"{score.ptm:.3f}",
        str(len(score.geometry.d_amino_acids)),
        f"{score.geometry.bond_share:.1%}",
    )


def write_tables(folder: Path, results: Sequence[Result]) -> None:
    """Write the lists of domains with what was measured, the trained ones and the unseen into a file each."""
    for role, table_name in TABLES.items():
        rows = [_record(result) for result in results if result.domain.role == role]
        if rows:
            text = io.StringIO()
            writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            write_atomic(folder / table_name, text.getvalue())


def _record(result: Result) -> dict[str, Any]:
    score, without = result.score, result.without_bias
    return {
        "name": result.domain.name,
        "length": len(result.domain.sequence),
        "fold": result.domain.fold,
        "sequence": result.domain.sequence,
        "lddt": round(score.accuracy.lddt, 4),
        "tm": round(score.accuracy.tm_score, 4),
        "ptm": round(score.ptm, 4),
        "lddt_without_bias": round(without.accuracy.lddt, 4) if without else "",
        "tm_without_bias": round(without.accuracy.tm_score, 4) if without else "",
        "lddt_all": round(score.accuracy.lddt_all, 4),
        "rmsd": round(score.accuracy.rmsd, 3),
        "d_amino_acids": len(score.geometry.d_amino_acids),
        "bond_share": round(score.geometry.bond_share, 4),
    }


def _truth_path(name: str, folder: Path) -> Path:
    """By the name of the job; of a complex by CATH's name of its first protein, which is what is scored."""
    whole = folder / f"{name}{SUFFIX}"
    return whole if whole.is_file() else folder / f"{name}{FIRST_CHAIN}{SUFFIX}"


def _require_truths(domains: Iterable[Domain], folder: Path) -> None:
    """Better now than after hours of prediction."""
    missing = [domain.name for domain in domains if not _truth_path(domain.name, folder).is_file()]
    if missing:
        raise InputError(f"expected the structures of {', '.join(missing)}, found none", file=folder)


def _complain(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    """One line for an error."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--score", metavar="DIR", type=Path, help="only score the predictions in this folder")
    which.add_argument("--names", metavar="A,B,...", type=_names, help="these domains (default: all)")
    which.add_argument("--sample", metavar="N", type=_count, help="N of each list, spread evenly over it")
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("preds", "evaluate_demo"),
        help="folder for the predictions (default: %(default)s)",
    )
    parser.add_argument(
        "--margin",
        metavar="X",
        type=_margin,
        default=0.0,
        help="by how much scores and correlations may miss what all domains have to reach (default: 0)",
    )
    parser.add_argument(
        "--tables",
        metavar="DIR",
        type=Path,
        help=f"write what was measured here, as {' and '.join(TABLES.values())}",
    )
    parser.add_argument("--skip-ablation", action="store_true", help="do not predict without the bias")
    lists, truth = resource("data", "demo"), resource("data", "truth")
    for option, default, meaning in (
        ("--entries", lists / TABLES[TRAINED], "table of the domains that the model was trained on"),
        ("--unseen", lists / TABLES[UNSEEN], "table of domains that it has never seen"),
        ("--truth", truth, f"folder with the experimental structures, NAME{SUFFIX}"),
    ):
        parser.add_argument(
            option, metavar="PATH", type=Path, default=default, help=f"{meaning} (default: %(default)s)"
        )
    options = parser.parse_args(arguments)
    if options.tables and not options.tables.is_dir():
        raise UsageError(f"--tables: there is no folder {options.tables}")
    return options


def _names(text: str) -> set[str]:
    return set(text.split(","))


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got '{text}'")
    return number


def _margin(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got '{text}'")
    return number


if __name__ == "__main__":
    sys.exit(main())
