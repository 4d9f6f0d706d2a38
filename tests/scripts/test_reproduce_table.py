"""The poster's table: really made for a domain, its inputs checked, and its numbers those of the record."""

import copy
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from conftest import ROOT

from flashbias_fold.compare.assembly import open_assembly, read_assembly
from flashbias_fold.compare.parts import POLYMERS, parts_of
from flashbias_fold.inputs import load_inputs

sys.path.insert(0, str(ROOT / "scripts"))
sys.path.append(str(ROOT / "tests" / "report"))
import report_made_up
import reproduce_table
from report_schema import faults
from reproduce_table import COMPLEXES, main, record_of, tables

SCRIPT = ROOT / "scripts" / "reproduce_table.py"
TRUTH = ROOT / "data" / "truth"
COLUMNS = ["method", "pTM", "time, s", "memory, GiB", "times as fast", "LDDT to stock", "to experiment"]
LABELS = ["stock", "without bias", "dense bias", "FlashBias", "stock, seed 102"]
SMALL = ("--model", "demo", "--limit", "1", "--samples", "1", "--repeats", "1", "--device", "cpu")


def rows_of(text):
    """The tables of a text, each as rows of cells without the line under its head."""
    found, last = [], ""
    for line in text.splitlines():
        if line.startswith("| "):
            if not last.startswith("|"):
                found.append([])
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        last = line
    return found


# The real thing, on the shortest domain


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run as a user starts it: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("table")
    options = [*SMALL, "--out", folder / "out", "--record", folder / "record.json"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, options)],
        check=False, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done


def test_the_table_is_that_of_the_poster(finished):
    folder, done = finished
    (table,) = rows_of(done.stdout)
    assert table[0] == COLUMNS
    assert [row[0] for row in table[1:]] == LABELS
    assert done.stdout.startswith("1fs1A00, 41 tokens:\n\n| method |")
    assert (folder / "out" / "table.md").read_text() == done.stdout
    assert "DEMONSTRATION" in done.stderr and "Traceback" not in done.stderr


def test_its_numbers_are_those_of_the_report(finished):
    folder, done = finished
    report = json.loads((folder / "out" / "report.json").read_text())
    assert faults(report) == []
    (entry,), (table,) = report["entries"], rows_of(done.stdout)
    stock = entry["results"][0]
    for row, result in zip(table[1:], entry["results"], strict=True):
        assert float(row[1]) == pytest.approx(result["ptm"], abs=0.000051)
        assert float(row[2]) == pytest.approx(result["wall_s"], abs=0.0051)
        assert float(row[3]) == pytest.approx(result["peak_memory_bytes"] / 2**30, abs=0.0051)
        assert float(row[4]) == pytest.approx(stock["wall_s"] / result["wall_s"], abs=0.0051)
        assert float(row[6]) == pytest.approx(result["to_truth"]["lddt_ca"], abs=0.00051)
        if result is stock:
            assert row[5] == ""
        else:
            assert float(row[5]) == pytest.approx(result["to_stock"]["lddt_ca"], abs=0.00051)
    assert table[1][4] == "1.00"
    by_label = {row[0]: row for row in table}
    assert float(by_label["without bias"][1]) < float(by_label["stock"][1]) - 0.1, "as on the poster"
    assert float(by_label["FlashBias"][1]) == pytest.approx(float(by_label["stock"][1]), abs=0.01)


def test_below_it_stands_where_it_comes_from(finished):
    folder, done = finished
    report = json.loads((folder / "out" / "report.json").read_text())
    verdict, made = done.stdout.splitlines()[-3], done.stdout.splitlines()[-1]
    assert verdict.startswith(f"{report['verdict']['headline']}. {report['verdict']['text']} Stock takes ")
    assert f"Stock takes {report['speed']['wall_ratio']['mean']:.2f} times as long as FlashBias" in verdict
    assert f"torch {torch.__version__}" in made
    assert made.endswith("medians of 1 after 1 to warm up; seeds 101, 102.")


def numbers_in(value):
    """Every number with a point, in order."""
    if isinstance(value, dict | list):
        return [
            one
            for inner in (value.values() if isinstance(value, dict) else value)
            for one in numbers_in(inner)
        ]
    return [value] if isinstance(value, float) else []


def without_numbers(value):
    if isinstance(value, dict):
        return {key: without_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_numbers(inner) for inner in value]
    return None if isinstance(value, float) else value


def test_the_record_is_the_report_without_drawings_to_six_digits(finished):
    folder, _ = finished
    report = json.loads((folder / "out" / "report.json").read_text())
    record = json.loads((folder / "record.json").read_text())
    assert record == record_of(report)
    for entry in report["entries"]:
        assert entry.pop("traces") and entry.pop("pae_maps")
        for result in entry["results"]:
            assert isinstance(result.pop("layers"), list)
    assert without_numbers(record) == without_numbers(report)
    kept = numbers_in(record)
    assert kept == pytest.approx(numbers_in(report), rel=1e-5, abs=0)
    assert kept == [float(f"{number:.6g}") for number in kept]
    assert tables(record) == (folder / "out" / "table.md").read_text()
    assert record_of(record_of(made_up("1igdA00"))) == record_of(made_up("1igdA00"))


def test_the_same_command_predicts_nothing_again(finished, capsys):
    folder, done = finished
    place = folder / "out" / "1fs1A00" / "entry.json"
    before = place.stat().st_mtime_ns
    assert main([*SMALL, "--out", str(folder / "out")]) == 0
    printed = capsys.readouterr()
    assert "1fs1A00: already complete, skipped" in printed.err and "ready in" not in printed.err
    assert place.stat().st_mtime_ns == before
    assert printed.out.splitlines()[:-1] == done.stdout.splitlines()[:-1]


def test_what_was_made_otherwise_is_not_taken_for_it(finished, capsys):
    folder, done = finished
    assert main([*SMALL, "--samples", "2", "--out", str(folder / "out")]) == 1
    printed = capsys.readouterr()
    assert "--overwrite" in printed.err and printed.out == ""
    assert (folder / "out" / "table.md").read_text() == done.stdout


# Inputs


def domains_of(out, limit):
    path, truth = reproduce_table._demo_inputs(out, limit)
    lines = path.read_text().splitlines()
    assert truth.samefile(TRUTH)
    return [name.removeprefix(">") for name in lines[::2]], lines[1::2]


def test_without_a_limit_every_domain_is_compared(tmp_path):
    names, sequences = domains_of(tmp_path, None)
    assert len(names) == len(set(names)) > 20
    assert [len(sequence) for sequence in sequences] == sorted(map(len, sequences)), "small ones first"
    assert all((TRUTH / f"{name}.pdb.gz").is_file() for name in names)
    assert domains_of(tmp_path, 1000) == (names, sequences)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 20])
def test_a_limit_keeps_domains_of_all_sizes(tmp_path, limit):
    every, _ = domains_of(tmp_path, None)
    names, _ = domains_of(tmp_path, limit)
    assert 1 <= len(names) <= limit
    places = [every.index(name) for name in names]
    assert places[0] == 0 and len(set(np.diff(places))) <= 1, "evenly"
    assert places[-1] + (places[1] if limit > 1 else len(every)) >= len(every), "to the end"


@pytest.fixture(scope="module")
def complexes(tmp_path_factory, components):
    """The two complexes: their jobs, and the folder of their structures."""
    path, truth = reproduce_table._complexes(tmp_path_factory.mktemp("complexes"))
    inputs = load_inputs(path, components)
    assert inputs.rejected == ()
    return {job.name: job for job in inputs.jobs}, truth


def chains_of(job):
    """Kind, fields and number of each polymer of a job."""
    entities = [next(iter(entity.items())) for entity in job.document["sequences"]]
    return [(kind, fields) for kind, fields in entities if "sequence" in fields]


def test_the_complexes_are_two_jobs_in_the_order_of_the_paper(complexes):
    jobs, truth = complexes
    assert list(jobs) == ["7wux", "7r6r"] == list(COMPLEXES)
    assert sorted(path.name for path in truth.iterdir()) == ["7r6r.cif.gz", "7wux.cif.gz"]


def query(path):
    """The first sequence of an alignment."""
    name, _, rest = path.read_text().partition("\n")
    assert name.startswith(">")
    return rest.partition("\n>")[0].replace("\n", "")


@pytest.mark.parametrize("name", COMPLEXES)
def test_every_protein_has_its_alignments_wherever_the_run_is(complexes, name):
    proteins = [fields for kind, fields in chains_of(complexes[0][name]) if kind == "proteinChain"]
    assert proteins
    for fields in proteins:
        for field in ("pairedMsaPath", "unpairedMsaPath"):
            path = Path(fields[field])
            assert path.is_absolute() and query(path) == fields["sequence"]
            assert path.read_text().count("\n>") > 100


def is_part(part, sequence):
    """Whether the residues that are resolved are of a sequence, in that order."""
    letters = iter(sequence)
    return all(letter in letters for letter in str(part.sequence))


@pytest.mark.parametrize("name", COMPLEXES)
def test_the_experimental_structure_is_of_the_same_chains(complexes, name):
    jobs, truth = complexes
    kinds = {"proteinChain": gemmi.PolymerType.PeptideL, "dnaSequence": gemmi.PolymerType.Dna}
    wanted = Counter()
    for kind, fields in chains_of(jobs[name]):
        wanted[kinds[kind], fields["sequence"]] += fields["count"]
    assembly = open_assembly(truth / f"{name}.cif.gz")
    found = Counter()
    for chain in assembly.chains:
        if chain.is_polymer:
            letters = gemmi.one_letter_code(list(chain.sequence)).upper()
            found[chain.polymer_type, letters] += len(chain.places)
    assert found == wanted
    atoms = read_assembly(truth / f"{name}.cif.gz")
    parts = [part for part in parts_of(atoms) if part.kind in POLYMERS]
    assert len(parts) == sum(wanted.values())
    assert all(any(is_part(part, sequence) for _, sequence in wanted) for part in parts)
    # What is resolved is most of what is predicted.
    predicted = sum(len(sequence) * count for (_, sequence), count in wanted.items())
    assert 0.8 * predicted < sum(map(len, parts)) <= predicted


# What is shown of any report


def made_up(*names):
    report = copy.deepcopy(report_made_up.report(names))
    report["provenance"]["machine"] = {"cpu": "a processor", "threads": 2}
    return report


def test_of_two_entries_each_has_a_table_and_both_have_one():
    report = made_up("1igdA00", "1hz6B00")
    text = tables(record_of(report))
    first, second, both = rows_of(text)
    assert [len(table) for table in (first, second, both)] == [6, 6, 6]
    assert first[0] == second[0] == COLUMNS and both[0] == [*COLUMNS, "verdict"]
    titles = [line for line in text.splitlines() if line.endswith(":")]
    assert titles == ["1igdA00, 61 tokens:", "1hz6B00, 63 tokens:", "2 entries of 61 to 63 tokens, means:"]
    means = {row["method"]: row["measures"] for row in report["summary"]}
    by_label = {row[0]: row for row in both}
    assert by_label["FlashBias"][1] == f"{means['flashbias']['ptm']['mean']:.4f}"
    assert by_label["FlashBias"][4] == (
        f"{means['stock']['wall_s']['mean'] / means['flashbias']['wall_s']['mean']:.2f}"
    )
    assert by_label["FlashBias"][7] == next(
        row["verdict"] for row in report["summary"] if row["method"] == "flashbias"
    )


def test_of_more_entries_there_is_one_table():
    text = tables(record_of(made_up("1igdA00", "1hz6B00", "1g6xA00")))
    (only,) = rows_of(text)
    assert len(only) == 6 and text.startswith("3 entries of 58 to 63 tokens, means:")
    assert "a processor, 2 threads; torch 2.13.0; commit 53774bd;" in text


def test_a_card_is_named_instead_of_the_processor_and_changes_are_said():
    report = made_up("1igdA00")
    report["provenance"]["machine"]["gpu"] = "a card"
    report["provenance"]["commit"] = "0123456789abcdef with changes"
    text = tables(record_of(report))
    assert "\na card; torch" in text and "a processor" not in text
    assert "commit 0123456789ab with changes;" in text
    report["provenance"]["commit"] = None
    assert "commit unknown;" in tables(record_of(report))


def test_an_entry_without_a_structure_has_empty_cells():
    report = made_up("1igdA00")
    for result in report["entries"][0]["results"]:
        result["to_truth"] = None
    (table,) = rows_of(tables(record_of(report)))
    assert {row[6] for row in table[1:]} == {""}


def failed(report, key):
    """The report had a method failed in every entry."""
    for entry in report["entries"]:
        entry["results"] = [one for one in entry["results"] if one["method"] != key]
    for row in report["summary"]:
        if row["method"] == key:
            row |= {"measures": {}, "same": None, "verdict": None}
    return report


def test_a_method_that_failed_is_left_out_of_an_entrys_table():
    (table,) = rows_of(tables(record_of(failed(made_up("1igdA00"), "dense"))))
    assert [row[0] for row in table[1:]] == ["stock", "FlashBias", "without bias", "stock, seed 102"]


def test_a_method_that_failed_everywhere_leaves_the_others_table():
    table = rows_of(tables(record_of(failed(made_up("1igdA00", "1hz6B00"), "dense"))))[-1]
    assert {"stock", "FlashBias", "without bias"} <= {row[0] for row in table}


# The page


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page with the place of a table, and the record of it."""
    path = tmp_path / "compare.md"
    path.write_text("# Title\n\n<!-- table mine -->\nold\n<!-- end -->\n\nThe end.\n")
    path.with_suffix("").mkdir()
    record = record_of(made_up("1igdA00"))
    (tmp_path / "compare" / "mine.json").write_text(json.dumps(record))
    monkeypatch.setattr(reproduce_table, "PAGE", path)
    return path, tables(record)


def test_the_page_has_the_tables_of_its_records(page):
    path, table = page
    before = path.read_text()
    assert main(["--page", "--check"]) == 1
    assert path.read_text() == before
    assert main(["--page"]) == 0
    assert path.read_text() == f"# Title\n\n<!-- table mine -->\n{table}<!-- end -->\n\nThe end.\n"
    assert main(["--page", "--check"]) == 0
    path.write_text(path.read_text().replace("0.", "1.", 1))
    assert main(["--page", "--check"]) == 1


def test_a_record_that_is_not_there_is_said(page, capsys):
    path, _ = page
    (path.with_suffix("") / "mine.json").unlink()
    assert main(["--page"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert "old" in path.read_text()


# The arguments


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--model: expected the name of a model"),
        (["--model", ""], "--model"),
        (["--model", "nonsense"], "unknown model 'nonsense'"),
        (["--model", "demo", "--limit", "0"], "--limit: expected a number of at least 1"),
        (["--model", "demo", "--limit", "-3"], "--limit"),
        (["--model", "demo", "--limit", "some"], "--limit"),
        (["--model", "demo", "--repeats", "0"], "--repeats: expected a number from 1 to 1000"),
        (["--model", "demo", "--repeats", "1001"], "--repeats"),
        (["--model", "demo", "--repeats", "often"], "--repeats"),
        (["--model", "demo", "--samples", "0"], "--samples"),
        (["--model", "demo", "--samples", "1.5"], "--samples"),
        (["--model", "demo", "--dtype", "fp16"], "--dtype"),
        (["--model", "demo", "--device", "tpu"], "--device"),
        (["--model", "demo", "--record", "no/such/folder/record.json"], "no/such/folder"),
        (["--check"], "--check: is for --page"),
        (["--model", "demo", "--check"], "--check: is for --page"),
        (["--mod", "demo"], "--mod"),
        (["--model", "demo", "something"], "something"),
    ],
)
def test_what_is_wrong_with_the_arguments_is_said_in_a_line(tmp_path, capsys, options, said):
    assert main(["--out", str(tmp_path / "out"), *options]) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert said in printed.err
    assert not list(tmp_path.rglob("report.*"))


def test_without_a_gpu_it_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--model", "demo", "--out", str(tmp_path / "out"), "--device", "cuda"]) == 2
    reading, error = capsys.readouterr().err.splitlines()
    assert reading.startswith("reading 48 records of ")
    assert error.startswith("error: --device cuda: ")


def test_the_help_says_what_it_is_for(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "The table of the FlashBias poster" in capsys.readouterr().out


def test_the_tables_in_docs_are_those_of_the_records():
    assert main(["--page", "--check"]) == 0
