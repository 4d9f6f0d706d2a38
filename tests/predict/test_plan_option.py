"""`predict --plan`: what runs, what reports say of it, and what is refused."""

import pytest
from command_line import TINY, call, errors_in, predictions, report_of, run_json
from command_line import write_jobs as write
from conftest import SEQUENCE, protein

JOBS = [protein("one", SEQUENCE[:20]), protein("two", SEQUENCE[5:30])]
PLAN = """
- {layers: "confidence_head.*", way: stock}
- {layers: "*.tri_att_start", way: lowrank, rank: 12, tolerance: 0.9}
- {layers: "pairformer_stack.blocks.0.tri_att_end", way: lowrank, rank: 1, reach: 0, tolerance: 0.000001}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A plan and jobs, predicted together: two seeds each, two cycles."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "plan.yaml").write_text(PLAN)
    jobs = write(folder / "jobs.json", *JOBS)
    call(
        "predict",
        jobs,
        "--out",
        folder / "out",
        *TINY,
        "--cycles",
        2,
        "--seeds",
        "1,2",
        *plan(folder),
        check=0,
    )
    return folder


def plan(folder):
    return "--plan", folder / "plan.yaml"


def test_the_report_says_what_each_layer_did(folder):
    layers = {layer["name"]: layer for layer in report_of(folder / "out", "one")["layers"]}
    ways = {name: layer["way"] for name, layer in layers.items()}
    # The stock layers of the confidence head are not replaced; where no rule fits the bias is exact.
    assert sum("tri_att" in name for name in ways) == 10
    assert {way for name, way in ways.items() if "pair_bias" in name} == {"dense"} and len(ways) == 18
    assert {way for name, way in ways.items() if name.endswith("start")} == {"lowrank"}
    strict = layers.pop("pairformer_stack.blocks.0.tri_att_end")
    # Two cycles, and no error is as small as that: of a rank of 1.
    assert strict | {"name": ""} == {
        "name": "",
        "way": "lowrank",
        "rank": 1,
        "reach": 0,
        "certified_error": 0.0,
        "fallbacks": 2,
    }
    for layer in layers.values():
        if layer["way"] == "lowrank":
            assert layer["rank"] == 12
            assert 1e-5 < layer["certified_error"] < 0.9
            assert layer["fallbacks"] == 0
        else:
            assert (layer["way"], layer["rank"], layer["certified_error"]) == ("dense", None, 0.0)


def test_run_json_holds_the_plan(folder):
    held = run_json(folder / "out")["plan"]
    assert held["name"] == str(folder / "plan.yaml")
    assert held["rules"][1] == {
        "layers": "*.tri_att_start",
        "way": "lowrank",
        "rank": 12,
        "tolerance": 0.9,
        "reach": 16,
    }


def test_a_result_depends_on_nothing_that_a_layer_remembers(folder, tmp_path):
    """Another order of jobs and seeds, the same bytes."""
    jobs = write(tmp_path / "jobs.json", JOBS[1])
    call(
        "predict",
        jobs,
        "--out",
        tmp_path / "out",
        *TINY,
        "--cycles",
        2,
        "--seeds",
        "2",
        *plan(folder),
        check=0,
    )
    again, before = predictions(tmp_path / "out"), predictions(folder / "out")
    assert again
    assert again == {name: before[name] for name in again}


def test_results_of_another_plan_are_not_taken_for_these(folder, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(PLAN.replace("12", "13"))
    options = (folder / "jobs.json", "--out", folder / "out", *TINY, "--cycles", 2, "--seeds", "1,2")
    same = call("predict", *options, *plan(folder), check=0)
    assert "already complete, skipped\n" in same.stderr
    changed = call("predict", *options, "--plan", other, check=1)
    assert "one holds a result made with another plan; " in changed.stderr


def test_a_rule_may_hold_for_some_jobs_only(folder, tmp_path):
    """Those of 20 tokens and of 25, with a way each; what runs is reported, and what it might be."""
    (tmp_path / "plan.yaml").write_text(
        "- {layers: '*', way: dense, tokens: [1, 20]}\n"
        "- {layers: '*', way: dense, gpu: 'NVIDIA*'}\n"
        "- {layers: '*.tri_att_*', way: lowrank, rank: 4, tolerance: 1, gpu: cpu}\n"
    )
    jobs, out = folder / "jobs.json", tmp_path / "out"
    call("predict", jobs, "--out", out, *TINY, "--plan", tmp_path / "plan.yaml", check=0)
    ways = {
        name: {layer["way"] for layer in report_of(out, name)["layers"] if "tri_att" in layer["name"]}
        for name in ("one", "two")
    }
    assert ways == {"one": {"dense"}, "two": {"lowrank"}}
    assert [(rule.get("gpu"), rule.get("tokens")) for rule in run_json(out)["plan"]["rules"]] == [
        (None, [1, 20]),
        ("NVIDIA*", None),
        ("cpu", None),
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- {layers: '*', way: fast}", "expected one of neural, lowrank, dense, stock, got 'fast'"),
        ("- {layers: 'nothing*', way: dense}", "'nothing*' decides for no layer of the model"),
        ("- {layers: 'nothing*', way: dense, tokens: [9, 9]}", "'nothing*' decides for no layer of the"),
        ("- {layers: '*', way: dense, tokens: 9}", "tokens: expected [from, to], whole numbers from 1"),
    ],
)
def test_a_wrong_plan_ends_the_run_with_one_line(folder, tmp_path, text, why):
    (tmp_path / "plan.yaml").write_text(text)
    jobs = folder / "jobs.json"
    done = call("predict", jobs, "--out", tmp_path / "out", *TINY, "--plan", tmp_path / "plan.yaml", check=2)
    (line,) = errors_in(done.stderr)
    assert why in line


def test_a_plan_is_for_flashbias(folder, tmp_path):
    jobs = folder / "jobs.json"
    done = call("predict", jobs, "--out", tmp_path / "out", *TINY, "--bias", "dense", *plan(folder), check=2)
    assert errors_in(done.stderr) == ["error: --plan: is for --bias flashbias, not for dense"]
    done = call("predict", jobs, "--out", tmp_path / "out", *TINY, "--plan", tmp_path / "none.yaml", check=2)
    assert errors_in(done.stderr) == [f"error: --plan: {tmp_path / 'none.yaml'}: No such file or directory"]
    assert not (tmp_path / "out").exists()
