"""What a run leaves behind: the tree, the fields of every file, and the same bytes for the same seed."""

import csv
import json
import math

import gemmi
import numpy as np
import pytest
from biotite.structure.io import pdbx
from command_line import (
    DEMO_BANNER,
    FULL,
    TINY,
    assert_whole,
    call,
    errors_in,
    predictions,
    report_of,
    run,
    run_json,
)
from command_line import write_jobs as write
from conftest import SEQUENCE, protein

STAGES = {"featurize", "trunk", "diffusion", "confidence", "write"}
WORDS = protein("two words", SEQUENCE[:14]) | {"modelSeeds": [3, 4]}
PLAIN = protein("plain", SEQUENCE[:12])
PAIR = protein("pair", SEQUENCE[:10], count=2)
# Anything that some reader of CIF, or the shell of some user, could stumble over.
ODD_NAMES = [
    "it's",
    'say "x"',
    "_item",
    "$frame",
    "#1",
    "[red]",
    "100%",
    "{x}",
    "αβ",
    "loop_",
    "a;b",
    "x.partial",
]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run of three jobs, as it ended and where it wrote."""
    folder = tmp_path_factory.mktemp("first")
    jobs = write(folder / "jobs.json", WORDS, PLAIN, PAIR)
    return run("predict", jobs, "--out", folder / "out", *FULL, check=0), folder / "out"


@pytest.fixture
def out(first):
    return first[1]


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """Another process, another folder, another list of jobs in another order, fewer seeds."""
    folder = tmp_path_factory.mktemp("second")
    jobs = write(folder / "inputs" / "others.json", PLAIN, WORDS | {"modelSeeds": [4]})
    run("predict", jobs, "--out", folder / "elsewhere", *FULL, check=0)
    return folder / "elsewhere"


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """A quiet run of untouched Protenix, seeds from the command line."""
    folder = tmp_path_factory.mktemp("quiet")
    jobs = write(folder / "jobs.json", PLAIN | {"modelSeeds": [9]})
    options = ("--bias", "stock", "--seeds", "1,2", "--quiet")
    return run("predict", jobs, "--out", folder / "out", *TINY, *options, check=0), folder / "out"


# The tree


def test_the_tree_is_protenixs_own(out):
    expected = set()
    for name, seeds in (("two words", (3, 4)), ("plain", (101,)), ("pair", (101,))):
        for seed in seeds:
            for sample in (0, 1):
                folder = f"{name}/seed_{seed}/predictions"
                expected |= {
                    f"{folder}/{name}_sample_{sample}.cif",
                    f"{folder}/{name}_sample_{sample}.pdb",
                    f"{folder}/{name}_pae_sample_{sample}.npz",
                    f"{folder}/{name}_summary_confidence_sample_{sample}.json",
                }
    assert set(predictions(out)) == expected


def test_beside_it_are_reports_and_nothing_else(out):
    own = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} - set(predictions(out))
    reports = {f"{name}/report.json" for name in ("two words", "plain", "pair")}
    seeds = {f"{name}/report.json" for name in ("two words/seed_3", "two words/seed_4", "plain/seed_101")}
    seeds.add("pair/seed_101/report.json")
    assert {path for path in own if not path.startswith(".")} == reports | seeds | {"summary.csv", "run.json"}
    assert_whole(out)


def test_protenixs_confidence_file_says_what_the_report_says(out):
    for sample in report_of(out, "pair")["samples"]:
        structure = out / "pair" / sample["cif"]
        name = f"pair_summary_confidence_sample_{sample['sample']}.json"
        summary = json.loads((structure.parent / name).read_text())
        for field in ("ptm", "iptm", "plddt", "ranking_score"):
            assert summary[field] == pytest.approx(sample[field])
            assert sample[field] > 0
        assert bool(summary["has_clash"]) == sample["has_clash"]


# report.json


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def test_report_has_every_field_with_its_type(out):
    report = report_of(out, "two words")
    assert report["name"] == "two words"
    assert report["model"] == "demo"
    assert report["demo_model"] is True
    assert report["bias"] == "flashbias"
    assert report["n_token"] == 14
    assert report["n_msa"] >= 1
    assert report["device"].startswith("cpu")
    assert report["dtype"] == "fp32"
    for field in ("n_token", "n_atom", "n_msa", "peak_memory_bytes"):
        assert type(report[field]) is int, field
    assert 2**26 < report["peak_memory_bytes"] < 2**36
    assert isinstance(report["versions"], dict)
    assert {"flashbias-fold", "protenix", "torch"} <= report["versions"].keys()


def test_report_counts_the_atoms_of_the_structure(out):
    for name in ("two words", "plain", "pair"):
        report = report_of(out, name)
        for sample in report["samples"]:
            structure = gemmi.read_structure(str(out / name / sample["cif"]))
            assert structure[0].count_atom_sites() == report["n_atom"]
            assert sum(map(len, structure[0])) == report["n_token"]


def test_report_lists_a_sample_for_each_seed_and_number_with_typed_fields(out):
    samples = report_of(out, "two words")["samples"]
    assert [(sample["seed"], sample["sample"]) for sample in samples] == [(3, 0), (3, 1), (4, 0), (4, 1)]
    for sample in samples:
        assert sample.keys() == {
            "seed", "sample", "ptm", "iptm", "plddt", "ranking_score", "has_clash", "plausible", "problems",
            "cif",
        }  # fmt: skip
        assert type(sample["seed"]) is type(sample["sample"]) is int
        assert all(is_number(sample[field]) for field in ("ptm", "plddt", "ranking_score"))
        assert sample["iptm"] is None, "there is a single chain"
        assert sample["plausible"] is (sample["problems"] == [])
        assert 0 <= sample["plddt"] <= 100
        assert type(sample["has_clash"]) is bool
        assert (out / "two words" / sample["cif"]).is_file()


def test_sample_0_is_the_best_of_its_seed(out):
    for name in ("two words", "plain", "pair"):
        samples = report_of(out, name)["samples"]
        for best, other in zip(samples[::2], samples[1::2], strict=True):
            assert best["ranking_score"] >= other["ranking_score"]


def test_report_has_the_seconds_of_every_stage_and_they_add_up(first, quiet):
    for out, name in ((first[1], "two words"), (first[1], "plain"), (quiet[1], "plain")):
        report = report_of(out, name)
        assert report["stages_s"].keys() == STAGES
        assert all(is_number(seconds) and seconds > 0 for seconds in report["stages_s"].values())
        total = sum(report["stages_s"].values())
        # What is between the stages: moving features to the device, and the report itself.
        assert total <= report["wall_s"] <= 2 * total + 1


def test_report_names_each_replaced_layer_and_how_it_was_computed(out):
    layers = report_of(out, "plain")["layers"]
    assert layers
    assert len({layer["name"] for layer in layers}) == len(layers)
    for layer in layers:
        assert layer.keys() == {"name", "way", "rank", "reach", "certified_error", "fallbacks"}
        assert layer["way"] in ("neural", "lowrank", "dense")
        assert layer["rank"] is None or layer["rank"] > 0
        assert is_number(layer["certified_error"])
        assert type(layer["fallbacks"]) is int


def test_stock_replaces_no_layer(quiet):
    report = report_of(quiet[1], "plain")
    assert report["bias"] == "stock"
    assert report["layers"] == []


def test_report_says_how_much_was_replayed_and_why_not(out, quiet):
    for folder, reason in ((out, "the model is on cpu"), (quiet[1], "Protenix's own layers run as they are")):
        assert report_of(folder, "plain")["graphs"] == {
            stage: {"replayed": 0, "why_not": reason} for stage in ("trunk", "diffusion")
        }


@pytest.mark.parametrize("bias", ["dense", "none"])
def test_dense_and_none_replace_the_layers_that_flashbias_does(out, tmp_path, bias):
    jobs = write(tmp_path / "jobs.json", PLAIN)
    call("predict", jobs, "--out", tmp_path / "out", *TINY, "--bias", bias, check=0)
    layers = report_of(tmp_path / "out", "plain")["layers"]
    assert {layer["way"] for layer in layers} == {bias}
    names = [layer["name"] for layer in report_of(out, "plain")["layers"]]
    if bias == "none":  # the ablation is one of triangle attention
        names = [name for name in names if ".tri_att_" in name]
    assert [layer["name"] for layer in layers] == names
    if bias == "dense":
        assert {layer["certified_error"] for layer in layers} == {0.0}


# summary.csv and run.json


def test_summary_has_a_row_for_each_sample_of_every_job(out):
    with (out / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = [("pair", 101), ("plain", 101), ("two words", 3), ("two words", 4)]
    found = [(row["name"], int(row["seed"]), int(row["sample"])) for row in rows]
    assert found == [(name, seed, sample) for name, seed in wanted for sample in (0, 1)]
    for row in rows:
        report = report_of(out, row["name"])
        (sample,) = (
            sample
            for sample in report["samples"]
            if (str(sample["seed"]), str(sample["sample"])) == (row["seed"], row["sample"])
        )
        for field in ("ptm", "iptm", "plddt", "ranking_score"):
            assert (float(row[field]) if row[field] else None) == sample[field]
        assert row["plausible"] == str(sample["plausible"])
        assert row["problems"] == "; ".join(sample["problems"])
        assert row["cif"] == f"{row['name']}/{sample['cif']}"
        assert (out / row["cif"]).is_file()


def test_run_json_has_arguments_versions_plan_and_the_status_of_every_job(out):
    content = run_json(out)
    assert content["status"] == "done"
    assert content["jobs"] == {"two words": "done", "plain": "done", "pair": "done"}
    arguments = content["arguments"]
    assert (arguments["model"], arguments["bias"], arguments["steps"]) == ("demo", "flashbias", 8)
    assert (arguments["samples"], arguments["format"], arguments["write_pae"]) == (2, "both", True)
    assert content["versions"].keys() >= {"flashbias-fold", "protenix", "torch", "python"}
    assert content["plan"]["name"] == "flashbias"
    assert content["rejected"] == []
    assert content["model"]["demo_model"] is True


# What is said


def test_the_demonstration_model_is_said_to_be_one(first):
    done, _ = first
    assert done.stderr.splitlines()[1].startswith(DEMO_BANNER)
    assert "not for science" in done.stdout


def test_progress_goes_to_stderr_and_names_every_job(first):
    done, _ = first
    for number, name in enumerate(("two words", "plain", "pair"), start=1):
        assert f"[{number}/3] {name}: " in done.stderr
    assert not errors_in(done.stderr)


def test_the_table_is_a_line_for_each_job_where_there_is_no_terminal(first):
    done, out = first
    for name in ("two words", "plain", "pair"):
        (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"{name} "))
        structure = line[line.index(f"{name}/seed_") :]
        assert (out / structure).is_file(), "the path is the end of the line, in one piece"
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stdout.isascii(), "no boxes for a pipe to choke on"


def test_quiet_says_nothing(quiet):
    done, _ = quiet
    assert (done.stdout, done.stderr) == ("", "")


def test_seeds_of_the_command_line_replace_those_of_the_job(quiet):
    assert [sample["seed"] for sample in report_of(quiet[1], "plain")["samples"]] == [1, 2]


# The same result


def test_a_result_depends_on_job_seed_and_settings_alone(out, second):
    """Not on the process, the folder, the other jobs, their order, or the seeds that ran before."""
    again, before = predictions(second), predictions(out)
    assert len(again) == 2 * 4 * 2
    assert again == {name: before[name] for name in again}


def test_seeds_and_samples_differ(out):
    structures = [content for name, content in predictions(out).items() if name.startswith("two words/")]
    cifs = [content for content in structures if content.startswith(b"data_")]
    coordinates = {content.partition(b"_atom_site.")[2] for content in cifs}
    assert len(coordinates) == len(cifs) == 4


# Formats


def test_a_pdb_file_holds_the_structure_of_its_cif(out):
    for sample in report_of(out, "pair")["samples"]:
        cif = out / "pair" / sample["cif"]
        one, other = gemmi.read_structure(str(cif))[0], gemmi.read_pdb(str(cif.with_suffix(".pdb")))[0]
        assert [chain.name for chain in other] == [chain.name for chain in one] == ["A", "B"]
        for left, right in zip(one.all(), other.all(), strict=True):
            assert (left.residue.name, left.atom.name) == (right.residue.name, right.atom.name)
            assert left.atom.pos.dist(right.atom.pos) < 0.002
            assert left.atom.b_iso == pytest.approx(right.atom.b_iso, abs=0.006)


def test_error_matrices_have_a_row_for_each_token(out):
    report = report_of(out, "pair")
    for sample in report["samples"]:
        folder = (out / "pair" / sample["cif"]).parent
        with np.load(folder / f"pair_pae_sample_{sample['sample']}.npz", allow_pickle=False) as arrays:
            for name in ("pae", "pde", "contact_probs"):
                assert arrays[name].shape == (report["n_token"], report["n_token"])
                assert np.isfinite(arrays[name]).all()
            assert list(arrays["token_chain"]) == ["A"] * 10 + ["B"] * 10
            assert list(arrays["token_residue"]) == [*range(1, 11)] * 2


def test_pdb_alone(tmp_path):
    jobs = write(tmp_path / "jobs.json", PLAIN)
    call("predict", jobs, "--out", tmp_path / "out", *FULL[:8], "--format", "pdb", check=0)
    for sample in report_of(tmp_path / "out", "plain")["samples"]:
        assert sample["cif"].endswith(".pdb")
    assert not list((tmp_path / "out").rglob("*.cif"))
    assert_whole(tmp_path / "out")


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Two runs of jobs with odd names: the second finds all of them complete."""
    folder = tmp_path_factory.mktemp("odd")
    jobs = write(folder / "jobs.json", *(protein(name, SEQUENCE[:4]) for name in ODD_NAMES))
    arguments = ("predict", jobs, "--out", folder / "out", *TINY)
    return call(*arguments), call(*arguments), folder / "out"


def test_jobs_with_odd_names_run_and_are_found_again(odd):
    done, again, out = odd
    assert (done.returncode, errors_in(done.stderr)) == (0, [])
    assert (again.returncode, errors_in(again.stderr)) == (0, [])
    assert run_json(out)["jobs"] == dict.fromkeys(ODD_NAMES, "skipped")
    for name in ODD_NAMES:
        assert any(line.startswith(f"{name} ") for line in done.stdout.splitlines()), name


@pytest.mark.parametrize("name", ["two words", *ODD_NAMES])
def test_every_reader_opens_a_structure_whatever_its_name(out, odd, name):
    from Bio.PDB.MMCIFParser import MMCIFParser

    folder = out if name == "two words" else odd[2]
    report = report_of(folder, name)
    cif = folder / name / report["samples"][0]["cif"]
    assert gemmi.read_structure(str(cif))[0].count_atom_sites() == report["n_atom"]
    assert len(pdbx.get_structure(pdbx.CIFFile.read(cif), model=1)) == report["n_atom"]
    assert len(list(MMCIFParser(QUIET=True).get_structure("x", cif).get_atoms())) == report["n_atom"]
    assert gemmi.cif.read(str(cif)).sole_block().find_value("_entry.id")


def test_alignments_that_are_not_used_are_named(tmp_path):
    strand = "ACGUACGUAC"
    job = protein("both", SEQUENCE[:12])
    job["sequences"].append(
        {"rnaSequence": {"sequence": strand, "unpairedMsa": f">q\n{strand}\n>r\n{strand}\n"}}
    )
    jobs = write(tmp_path / "jobs.json", job)
    unused = "the alignment of RNA is not used (--rna-msa uses it)"
    call("predict", jobs, "--out", tmp_path / "out", *TINY, check=0)
    report = report_of(tmp_path / "out", "both")
    assert unused in report["warnings"]
    assert report["n_msa"] == 2
    call("predict", jobs, "--out", tmp_path / "used", *TINY, "--rna-msa", check=0)
    assert unused not in report_of(tmp_path / "used", "both")["warnings"]
