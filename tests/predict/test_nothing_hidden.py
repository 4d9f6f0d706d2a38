"""What a user must not overlook: structures that cannot be, runs cut short, what the model does not use."""

import csv
import json

import pytest
from command_line import TINY, call, errors_in, report_of, run, write_jobs
from conftest import SEQUENCE, protein

# The shortest domain that the demonstration model knows.
KNOWN = "WDSLPDELLLGIFSCLCLPELLKVSGVCKRWYRLASDESLW"
UNFINISHED = [
    "--steps 2: the model's own number is 20; structures may be unfinished",
    "--cycles 1: the model's own number is 4; structures may be unfinished",
]


def pair(strand="ACGUACGU", **fields):
    """A job that asks for much that the demonstration model does not use."""
    alignment = f">q\n{strand}\n>r\n{strand}\n"
    entities = [
        {"proteinChain": {"sequence": SEQUENCE[:8], "count": 2, **fields}},
        {"rnaSequence": {"sequence": strand, "unpairedMsa": alignment, "count": 1}},
    ]
    contact = {"entity1": 1, "copy1": 1, "position1": 1, "entity2": 1, "copy2": 2, "position2": 3}
    constraint = {"contact": [{**contact, "max_distance": 8}, {**contact, "position1": 2, "max_distance": 8}]}
    return {"name": "pair", "sequences": entities, "constraint": constraint}


@pytest.fixture(scope="module")
def cut_short(tmp_path_factory):
    """Two steps and one cycle, by which no structure can come about."""
    folder = tmp_path_factory.mktemp("cut")
    (folder / "hits.a3m").write_text(f">q\n{SEQUENCE[:8]}\n")
    jobs = write_jobs(folder / "jobs.json", protein("mono", SEQUENCE[:9]), pair(templatesPath="hits.a3m"))
    return run("predict", jobs, "--out", folder / "out", *TINY, check=0), folder / "out"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """All steps and cycles, of a domain that the model knows."""
    folder = tmp_path_factory.mktemp("finished")
    jobs = write_jobs(folder / "jobs.json", protein("known", KNOWN))
    options = ("--model", "demo", "--samples", "1")
    return call("predict", jobs, "--out", folder / "out", *options, check=0), folder / "out"


def test_nonsense_is_said_to_be_nonsense(cut_short):
    done, out = cut_short
    for name in ("mono", "pair"):
        (sample,) = report_of(out, name)["samples"]
        assert sample["plausible"] is False
        assert sample["problems"][0].startswith("chain A: ")
        assert "breaks of the backbone, the longest" in sample["problems"][0]
        (line,) = (line for line in done.stderr.splitlines() if line.startswith(f"warning: job '{name}'"))
        assert line.endswith(
            f"1 of 1 structures are not plausible, such as sample 0 of seed 101: {sample['problems'][0]}"
        )
        (row,) = (line for line in done.stdout.splitlines() if line.startswith(f"{name} "))
        assert " NO " in row
    with (out / "summary.csv").open(newline="") as file:
        assert [(row["name"], row["plausible"]) for row in csv.DictReader(file)] == [
            ("mono", "False"),
            ("pair", "False"),
        ]


def test_a_finished_prediction_is_plausible_and_nothing_is_said(finished):
    done, out = finished
    report = report_of(out, "known")
    assert [(sample["plausible"], sample["problems"]) for sample in report["samples"]] == [(True, [])]
    assert "warning:" not in done.stderr and not any("own number" in text for text in report["warnings"])
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("known "))
    assert " yes " in row and " NO " not in row


def test_too_few_steps_and_cycles_are_warned_of_once_a_run_and_kept_in_every_report(cut_short):
    done, out = cut_short
    for text in UNFINISHED:
        assert done.stderr.splitlines().count(f"warning: {text}") == 1
    for name in ("mono", "pair"):
        assert report_of(out, name)["warnings"][:2] == UNFINISHED


def test_what_the_model_does_not_use_is_one_warning_of_each_kind(cut_short):
    done, out = cut_short
    for what in ("the constraints are", "the templates are", "the alignment of RNA is"):
        (text,) = (text for text in report_of(out, "pair")["warnings"] if text.startswith(f"{what} not used"))
        assert done.stderr.splitlines().count(f"    pair: {text}") == 1
        assert not any(what in text for text in report_of(out, "mono")["warnings"])


def test_a_single_chain_has_no_iptm(cut_short):
    done, out = cut_short
    (mono,), (both,) = (report_of(out, name)["samples"] for name in ("mono", "pair"))
    assert mono["iptm"] is None and both["iptm"] > 0
    protenix = out / "mono/seed_101/predictions/mono_summary_confidence_sample_0.json"
    assert json.loads(protenix.read_text())["iptm"] == 0, "its own files keep its own numbers"
    with (out / "summary.csv").open(newline="") as file:
        assert [row["iptm"] == "" for row in csv.DictReader(file)] == [True, False]
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("mono "))
    assert row.split()[4] == "-"


def test_a_ligand_is_a_chain_of_its_own(tmp_path):
    job = protein("bound", SEQUENCE[:6])
    job["sequences"].append({"ligand": {"ligand": "CCD_SO4", "count": 1}})
    call("predict", write_jobs(tmp_path / "a.json", job), "--out", tmp_path / "out", *TINY, check=0)
    assert report_of(tmp_path / "out", "bound")["samples"][0]["iptm"] > 0


@pytest.mark.parametrize(
    ("job", "where"),
    [
        (
            protein("x", bondedAtomPairs=[]) | {"bondedAtomPairs": [[["A", 1, "C"], ["A", 5, "N"]]]},
            "'bondedAtomPairs'",
        ),
        (
            protein("x", glycans=[{"residues": "NAG", "position": 3}]),
            "sequences[0].proteinChain: unknown field 'glycans'",
        ),
        (
            protein("x", modification=[{"ptmType": "CCD_SEP", "ptmPosition": 3}]),
            "did you mean 'modifications'?",
        ),
    ],
    ids=["bonds", "glycans", "misspelled"],
)
def test_a_field_without_which_another_molecule_would_be_predicted_is_an_error(tmp_path, job, where):
    done = call("predict", write_jobs(tmp_path / "a.json", job), "--out", tmp_path / "out", *TINY, check=2)
    (error,) = errors_in(done.stderr)
    assert where in error and "another molecule would be predicted without it" in error
    assert not (tmp_path / "out").exists()
