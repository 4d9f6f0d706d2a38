"""`--format`: where PDB has no room the structure is there all the same, and the reports say so."""

import csv
import json

import gemmi
import pytest
from command_line import TINY, call, errors_in, predictions, report_of, run_json, write_jobs
from conftest import SEQUENCE, protein

PEPTIDE = {"proteinChain": {"sequence": SEQUENCE[:6], "count": 1}}
# job -> a chain of it, and what is known before anything is computed
KNOWN = {
    "chains": (
        {"proteinChain": {"sequence": "GA", "count": 30}},
        "one letter for a chain, but there are 31 chains",
    ),
    "long id": (
        {"proteinChain": {"sequence": "GA", "count": 1, "id": ["AA"]}},
        "one letter for a chain, but there is 'AA'",
    ),
    "five letters": (
        {"ligand": {"ligand": "CCD_A1LU6", "count": 1}},
        "three letters for a component, but there is 'A1LU6'",
    ),
}
# So few steps leave noise of a size for which PDB files have no room.
FAR = protein("far", SEQUENCE[:6]) | {"modelSeeds": [1, 2]}
BEYOND = "no room for a coordinate beyond 1000 A"


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A run of jobs for which PDB has no room, the same command again, and the folder."""
    folder = tmp_path_factory.mktemp("formats")
    known = [{"name": name, "sequences": [PEPTIDE, chain]} for name, (chain, _) in KNOWN.items()]
    jobs = write_jobs(folder / "jobs.json", *known, FAR)
    arguments = ("predict", jobs, "--out", folder / "out", *TINY, "--format", "pdb")
    return call(*arguments, check=0), call(*arguments, check=0), folder / "out"


def test_every_job_is_done_and_has_its_structures(story):
    done, _, out = story
    assert errors_in(done.stderr) == []
    assert done.stdout.splitlines()[-1].startswith(f"{len(KNOWN) + 1} done; ")
    assert not list(out.rglob("*.pdb")) and not list(out.rglob("error.json"))
    for name in (*KNOWN, "far"):
        report = report_of(out, name)
        for sample in report["samples"]:
            assert sample["cif"].endswith(".cif")
            structure = gemmi.read_structure(str(out / name / sample["cif"]))
            assert structure[0].count_atom_sites() == report["n_atom"]
        assert {f"{name}/{file}" for file in report["files"]} == {
            path for path in predictions(out) if path.startswith(f"{name}/")
        }


def test_what_can_be_known_is_said_before_the_prediction_and_once(story):
    done, _, out = story
    lines = done.stderr.splitlines()
    for name, (_, reason) in KNOWN.items():
        text = f"--format pdb: the PDB format has {reason}: its structures are written as mmCIF alone"
        said = [number for number, line in enumerate(lines) if "mmCIF" in line and f" {name}:" in line]
        assert [lines[number] for number in said] == [f"    {name}: {text}"]
        (end,) = [number for number, line in enumerate(lines) if f"] {name}: done" in line]
        assert said[0] < end
        assert report_of(out, name)["warnings"].count(text) == 1


def test_what_the_structure_tells_is_said_of_its_seed_in_the_end(story):
    done, _, out = story
    texts = [f"seed {seed}, sample 0: in mmCIF alone, as the PDB format has {BEYOND}" for seed in (1, 2)]
    assert [line for line in done.stderr.splitlines() if BEYOND in line] == [
        f"    far: {text}" for text in texts
    ]
    warnings = report_of(out, "far")["warnings"]
    assert [text for text in warnings if BEYOND in text] == texts, "those of every seed"
    assert len(set(warnings)) == len(warnings)
    of_seed = json.loads((out / "far" / "seed_1" / "report.json").read_text())
    assert texts[0] in of_seed["warnings"] and texts[1] not in of_seed["warnings"]


def test_the_summary_names_the_files_that_are_there(story):
    rows = list(csv.DictReader((story[2] / "summary.csv").open(newline="")))
    assert len(rows) == len(KNOWN) + 2
    assert all((story[2] / row["cif"]).is_file() for row in rows)


def test_the_same_command_again_finds_all_of_it_complete(story):
    _, again, out = story
    assert again.stderr.count("already complete, skipped\n") == len(KNOWN) + 1
    assert "instead of" not in again.stderr
    assert run_json(out)["jobs"] == dict.fromkeys([*KNOWN, "far"], "skipped")
