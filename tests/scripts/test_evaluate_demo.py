"""The evaluation of the demonstration model: made-up predictions get the verdicts that they deserve."""

import csv
import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from biotite.structure.io import pdbx
from conftest import ROOT
from lengths import only_in_full

from flashbias_fold.accuracy import Accuracy, Geometry, read_structure
from flashbias_fold.cli.parser import parse
from flashbias_fold.inputs.fasta import read_records, split_records

sys.path.insert(0, str(ROOT / "scripts"))
import evaluate_demo
from evaluate_demo import CRITERIA, Domain, Result, Score, main, measure, print_verdicts, spread

SCRIPT = ROOT / "scripts" / "evaluate_demo.py"
TRUTH = ROOT / "data" / "truth"
SEQUENCES = {
    "1igdA00": "MTPAVTTYKLVINGKTLKGETTTKAVDAETAEKAFKQYANDNGVDGVWTYDDATKTFTVTE",
    "1hz6B00": "EEVTIKANLIFANGSTQTAEFKGTFEKATSEAYAYADTLKKDNGEWTVDVADKGYTLNIKFAG",
    "1g6xA00": "RPDFCLEPPYAGACRARIIRYFYNAKAGLCQTFVYGGCRAKRNNFKSAEDCLRTCGGA",
}
TRAINED, UNSEEN = ("1igdA00", "1hz6B00"), ("1g6xA00",)


# Made-up predictions


def noised(structure, sigma):
    noise = np.random.default_rng(3).normal(size=structure.coord.shape)
    copy = structure.copy()
    copy.coord = (structure.coord + sigma * noise).astype(np.float32)
    return copy


def scattered(structure):
    """Residues that are sane, each somewhere else."""
    copy = structure.copy()
    copy.coord += np.random.default_rng(3).normal(0, 6, size=(200, 3)).astype(np.float32)[structure.res_id]
    return copy


def mirrored(structure):
    copy = structure.copy()
    copy.coord[:, 2] *= -1
    return copy


GOOD = (lambda structure: structure, 0.9)
FAIR = (lambda structure: noised(structure, 0.02), 0.8)
BAD = (scattered, 0.3)


def write_job(folder, name, predictions, settings=None):
    """A job's folder as `predict` leaves it, of predictions as (change of the truth, pTM), worst first."""
    truth = read_structure(TRUTH / f"{name}.pdb.gz")
    samples = []
    for number, (change, ptm) in enumerate(predictions):
        cif = f"seed_101/predictions/{name}_sample_{number}.cif"
        path = folder / name / cif
        path.parent.mkdir(parents=True, exist_ok=True)
        file = pdbx.CIFFile()
        pdbx.set_structure(file, change(truth))
        file.write(path)
        samples.append({"seed": 101, "sample": number, "ptm": ptm, "ranking_score": number, "cif": cif})
    report = {
        "name": name,
        "samples": samples,
        "files": [sample["cif"] for sample in samples],
        "settings": settings or {},
    }
    (folder / name / "report.json").write_text(json.dumps(report))


@pytest.fixture
def lists(tmp_path):
    """The two tables of domains, as options."""
    options = []
    for option, names in (("--entries", TRAINED), ("--unseen", UNSEEN)):
        path = tmp_path / f"{option.strip('-')}.csv"
        rows = [f"{name},{len(SEQUENCES[name])},mixed,{SEQUENCES[name]},7\n" for name in names]
        path.write_text("name,length,fold,sequence,seen\n" + "".join(rows))
        options += [option, path]
    return options


class Predictor:
    """Stands in for the command line: predicts each domain as it was told."""

    def __init__(self):
        self.exact = {"1igdA00": GOOD, "1hz6B00": FAIR, "1g6xA00": BAD}
        self.no_bias = {"1igdA00": BAD, "1hz6B00": BAD}
        self.settings = {}
        self.calls = []

    def __call__(self, domains, bias, out):
        names = [domain.name for domain in domains]
        self.calls.append((bias, out.name, names))
        made = {**evaluate_demo.expected_settings(bias), **self.settings}
        for name in names:
            chosen = (self.exact if bias == "dense" else self.no_bias)[name]
            write_job(out, name, [(mirrored, 0.99), chosen], made)  # the best is the last


@pytest.fixture
def predictor(monkeypatch):
    stand_in = Predictor()
    monkeypatch.setattr(evaluate_demo, "run_predict", stand_in)
    return stand_in


@pytest.fixture
def evaluate(tmp_path, lists, predictor, capsys):
    """Run the script on what the stand-in predicts; the exit status, the lines printed, the errors."""

    def run(*options):
        status = main([str(option) for option in (*lists, "--out", tmp_path / "preds", *options)])
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err

    return run


def verdicts(lines):
    """The verdicts printed, by what was looked at."""
    found = [line.split(maxsplit=2) for line in lines if line[:3] in ("a  ", "b  ", "c  ", "d  ")]
    assert len(found) == len(CRITERIA)
    return {criterion.number: verdict for criterion, (_, verdict, _) in zip(CRITERIA, found, strict=True)}


def failing(lines):
    return {number for number, verdict in verdicts(lines).items() if verdict == "FAIL"}


# The whole evaluation


def test_a_model_that_knows_what_it_learnt_passes(evaluate, predictor):
    status, lines, errors = evaluate()
    assert status == 0, lines
    assert set(verdicts(lines).values()) == {"PASS"}
    assert not errors
    assert predictor.calls == [
        ("dense", "preds", [*TRAINED, *UNSEEN]),
        ("none", "preds_without_bias", list(TRAINED)),
    ]


def test_each_domain_has_a_line(evaluate):
    _, (head, *lines), _ = evaluate()
    assert head.split() == [
        "domain",
        "set",
        "length",
        "LDDT",
        "without",
        "bias",
        "TM",
        "pTM",
        "D-residues",
        "bonds",
    ]
    first, second, third = (line.split() for line in lines[:3])
    assert first[:4] == ["1igdA00", "trained", "61", "1.000"]
    assert first[5:] == ["1.000", "0.900", "0", "100.0%"]
    assert second[:3] == ["1hz6B00", "trained", "63"]
    assert third[:3] == ["1g6xA00", "unseen", "58"]
    assert third[4] == "-"  # the unseen are not predicted without the bias
    assert len({len(line) for line in [head, *lines[:3]]}) == 1


@pytest.mark.parametrize(
    ("exact", "no_bias", "expected"),
    [
        ({"1igdA00": BAD, "1hz6B00": BAD}, {}, {"lddt", "tm", "spearman", "ptm_gap", "bias_gain", "bonds"}),
        ({"1igdA00": (mirrored, 0.65)}, {}, {"tm"}),
        ({"1igdA00": (mirrored, 0.9)}, {}, {"tm", "spearman", "mirrored"}),
        ({"1g6xA00": (mirrored, 0.75)}, {}, {"ptm_gap", "mirrored"}),
        ({"1g6xA00": (scattered, 0.95)}, {}, {"spearman", "ptm_gap"}),
        ({"1igdA00": (lambda structure: noised(structure, 0.15), 0.9)}, {}, {"spearman", "bonds"}),
        ({}, {"1igdA00": GOOD, "1hz6B00": FAIR}, {"bias_gain"}),
    ],
    ids=[
        "bad",
        "mirrored but unsure",
        "mirrored",
        "unseen mirrored",
        "too sure",
        "bent bonds",
        "bias unused",
    ],
)
def test_a_model_fails_by_what_is_wrong_with_it(evaluate, predictor, exact, no_bias, expected):
    predictor.exact.update(exact)
    predictor.no_bias.update(no_bias)
    status, lines, _ = evaluate()
    assert failing(lines) == expected
    assert status == 1


def test_without_the_ablation_it_is_not_judged(evaluate, predictor):
    status, lines, _ = evaluate("--skip-ablation")
    assert status == 0
    assert verdicts(lines)["bias_gain"] == "----"
    assert [call[0] for call in predictor.calls] == ["dense"]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--names", "1hz6B00,1g6xA00"), ["1hz6B00", "1g6xA00"]),
        (("--names", "1g6xA00"), ["1g6xA00"]),
        (("--sample", "1"), ["1igdA00", "1g6xA00"]),
        (("--sample", "99"), [*TRAINED, *UNSEEN]),
    ],
)
def test_some_of_the_domains(evaluate, predictor, options, names):
    status, lines, _ = evaluate(*options)
    assert predictor.calls[0][2] == names
    assert [line.split()[0] for line in lines[1 : 1 + len(names)]] == names
    assert status == (1 if "FAIL" in verdicts(lines).values() else 0)


def test_what_only_unseen_domains_cannot_tell_is_not_judged(evaluate, predictor):
    status, lines, _ = evaluate("--names", "1g6xA00")
    assert status == 0
    assert {number for number, verdict in verdicts(lines).items() if verdict != "----"} == {"mirrored"}
    assert len(predictor.calls) == 1


def test_a_margin_forgives_scores_and_not_geometry(evaluate, predictor):
    predictor.exact["1g6xA00"] = (mirrored, 0.75)
    assert failing(evaluate()[1]) == {"ptm_gap", "mirrored"}
    status, lines, _ = evaluate("--margin", "0.15")
    assert failing(lines) == {"mirrored"}
    assert status == 1
    assert "(at least 0.65)" in lines[-7]
    assert "(at least 0.98)" in lines[-1]


def test_the_lists_are_written_with_what_was_measured(evaluate, tmp_path):
    (tmp_path / "lists").mkdir()
    evaluate("--tables", tmp_path / "lists")
    trained, unseen = (
        list(csv.DictReader((tmp_path / "lists" / name).open())) for name in ("entries.csv", "unseen.csv")
    )
    assert list(trained[0])[:7] == ["name", "length", "fold", "sequence", "lddt", "tm", "ptm"]
    assert [(row["name"], row["length"], row["sequence"]) for row in trained] == [
        (name, str(len(SEQUENCES[name])), SEQUENCES[name]) for name in TRAINED
    ]
    assert [row["name"] for row in unseen] == list(UNSEEN)
    assert [float(trained[0][key]) for key in ("lddt", "tm", "ptm", "rmsd", "d_amino_acids")] == [
        1,
        1,
        0.9,
        0,
        0,
    ]
    assert float(trained[0]["lddt_without_bias"]) < 0.5
    assert unseen[0]["lddt_without_bias"] == ""


def test_predictions_made_otherwise_are_not_scored(evaluate, predictor):
    predictor.settings = {"weights": "sha256 0", "steps": 1}
    status, lines, errors = evaluate()
    assert status == 2
    assert not lines
    assert errors.count("\n") == 1
    assert "1igdA00: made with other weights, steps" in errors


def test_a_job_that_is_not_complete_is_named(evaluate, monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate_demo, "run_predict", lambda *_: None)
    status, _, errors = evaluate()
    assert status == 2
    assert errors == f"error: {tmp_path / 'preds' / '1igdA00'}: expected a complete prediction\n"


# What is run


@pytest.fixture
def commands(monkeypatch):
    """The commands that would be run, each ending with status 0."""
    seen = []

    def run(command, **kwargs):
        seen.append(command)
        assert "stderr" not in kwargs  # its progress is for the user
        return subprocess.CompletedProcess(command, commands_status[0])

    commands_status = [0]
    monkeypatch.setattr(evaluate_demo.subprocess, "run", run)
    return seen, commands_status


def test_the_real_command_line_predicts_the_sequences(commands, tmp_path):
    domains = [Domain(name, "mixed", sequence, "trained") for name, sequence in SEQUENCES.items()]
    evaluate_demo.run_predict(domains, "dense", tmp_path / "some" / "preds")
    ((python, dash_m, module, *arguments),) = commands[0]
    assert (python, dash_m, module) == (sys.executable, "-m", "flashbias_fold")
    options = parse(arguments)
    assert (options.command, options.model, options.bias) == ("predict", "demo", "dense")
    assert (options.seeds, options.samples, options.out) == ((101,), 5, tmp_path / "some" / "preds")
    records = list(read_records(options.input, split_records(options.input)))
    assert [record.name for record in records] == list(SEQUENCES)
    found = [record.document["sequences"][0]["proteinChain"]["sequence"] for record in records]
    assert found == list(SEQUENCES.values())


@pytest.mark.parametrize(("ended", "status"), [(1, 1), (2, 1), (-9, 1), (130, 130)])
def test_a_prediction_that_failed_ends_the_evaluation(commands, lists, tmp_path, capsys, ended, status):
    commands[1][0] = ended
    assert main([str(option) for option in (*lists, "--out", tmp_path / "preds")]) == status
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.splitlines()[-1].startswith(("error: flashbias-fold predict failed", "interrupted"))


# The criteria by themselves


def result(name, role, *, ptm=0.9, lddt=0.9, tm=0.9, without=0.5, mirrored=0, bonds=(100, 100)):
    geometry = Geometry(("ALA 1",) * mirrored, bonds[1], bonds[0])
    score = Score(ptm, Accuracy(lddt, lddt, tm, 1.0, 60), geometry)
    worse = dataclasses.replace(score, accuracy=Accuracy(without, without, tm, 1.0, 60))
    return Result(Domain(name, "mixed", "A" * 60, role), score, worse if role == "trained" else None)


def results(trained=(), unseen=()):
    """Three trained and three unseen domains that meet every criterion, changed."""
    usual = {"trained": (0.9, 0.9, trained), "unseen": (0.3, 0.2, unseen)}
    return [
        result(f"{role} {i}", role, **{"ptm": ptm + i / 100, "tm": tm + i / 100, **dict(changes)})
        for role, (ptm, tm, changes) in usual.items()
        for i in range(3)
    ]


@pytest.mark.parametrize(
    ("number", "enough", "too_little"),
    [
        ("lddt", {"trained": {"lddt": 0.801}}, {"trained": {"lddt": 0.799}}),
        ("tm", {"trained": {"tm": 0.701}}, {"trained": {"tm": 0.699}}),
        ("spearman", {}, {"unseen": {"tm": 0.95}}),
        ("ptm_gap", {"unseen": {"ptm": 0.709}}, {"unseen": {"ptm": 0.711}}),
        ("bias_gain", {"trained": {"without": 0.799}}, {"trained": {"without": 0.801}}),
        ("mirrored", {"trained": {"ptm": 0.7, "mirrored": 1}}, {"trained": {"ptm": 0.701, "mirrored": 1}}),
        ("mirrored", {"unseen": {"ptm": 0.7, "mirrored": 1}}, {"unseen": {"ptm": 0.701, "mirrored": 1}}),
        ("bonds", {"trained": {"bonds": (981, 1000)}}, {"trained": {"bonds": (979, 1000)}}),
        ("bonds", {"unseen": {"bonds": (0, 1000)}}, {"trained": {"bonds": (0, 0)}}),
    ],
)
def test_each_criterion_has_its_limit(capsys, number, enough, too_little):
    for change, expected in ((enough, "PASS"), (too_little, "FAIL")):
        print_verdicts(measure(results(**change)), 0)
        assert verdicts(capsys.readouterr().out.splitlines())[number] == expected


def test_all_criteria_together_decide(capsys):
    assert print_verdicts(measure(results()), 0) is True
    assert print_verdicts(measure(results(trained={"lddt": 0.5, "without": 0})), 0) is False
    assert failing(capsys.readouterr().out.splitlines()[-len(CRITERIA) :]) == {"lddt"}


def test_a_model_that_says_the_same_of_all_has_no_correlation(capsys):
    same = {"ptm": 0.5}
    assert print_verdicts(measure(results(trained=same, unseen=same)), 0) is False
    assert failing(capsys.readouterr().out.splitlines()) == {"spearman", "ptm_gap"}


def test_a_sample_is_spread_evenly():
    domains = [Domain(f"d{number}", "mixed", "A", "trained") for number in range(48)]
    for n in (1, 2, 7, 47, 48, 50):
        numbers = [domains.index(domain) for domain in spread(domains, n)]
        assert len(set(numbers)) == min(n, 48)
        assert set(np.diff(numbers)) <= {48 // min(n, 48), 48 // min(n, 48) + 1}


# Scoring a folder


def test_predictions_whose_truth_is_known_are_scored(tmp_path, capsys):
    out = tmp_path / "preds"
    for name, prediction in (("1igdA00", GOOD), ("1hz6B00", BAD)):
        write_job(out, name, [prediction])
    truth = tmp_path / "truth"
    truth.mkdir()
    (truth / "1igdA00.pdb.gz").symlink_to(TRUTH / "1igdA00.pdb.gz")
    assert main(["--score", str(out), "--truth", str(truth)]) == 0
    assert capsys.readouterr().out == (
        "1igdA00: C-alpha LDDT 1.00, TM-score 1.00 to the experimental structure (pTM 0.90)\n"
    )


def test_another_protein_of_the_same_name_does_not_stop_the_others(tmp_path, capsys):
    write_job(tmp_path, "1g6xA00", [BAD])
    (tmp_path / "1g6xA00").rename(tmp_path / "1hz6B00")
    write_job(tmp_path, "1igdA00", [GOOD])
    assert main(["--score", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("1igdA00: ")
    assert printed.out.count("\n") == printed.err.count("\n") == 1
    assert "1hz6B00" in printed.err
    assert "of one protein" in printed.err


def test_a_folder_without_known_structures_says_so(tmp_path, capsys):
    write_job(tmp_path, "1igdA00", [GOOD])
    assert main(["--score", str(tmp_path), "--truth", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert not printed.out
    assert "none of the predictions" in printed.err


@pytest.mark.parametrize("spoil", ["cif", "report", "foreign"])
def test_a_prediction_that_cannot_be_read_is_named(tmp_path, capsys, spoil):
    write_job(tmp_path, "1igdA00", [GOOD])
    report = tmp_path / "1igdA00" / "report.json"
    if spoil == "cif":
        next(tmp_path.glob("*/*/*/*.cif")).write_text("data_half\nloop_\n_atom_site.id\n")
    elif spoil == "report":
        report.write_text(report.read_text()[:100])
    else:
        report.write_text(json.dumps({"files": ["report.json"], "samples": []}))
    assert main(["--score", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.startswith(f"error: {tmp_path / '1igdA00'}")
    assert printed.err.count("\n") == 1


def test_the_script_runs_by_itself(tmp_path):
    write_job(tmp_path, "1igdA00", [GOOD])
    done = subprocess.run(
        [sys.executable, SCRIPT, "--score", tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("1igdA00: C-alpha LDDT 1.00")
    assert not done.stderr


@only_in_full
def test_the_weights_that_ship_do_what_the_page_says(tmp_path):
    """Predicted and compared for real, on some of the smallest: of each fold a known and an unseen one."""
    names = "1fs1A00,2v1qA00,1tgrA00,1t6oA00,2k57A00,1mynA00"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--out", tmp_path / "preds", "--names", names, "--margin", "0.1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = {line[9:]: line[3:7] for line in done.stdout.splitlines() if line[1:3] == "  "}
    assert len(verdicts) == len(CRITERIA)
    assert set(verdicts.values()) == {"PASS"}


# Bad usage


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sample", "0"], "--sample"),
        (["--sample", "few"], "--sample"),
        (["--names", "1abcA00"], "1abcA00"),
        (["--names", "1igdA00", "--sample", "1"], "not allowed with"),
        (["--margin", "-1"], "--margin"),
        (["--margin", "much"], "--margin"),
        (["--tables", "no/such/folder"], "--tables"),
        (["--score", "no/such/folder"], "--score"),
        (["--truth", "no/such/folder"], "1igdA00, 1hz6B00, 1g6xA00"),
        (["--entries", "no/such/file.csv"], "no/such/file.csv"),
        (["--nonsense"], "--nonsense"),
        (["--skip"], "--skip"),
        (["something"], "something"),
    ],
)
def test_bad_usage_is_one_line_and_predicts_nothing(evaluate, predictor, options, said):
    status, lines, errors = evaluate(*options)
    assert status == 2
    assert not lines
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert said in errors
    assert not predictor.calls


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "found none"),
        (b"name,length,fold,sequence\n", "found none"),
        (b"name,length\n1igdA00,61\n", "column 'fold'"),
        (bytes(range(256)), "expected a table as CSV"),
        (f"name,fold,sequence\n1igdA00,mixed,{SEQUENCES['1igdA00']}\n".encode(), "1igdA00"),
    ],
)
def test_a_bad_list_of_domains_is_named(evaluate, predictor, tmp_path, content, said):
    path = tmp_path / "unseen.csv"
    path.write_bytes(content)
    status, _, errors = evaluate()
    assert status == 2
    assert errors.startswith(f"error: {path}: expected ")
    assert errors.count("\n") == 1
    assert said in errors
    assert not predictor.calls


def test_an_output_folder_that_cannot_be_is_named(commands, lists, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([str(option) for option in (*lists, "--out", tmp_path / "file")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'file'}: File exists\n"
