"""`flashbias-fold compare` end to end: real predictions, real structures, and what it leaves behind."""

import csv
import gzip
import json
import re
import shutil
import signal
import sys
import time

import gemmi
import pytest
from command_line import TINY, assert_whole, call, errors_in, predictions, run, start, write_jobs
from conftest import ROOT, SEQUENCE, protein
from lengths import only_in_full

sys.path.append(str(ROOT / "tests" / "report"))
from report_schema import faults

from flashbias_fold.compare.table import COLUMNS
from flashbias_fold.errors import DeviceMemoryError
from flashbias_fold.protenix_adapter.engine import Engine

TRUTH = ROOT / "data" / "truth"
COMPLEX = ROOT / "data" / "complexes" / "7r6r"
# The model's own steps and cycles: its structures mean something.
REAL = ("--model", "demo", "--samples", "1", "--repeats", "1")
QUICK = (*TINY, "--repeats", "1", "--methods", "stock,dense")
KEYS = ["stock", "flashbias", "dense", "none", "stock_seed_102"]


def report(out):
    return json.loads((out / "report.json").read_text())


def results(found, method):
    return [one for entry in found["entries"] for one in entry["results"] if one["method"] == method]


def domains(folder, *names):
    """Domains that the demonstration model knows, as FASTA."""
    lists = csv.DictReader((ROOT / "data" / "demo" / "entries.csv").open())
    sequences = {row["name"]: row["sequence"] for row in lists}
    path = folder / "domains.fasta"
    path.write_text("".join(f">{name}\n{sequences[name]}\n" for name in names))
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A comparison as users run it, and what it printed."""
    folder = tmp_path_factory.mktemp("real")
    inputs = domains(folder, "1fs1A00", "1igdA00")
    done = run("compare", inputs, "--truth", TRUTH, "--out", folder / "cmp", *REAL, check=0)
    return folder / "cmp", done


def test_the_report_is_as_its_schema_says(real):
    found = report(real[0])
    assert faults(found) == []
    assert [method["key"] for method in found["methods"]] == KEYS
    assert [entry["name"] for entry in found["entries"]] == ["1fs1A00", "1igdA00"]
    assert found["failed"] == []


def test_flashbias_is_the_same_and_the_ablation_is_not(real):
    found = report(real[0])
    rows = {row["method"]: row for row in found["summary"]}
    assert found["verdict"]["method"] == "flashbias"
    assert found["verdict"]["same"] is rows["flashbias"]["same"] is rows["dense"]["same"] is True
    assert rows["none"]["same"] is not True  # two entries are too few to call it different
    for target in ("stock", "truth"):
        lost = {key: rows[key]["measures"][f"lddt_ca_to_{target}"]["mean"] for key in ("flashbias", "none")}
        assert lost["none"] < lost["flashbias"] - 0.1
    assert rows["stock"]["measures"]["lddt_ca_to_truth"]["mean"] > 0.9
    assert any(layer["way"] == "neural" for layer in rows["flashbias"]["layers"])


def test_every_number_hangs_together(real):
    for entry in report(real[0])["entries"]:
        stock = entry["results"][0]
        for result in entry["results"]:
            assert result["wall_s"] == pytest.approx(sum(result["stages_s"].values()), rel=1e-6)
            assert result["runs_s"] == [result["wall_s"]]
            assert result["peak_memory_bytes"] > 100 * 2**20
            if result is stock:
                assert result["change"] is None and result["to_stock"] is None
                continue
            assert result["change"]["ptm"] == pytest.approx(result["ptm"] - stock["ptm"], abs=1e-9)
            assert 0 < result["to_stock"]["lddt_ca"] <= 1
        # A single chain has no interface, so neither score of one.
        assert {result["iptm"] for result in entry["results"]} == {None}
        assert {result["to_truth"]["interface"] for result in entry["results"]} == {None}


def test_it_draws_each_method_and_the_experiment(real):
    for entry in report(real[0])["entries"]:
        assert [one["of"] for one in entry["traces"]] == [*KEYS[:-1], "experiment"]
        assert [one["of"] for one in entry["pae_maps"]] == KEYS[:-1]
        lengths = {
            one["of"]: sum(len(s) for c in one["chains"] for s in c["segments"]) for one in entry["traces"]
        }
        assert set(lengths.values()) == {entry["n_token"]}
        points = {one["of"]: one["chains"][0]["segments"][0][0] for one in entry["traces"]}
        far = [abs(a - b) for a, b in zip(points["stock"], points["experiment"], strict=True)]
        assert max(far) < 3.0, "laid over each other"


def test_the_table_has_a_line_for_each_entry_and_method(real):
    rows = list(csv.DictReader((real[0] / "report.csv").open()))
    assert list(rows[0]) == list(COLUMNS)
    found = report(real[0])
    assert len(rows) == sum(len(entry["results"]) for entry in found["entries"])
    expected = found["entries"][1]["results"][3]
    row = next(row for row in rows if (row["name"], row["method"]) == ("1igdA00", "none"))
    assert float(row["ptm"]) == expected["ptm"]
    assert float(row["lddt_ca_to_truth"]) == expected["to_truth"]["lddt_ca"]
    assert float(row["pae_change"]) == expected["change"]["pae"]
    assert row["iptm"] == row["interface_to_stock"] == ""


def test_it_prints_the_verdict_and_where_the_page_is(real):
    out, done = real
    assert re.search(r"^FlashBias .* same", done.stdout, re.MULTILINE)
    assert "Stock takes" in done.stdout
    assert f"open {out}/report.html" in done.stdout
    assert "not for science" in done.stdout
    assert "[1/2] 1fs1A00: 41 tokens" in done.stderr
    assert report(out)["verdict"]["headline"] in (out / "report.html").read_text()


def test_the_structures_are_those_of_predict(real, tmp_path):
    out, _ = real
    jobs = domains(tmp_path, "1fs1A00")
    for method in ("stock", "flashbias"):
        call(
            "predict", jobs, "--out", tmp_path / method, "--bias", method, "--seeds", 101, *REAL[:4], check=0
        )
        ours = {
            path.name: path.read_bytes()
            for path in (out / "1fs1A00" / method / "seed_101" / "predictions").iterdir()
        }
        theirs = {
            path.rpartition("/")[2]: content for path, content in predictions(tmp_path / method).items()
        }
        assert ours == theirs
        said = json.loads((tmp_path / method / "1fs1A00" / "report.json").read_text())["samples"][0]
        found = next(one for one in results(report(out), method) if one["structure"].startswith("1fs1A00/"))
        assert found["ptm"] == said["ptm"] and found["plddt"] == said["plddt"]
        assert (out / found["structure"]).is_file()


def test_the_same_command_does_nothing_again(real):
    out, _ = real
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/**/predictions/*")}
    first = report(out)
    again = call("compare", out.parent / "domains.fasta", "--truth", TRUTH, "--out", out, *REAL, check=0)
    assert "already complete, skipped" in again.stderr and "ready in" not in again.stderr
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/**/predictions/*")} == before
    second = report(out)
    assert {**second, "provenance": first["provenance"]} == first


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (("--repeats", "2"), "of 1 repeats"),
        (
            ("--methods", "stock,dense"),
            "of stock, flashbias, dense, none, stock_seed_102 instead of stock, dense",
        ),
        (("--steps", "3"), "steps 20 instead of 3"),
        (("--seeds", "7"), "instead of stock, flashbias, dense, none, stock_seed_8"),
        (("--truth", str(TRUTH / "1igdA00.pdb.gz")), "with another experimental structure"),
    ],
)
def test_what_was_made_otherwise_is_not_taken_for_it(real, tmp_path, changed, words):
    out = shutil.copytree(real[0], tmp_path / "cmp")
    jobs = domains(tmp_path, "1fs1A00")
    options = ["--truth", TRUTH, *REAL, *changed]
    done = call("compare", jobs, "--out", out, *options, check=1)
    assert words in done.stderr and "--overwrite" in done.stderr
    assert report(out) == report(real[0]), "nothing is lost"


# Small predictions, for what does not look at structures


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A complete comparison of two jobs by two methods."""
    folder = tmp_path_factory.mktemp("quick")
    jobs = write_jobs(folder / "jobs.json", protein("one", SEQUENCE[:12]), protein("two", SEQUENCE[:15]))
    call("compare", jobs, "--out", folder / "cmp", *QUICK, check=0)
    return folder


def test_without_truth_there_is_none(quick):
    found = report(quick / "cmp")
    assert {entry["truth"] for entry in found["entries"]} == {None}
    assert all(result["to_truth"] is None for entry in found["entries"] for result in entry["results"])
    assert faults(found) == []
    assert_whole(quick / "cmp")
    for entry in found["entries"]:
        assert any(text.startswith("--steps 2: the model's own number") for text in entry["warnings"])


def test_an_entry_of_a_version_that_checked_no_structures_is_made_again_unless_it_is_another(quick, tmp_path):
    out = shutil.copytree(quick / "cmp", tmp_path / "cmp")
    path = out / "one" / "entry.json"
    record = json.loads(path.read_text())
    for result in record["entry"]["results"]:
        del result["plausible"], result["problems"]
    path.write_text(json.dumps(record))
    other = write_jobs(tmp_path / "other.json", protein("one", SEQUENCE[:13]))
    (error,) = errors_in(call("compare", other, "--out", out, *QUICK, check=1).stderr)
    assert "another input" in error and json.loads(path.read_text()) == record
    done = call("compare", quick / "jobs.json", "--out", out, *QUICK, check=0)
    assert "one: an earlier version did not check its structures: predicted again" in done.stderr
    assert "two: already complete, skipped" in done.stderr
    assert faults(report(out)) == []


def test_an_interrupted_comparison_goes_on(quick, tmp_path):
    out = tmp_path / "cmp"
    command = ("compare", quick / "jobs.json", "--out", out, *QUICK)
    process = start(*command)
    deadline = time.monotonic() + 120
    while not (out / "one" / "entry.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command continues" in error
    assert not (out / "report.json").exists()
    assert_whole(out)
    done = call(*command, check=0)
    assert "one: already complete, skipped" in done.stderr
    expected, found = report(quick / "cmp"), report(out)
    for ours, theirs in zip(found["entries"], expected["entries"], strict=True):
        assert ours["traces"] == theirs["traces"]
        assert [one["ptm"] for one in ours["results"]] == [one["ptm"] for one in theirs["results"]]


def test_methods_take_turns(quick, tmp_path, monkeypatch):
    """Nothing is mocked: each prediction is made, and noted."""
    predict, noted = Engine.predict, []

    def noting(engine, document, seed, observer=None):
        noted.append((engine.swap.plan.name, seed))
        return predict(engine, document, seed, observer)

    monkeypatch.setattr(Engine, "predict", noting)
    jobs = write_jobs(tmp_path / "jobs.json", protein("one", SEQUENCE[:12]))
    call(
        "compare", jobs, "--out", tmp_path / "cmp", *TINY, "--repeats", "2", "--methods", "dense,none",
        "--seeds", "5,9", check=0,
    )  # fmt: skip
    a, b, c = ("stock", 5), ("dense", 5), ("none", 5)
    assert noted == [a, b, c, b, c, a, ("stock", 9), c, a, b]
    runs = {one["method"]: len(one["runs_s"]) for one in report(tmp_path / "cmp")["entries"][0]["results"]}
    assert runs == {"stock": 2, "dense": 2, "none": 2, "stock_seed_9": 1}


def test_a_plan_is_a_method(tmp_path):
    plan = tmp_path / "my plan.yaml"
    plan.write_text("- {layers: '*', way: lowrank, rank: 4, tolerance: 1.0}\n")
    jobs = write_jobs(tmp_path / "jobs.json", protein("one", SEQUENCE[:12]))
    call("compare", jobs, "--out", tmp_path / "cmp", *TINY, "--repeats", "1", "--methods", plan, check=0)
    found = report(tmp_path / "cmp")
    assert [method["key"] for method in found["methods"]] == ["stock", "plan_my_plan", "stock_seed_102"]
    assert found["methods"][1]["label"] == "my_plan" and found["methods"][1]["plan"] == "my plan.yaml"
    assert found["verdict"]["method"] == "plan_my_plan"
    layers = results(found, "plan_my_plan")[0]["layers"]
    assert {layer["rank"] for layer in layers if layer["way"] == "lowrank"} == {4}


def test_a_structure_that_pdb_has_no_room_for_is_compared_as_mmcif(tmp_path):
    """Two steps leave noise that is too far out; what each file says of itself is its own method."""
    jobs = write_jobs(tmp_path / "jobs.json", protein("far", SEQUENCE[:8]))
    arguments = ("compare", jobs, "--out", tmp_path / "cmp", *QUICK, "--format", "pdb")
    done = call(*arguments, check=0)
    found = report(tmp_path / "cmp")
    assert faults(found) == []
    (entry,) = found["entries"]
    beyond = [text for text in entry["warnings"] if "in mmCIF alone, as the PDB format has no room" in text]
    assert [text.split(":")[0] for text in beyond] == ["stock", "dense bias", "stock, seed 102"]
    assert all(f"    far: {text}\n" in done.stderr for text in beyond)
    for result, bias in zip(entry["results"], ("stock", "dense", "stock"), strict=True):
        assert result["structure"].endswith("_sample_0.cif")
        title = gemmi.read_structure(str(tmp_path / "cmp" / result["structure"])).info["_struct.title"]
        assert f" bias {bias}, seed {102 if '102' in result['method'] else 101}, sample 0 " in title
    assert "far: already complete, skipped" in call(*arguments, check=0).stderr


def test_a_method_without_room_is_left_out_and_said(quick, tmp_path, monkeypatch):
    """The mock: the device's memory, which is short for one method."""
    predict = Engine.predict

    def short(engine, document, seed, observer=None):
        if engine.swap.plan.name == "dense":
            raise DeviceMemoryError("out of memory on cuda, also with chunks of 32 rows")
        return predict(engine, document, seed, observer)

    monkeypatch.setattr(Engine, "predict", short)
    done = call(
        "compare", quick / "jobs.json", "--out", tmp_path, *TINY, "--repeats", "1", "--methods", "dense,none",
        check=1,
    )  # fmt: skip
    assert [line for line in errors_in(done.stderr) if "'one': dense bias: out of memory" in line]
    found = report(tmp_path)
    assert faults(found) == []
    assert [one["method"] for one in found["entries"][0]["results"]] == ["stock", "none", "stock_seed_102"]
    assert found["verdict"]["method"] == "none"
    assert len(found["failed"]) == 2


def test_without_stock_there_is_nothing_to_compare_with(quick, tmp_path, monkeypatch):
    """The mock: the device's memory, which is short for stock and one job."""
    predict = Engine.predict

    def short(engine, document, seed, observer=None):
        if engine.swap.plan.name == "stock" and document["name"] == "one":
            raise DeviceMemoryError("out of memory on cuda")
        return predict(engine, document, seed, observer)

    monkeypatch.setattr(Engine, "predict", short)
    done = call("compare", quick / "jobs.json", "--out", tmp_path, *QUICK, check=1)
    assert errors_in(done.stderr) == ["error: entry 'one': stock: out of memory on cuda"]
    assert [entry["name"] for entry in report(tmp_path)["entries"]] == ["two"]


# Experimental structures


def test_an_experimental_structure_is_an_input(tmp_path):
    folder = tmp_path / "structures"
    folder.mkdir()
    shutil.copy(TRUTH / "1fs1A00.pdb.gz", folder)
    (folder / "broken.cif").write_text("data_x\nloop_\n_atom_site.id\n")
    done = call("compare", folder, "--out", tmp_path / "cmp", *QUICK, check=1)
    (line,) = errors_in(done.stderr)
    assert "broken.cif" in line
    (entry,) = report(tmp_path / "cmp")["entries"]
    assert (entry["name"], entry["truth"], entry["n_token"]) == ("1fs1A00", "1fs1A00.pdb.gz", 41)
    assert entry["results"][0]["to_truth"]["lddt_ca"] is not None
    single = call("compare", folder / "1fs1A00.pdb.gz", "--out", tmp_path / "one", *QUICK, check=0)
    assert errors_in(single.stderr) == []
    assert report(tmp_path / "one")["entries"][0]["results"][0]["ptm"] == entry["results"][0]["ptm"]


def part_of_a_complex(path):
    """A job: the part of 7r6r's protein that is on the DNA, and its two strands."""
    (document,) = json.loads((COMPLEX / "7r6r.json").read_text())
    fields, *_ = [fields for entity in document["sequences"] for fields in entity.values()]
    first = fields["sequence"].index("SRIPLTLSE")
    chain = {"proteinChain": {"sequence": fields["sequence"][first : first + 36], "count": 1}}
    return write_jobs(path, {"name": "part", "sequences": [chain, *document["sequences"][1:]]})


@only_in_full
def test_beside_a_job_of_its_name_a_structure_is_its_truth(tmp_path):
    jobs = part_of_a_complex(tmp_path / "inputs" / "jobs.json")
    shutil.copy(COMPLEX / "7r6r.cif.gz", jobs.parent / "Part.cif.gz")
    done = call("compare", jobs.parent, "--out", tmp_path / "cmp", *QUICK, check=0)
    assert errors_in(done.stderr) == []
    (entry,) = report(tmp_path / "cmp")["entries"]
    assert (entry["name"], entry["truth"], entry["n_token"]) == ("part", "Part.cif.gz", 36 + 21 + 21)
    stock = entry["results"][0]
    assert stock["iptm"] is not None
    assert stock["to_truth"]["interface"]["kind"] == "interface_lddt"
    chains = {one["of"]: len(one["chains"]) for one in entry["traces"]}
    assert chains == {"stock": 3, "dense": 3, "experiment": 3}


@pytest.fixture
def pair(tmp_path):
    """A job whose structure is known and one whose is not, and a folder of structures to put one into."""
    jobs = domains(tmp_path, "1fs1A00", "1igdA00")
    folder = tmp_path / "truth"
    folder.mkdir()
    shutil.copy(TRUTH / "1igdA00.pdb.gz", folder)
    return jobs, folder


def assert_the_rest_is_reported(out):
    first, second = report(out)["entries"]
    assert all(result["to_truth"] is None for result in first["results"])
    assert second["results"][0]["to_truth"] is not None
    assert faults(report(out)) == []


@only_in_full
def test_a_structure_of_another_sequence(pair, tmp_path):
    jobs, folder = pair
    shutil.copy(TRUTH / "1g6xA00.pdb.gz", folder / "1fs1A00.pdb.gz")
    done = call("compare", jobs, "--truth", folder, "--out", tmp_path / "cmp", *QUICK, check=1)
    (line,) = errors_in(done.stderr)
    assert "1fs1A00.pdb.gz: expected a chain in common" in line
    assert_the_rest_is_reported(tmp_path / "cmp")
    assert [one["name"] for one in report(tmp_path / "cmp")["failed"]] == ["1fs1A00"]


def test_a_damaged_structure(pair, tmp_path):
    jobs, folder = pair
    (folder / "1fs1A00.pdb.gz").write_bytes((TRUTH / "1fs1A00.pdb.gz").read_bytes()[:500])
    done = call("compare", jobs, "--truth", folder, "--out", tmp_path / "cmp", *QUICK, check=1)
    (line,) = errors_in(done.stderr)
    assert "1fs1A00.pdb.gz" in line and "gzip" in line
    assert_the_rest_is_reported(tmp_path / "cmp")


def without_chain(chain, path):
    structure = gemmi.read_structure(str(COMPLEX / "7r6r.cif.gz"))
    structure.setup_entities()
    structure[0].remove_chain(chain)
    structure.make_mmcif_document().write_file(str(path))


@only_in_full
def test_a_missing_chain_is_said_and_the_rest_is_scored(tmp_path):
    jobs, truth = part_of_a_complex(tmp_path / "jobs.json"), tmp_path / "truth.cif"
    without_chain("B", truth)
    done = call("compare", jobs, "--truth", truth, "--out", tmp_path / "cmp", *QUICK, check=1)
    (line,) = errors_in(done.stderr)
    assert "truth.cif: the prediction has DNA" in line and "that the experimental structure has not" in line
    found = report(tmp_path / "cmp")
    assert found["entries"][0]["results"][0]["to_truth"]["lddt_ca"] is not None
    assert len(found["failed"]) == 1


@only_in_full
def test_a_truth_that_a_job_does_not_have_is_no_fault(pair, tmp_path):
    jobs, folder = pair
    done = call("compare", jobs, "--truth", folder, "--out", tmp_path / "cmp", *QUICK, check=0)
    assert errors_in(done.stderr) == []
    assert_the_rest_is_reported(tmp_path / "cmp")


def test_wrong_arguments_leave_nothing(pair, tmp_path):
    jobs, _ = pair
    empty, strange = tmp_path / "empty", tmp_path / "strange"
    empty.mkdir()
    strange.mkdir()
    shutil.copy(TRUTH / "1hz6B00.pdb.gz", strange)
    plan = tmp_path / "plan.yaml"
    plan.write_text("- {layers: 'nothing.*', way: lowrank, rank: 4, tolerance: 1.0}\n")
    cases = {
        ("--truth", empty): "has no experimental structure (.cif, .mmcif, .pdb, .ent) in it",
        ("--truth", strange): "has no structure that is named after an entry, such as 1fs1A00",
        ("--truth", tmp_path / "nowhere"): "no such file or folder",
        ("--truth", jobs): "expected a structure (.cif",
        ("--methods", "stock,turbo"): "expected some of flashbias, dense, none, stock and files",
        ("--methods", tmp_path / "no.yaml"): "No such file",
        ("--methods", plan): "decides for no layer",
        ("--repeats", "0"): "expected a whole number from 1",
        ("--repeats", "1001"): "expected a number from 1 to 1000",
        ("--seeds", "1,2,3"): "expected one or two",
        ("--seeds", "4,4"): "a seed is given twice",
        ("--plan", plan, "--methods", "dense"): "--plan: is for the method flashbias",
    }
    for given, words in cases.items():
        done = call("compare", jobs, "--out", tmp_path / "cmp", *TINY, *given, check=2)
        assert words in done.stderr and len(errors_in(done.stderr)) == 1, (given, done.stderr)
        assert not (tmp_path / "cmp" / "report.json").exists()
    nothing = call("compare", empty, "--out", tmp_path / "cmp", *TINY, check=2)
    assert "expected a folder with" in nothing.stderr
    with gzip.open(empty / "bad.cif.gz", "wt") as file:
        file.write("data_bad\n")
    done = call("compare", empty, "--out", tmp_path / "cmp", *TINY, check=2)
    assert "bad.cif.gz" in done.stderr and "0 compared" in done.stdout
