"""The pages of benchmarks say what the records say."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "benchmark_page.py"
RECORDS = sorted((ROOT / "docs" / "benchmarks").glob("*.json"))


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("benchmark_page", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_its_tables_and_plots_are_those_of_the_records():
    assert subprocess.run([sys.executable, SCRIPT, "--check"], check=False).returncode == 0


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_a_record_says_where_it_comes_from(record):
    data = json.loads(record.read_text())
    assert record.stem.startswith(data["benchmark"])
    assert len(data["commit"]) == 40
    assert {"python", "torch"} <= data["versions"].keys()
    assert record.with_suffix(".svg").exists() is (data["benchmark"] != "campaign")
    # What is claimed is of a commit; if the checkout was changed, the record says by what.
    assert "note" in data or not data["changed"]
    assert record.with_suffix(".csv").exists() or data["benchmark"] != "kernels"
    if data["benchmark"] == "kernels":
        assert all(row["error"] <= data["largest_right_error"] for row in data["rows"])


def row(tokens, method, *, trunk, diffusion, first=0.0, peak=1, **more):
    """Of which every second is in the layers that are named; a step's preparation runs once."""
    kinds = [
        ("trunk", "triangle attention", trunk * 0.75, 20, trunk * 0.25),
        ("trunk", "everything else", trunk * 0.25, 1, None),
        ("diffusion", "diffusion attention", diffusion * 0.9, 240, None),
        ("diffusion", "pair normalisation in a step", diffusion * 0.1, 1, None),
        ("confidence", "everything else", 0.5, 1, None),
    ]
    return {
        "tokens": tokens,
        "method": method,
        "parts": {
            "trunk": {"rounds_s": [trunk, trunk, trunk * 3]},
            "diffusion": {"rounds_s": [diffusion] * 3},
            "confidence": {"rounds_s": [0.5] * 3},
        },
        "first_s": first,
        "peak_memory_bytes": peak * 2**30,
        "layers": [
            dict(zip(("stage", "kind", "seconds", "calls", "floor_s"), one, strict=True)) for one in kinds
        ],
        "launches": {"cycle": {"count": 5000, "busy_ms": 50.0}, "step": {"count": 700, "busy_ms": 5.0}},
        **more,
    }


def made_up(*rows, **more):
    return {
        "benchmark": "model",
        "options": {"model": "base", "dtype": "bf16", "cycles": 10, "steps": 200, "samples": 5},
        "baseline": "stock-cuequivariance",
        "machine": {"gpu": "a GPU"},
        "weights": "random",
        "rows": list(rows),
        **more,
    }


def cells(table):
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line[:1] == "|"
    ]


@pytest.fixture
def full():
    return made_up(
        row(512, "dense", trunk=1.0, diffusion=2.0, first=33.0, peak=3),
        row(512, "stock-cuequivariance", trunk=2.5, diffusion=2.0, first=10.0, peak=3),
        row(1024, "stock-cuequivariance", trunk=4.0, diffusion=3.0, peak=7),
        row(1024, "dense", trunk=3.0, diffusion=3.0, peak=8),
        row(1024, "flashbias", trunk=3.5, diffusion=3.0, peak=6),
        not_run=[
            {"tokens": None, "method": "stock-deepspeed", "reason": "not here"},
            {"tokens": 512, "method": "flashbias", "reason": "out of memory"},
            {"tokens": 1024, "method": "stock-torch", "reason": "out of memory"},
        ],
    )


def test_speed_has_medians_and_ratios_the_baseline_first(page, full):
    text = page.speed("model-x", full)
    head, _, *lines = cells(text)
    assert [line[:2] for line in lines] == [
        ["512", "stock-cuequivariance"], ["512", "dense"],
        ["1024", "stock-cuequivariance"], ["1024", "dense"], ["1024", "flashbias"],
    ]  # fmt: skip
    assert "measured with" not in head, "none was shortened"
    found = dict(zip(head, lines[1], strict=True))
    assert found["seconds"] == "3.5 (3.5 to 5.5)" and found["trunk"] == "1"
    assert found["times as fast"] == f"{5.0 / 3.5:.2f}" and found["trunk: times as fast"] == "2.50"
    assert (found["first call"], found["peak GiB"]) == ("33", "3.00")
    assert "stock-deepspeed: not here; flashbias at N = 512: out of memory" in text
    assert text.endswith("![model-x](benchmarks/model-x.svg)\n")


def test_shortened_predictions_are_scaled_and_it_is_said(page):
    short = made_up(row(64, "stock-cuequivariance", trunk=1.0, diffusion=2.0, cycles=4, steps=20))
    (run,) = page.runs(short)
    assert run.median("trunk") == 2.5 and run.median("diffusion") == 20.0 and run.median("confidence") == 0.5
    assert run.median("total") == 23.0
    assert run.kinds["trunk", "triangle attention"] == (0.75 * 2.5, pytest.approx(1 / 3))
    assert run.kinds["trunk", "everything else"][0] == 0.25 * 2.5
    assert run.kinds["diffusion", "diffusion attention"][0] == 0.9 * 20
    assert run.kinds["diffusion", "pair normalisation in a step"][0] == 0.2, "once in all, however many steps"
    head, _, line = cells(page.speed("profile-x", short))
    assert dict(zip(head, line, strict=True))["measured with"] == "4 cycles, 20 steps"
    # A cycle takes a quarter of the trunk as it was measured, of which the GPU is busy 50 ms.
    _, _, cycle, step = cells(page.launches("", short))
    assert cycle[2:] == ["cycle", "5,000", "50", "250", "20 %"]
    assert step[2:] == ["step", "700", "5", "100", "5.0 %"]


def test_kinds_make_up_the_whole(page, full):
    head, _, *lines = cells(page.kinds("", full))
    assert head[2:] == ["512, stock", "512, dense", "1024, stock", "1024, dense", "1024, flashbias"]
    column = [line[3] for line in lines]
    assert lines[-1][1] == "all others"
    assert sum(float(cell.split()[0]) for cell in column) == pytest.approx(3.5)
    assert sum(int(cell.split("(")[1].split()[0]) for cell in column) == pytest.approx(100, abs=2)
    assert [line[:2] for line in cells(page.floors("", full))[2:]] == [["trunk", "triangle attention"]]
    assert set(cells(page.floors("", full))[2][2:]) == {"33 %"}


def test_targets_are_met_or_missed_or_not_measured(page, full):
    said = {line[0]: line[1:] for line in cells(page.targets("", full))[2:]}
    whole = {
        size: said[f"whole prediction at least 1.3 times as fast at N = {size}"] for size in (512, 1024, 2048)
    }
    assert whole[512][:2] == ["met", "1.43 times, dense"]
    assert whole[512][2].startswith("diffusion attention 51 %, triangle attention 21 %")
    assert whole[1024][:2] == ["missed", "1.15 times, dense"]
    assert whole[2048] == ["not measured yet", "", ""]
    assert said["trunk at least 1.4 times as fast at N = 1024"][:2] == ["missed", "1.33 times, dense"]
    assert said["never slower at any N"][:2] == ["met", "at N = 512, 1024"]
    assert said["peak memory at most stock's at every N"][:2] == ["missed", "not at N = 1024"]
    assert said["first call at most 20 s later than stock's"][:2] == ["missed", "+23.0 s at N = 512"]


def test_of_a_size_in_several_records_the_last_one_counts(page, full, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    later = json.loads(json.dumps(full))
    later["rows"] = [row for row in later["rows"] if row["tokens"] == 512]
    for part in (part for row in later["rows"] if row["method"] == "dense" for part in row["parts"].values()):
        part["rounds_s"] = [seconds / 2 for seconds in part["rounds_s"]]
    (tmp_path / "model-later.json").write_text(json.dumps(later))
    alone, both = (
        {line[0]: line[2] for line in cells(page.targets("", full, *others))[2:]}
        for others in ((), ("model-later", "model-absent"))
    )
    of_512, of_1024 = (f"whole prediction at least 1.3 times as fast at N = {size}" for size in (512, 1024))
    assert float(both[of_512].split()[0]) == pytest.approx(2 * float(alone[of_512].split()[0]), rel=0.01)
    assert both[of_1024] == alone[of_1024]
    assert both["first call at most 20 s later than stock's"] == "+23.0 s at N = 512"


def test_ours_is_taken_from_the_later_records(page):
    """The first record of memory is of stock: its other rows were measured before ours needed less."""
    data, large = page.read("model-h200-memory"), page.read("model-h200-2048")
    found = {line[0]: line for line in cells(page.memory("", data, "model-h200-2048"))[2:]}
    assert [line[3] for line in found.values()].count("") == len(found) - 1
    (ours,) = (row for row in large["rows"] if row["method"] == "dense")
    assert float(found["2048"][3]) == pytest.approx(ours["peak_memory_bytes"] / 2**30, abs=0.0051)
    stock = next(row for row in data["rows"] if row["tokens"] == 64 and row["method"] == data["baseline"])
    assert float(found["64"][1]) == pytest.approx(stock["peak_memory_bytes"] / 2**30, abs=0.0051)


def test_what_fits_grows_with_the_memory(page):
    lines = cells(page.largest("", page.read("model-h200-memory")))[2:]
    for column in (1, 2):
        sizes = [int(line[column].replace(",", "")) for line in lines]
        assert sizes == sorted(set(sizes)) and sizes[0] > 500
    assert all(int(line[2].replace(",", "")) > int(line[1].replace(",", "")) for line in lines)


def test_a_page_without_its_record_says_so(page, tmp_path, monkeypatch, full):
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    monkeypatch.setattr(page, "PAGES", (tmp_path / "page.md",))
    (tmp_path / "page.md").write_text("a\n<!-- kinds model-x -->\nold\n<!-- end -->\nb\n")
    assert dict(page.files()) == {
        tmp_path / "page.md": "a\n<!-- kinds model-x -->\nNot measured yet.\n<!-- end -->\nb\n"
    }
    (tmp_path / "model-x.json").write_text(json.dumps(full))
    (tmp_path / "profile-y.json").write_text(json.dumps(full))
    made = dict(page.files())
    assert (
        "| trunk | triangle attention |" in made[tmp_path / "page.md"]
        and "old" not in made[tmp_path / "page.md"]
    )
    for name in ("profile-y.svg", "model-x.svg"):
        assert made[tmp_path / name].startswith("<svg")
    (tmp_path / "model-x.csv").touch()
    assert tmp_path / "model-x.svg" not in dict(page.files()), "a run that left its table left its plot"
