"""`plan`: the smallest rank that is near enough, a reason for each layer, and a file that `predict` takes."""

import json
from itertools import pairwise

import pytest
from command_line import call, errors_in
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from flashbias_fold.calibrate.planning import plan_from
from flashbias_fold.calibrate.speed import Speed, Stretch
from flashbias_fold.errors import UsageError
from flashbias_fold.factorize.store import FactorFile
from flashbias_fold.pairformer import Plan
from flashbias_fold.resources import resource

SHIPPED = resource("data", "demo", "factors.safetensors")
RECORD = ROOT / "docs" / "benchmarks" / "model-cpu.json"


def errors(**largest):
    """By way: the largest error at rank 4, 8 and 16."""
    return {
        way: {
            rank: {"mean": 0.5 * error, "largest": error}
            for rank, error in zip(["4", "8", "16"], found, strict=True)
        }
        for way, found in largest.items()
    }


@pytest.fixture
def factors(tmp_path):
    """Networks of one layer only, but errors of four."""
    shipped = FactorFile.load(SHIPPED)
    shipped.errors = {
        "networks are nearer": errors(neural=(0.3, 0.04, 0.01), lowrank=(0.4, 0.06, 0.02)),
        "computed is nearer": errors(neural=(0.3, 0.2, 0.06), lowrank=(0.3, 0.05, 0.01)),
        "both at once": errors(neural=(0.049, 0.03, 0.01), lowrank=(0.01, 0.01, 0.01)),
        "neither": errors(neural=(0.9, 0.8, 0.7), lowrank=(0.9, 0.8, 0.6)),
    }
    path = tmp_path / "made" / "f.safetensors"
    path.parent.mkdir()
    shipped.save(path)
    return path


def test_the_smallest_rank_within_the_tolerance(factors, tmp_path):
    found = {one.layer: one for one in plan_from(factors, 0.05, tmp_path / "plan.yaml")}
    assert {layer: (one.way, one.rank) for layer, one in found.items()} == {
        "networks are nearer": ("neural", 8),
        "computed is nearer": ("lowrank", 8),
        "both at once": ("neural", 4),
        "neither": ("dense", None),
    }
    assert found["networks are nearer"].why == "0.300 at the rank below"
    assert found["both at once"].why == "at the smallest rank that was measured"
    assert found["neither"].why == "0.600 at best, with rank 16"


def test_the_plan_is_one(factors, tmp_path):
    plan_from(factors, 0.05, tmp_path / "plans" / "plan.yaml")
    plan = Plan.load(tmp_path / "plans" / "plan.yaml")
    assert [path.resolve() for path in plan.factor_files()] == [factors.resolve()]
    assert plan.rule("networks are nearer").tolerance == 0.05
    assert plan.rule("neither").way == "dense"


def test_a_smaller_tolerance_asks_for_more(tmp_path):
    def ranks(tolerance):
        found = plan_from(SHIPPED, tolerance, tmp_path / "plan.yaml")
        assert len(found) == 12
        return [one.rank or 1000 for one in found]

    loose, middle, strict = map(ranks, (0.3, 0.1, 0.03))
    assert loose != middle != strict
    for less, more in ((loose, middle), (middle, strict)):
        assert all(one <= other for one, other in zip(less, more, strict=True))


def test_the_command_says_why_and_predict_takes_the_plan(tmp_path):
    from command_line import TINY, report_of
    from command_line import write_jobs as write
    from conftest import SEQUENCE, protein

    out = tmp_path / "plan.yaml"
    done = call("plan", SHIPPED, "--tolerance", 0.2, "--out", out, check=0)
    assert "pairformer_stack.blocks.3.tri_att_start" in done.stdout and "at the rank below" in done.stdout
    assert f"layers by factors; plan in {out}" in done.stdout
    jobs = write(tmp_path / "jobs.json", protein("one", SEQUENCE[:20]))
    call("predict", jobs, "--out", tmp_path / "out", *TINY, "--plan", out, check=0)
    ways = [
        layer["way"] for layer in report_of(tmp_path / "out", "one")["layers"] if "tri_att" in layer["name"]
    ]
    assert set(ways) <= {"neural", "lowrank", "dense"} and ways.count("dense") < 6


def test_what_is_wrong_is_said_in_one_line(tmp_path):
    out = tmp_path / "plan.yaml"
    for arguments, why in (
        ((SHIPPED, "--tolerance", 0), "--tolerance: expected a number above 0, up to 1, got 0"),
        ((SHIPPED, "--tolerance", "nan"), "got nan"),
        ((SHIPPED, "--tolerance", "a lot"), "--tolerance"),
        ((tmp_path / "none", "--tolerance", 0.1), "none: No such file"),
        ((resource("data", "demo", "demo.safetensors"), "--tolerance", 0.1), "no file of factor networks"),
    ):
        done = call("plan", *arguments, "--out", out, check=2)
        assert len(errors_in(done.stderr)) == 1 and why in errors_in(done.stderr)[0]
    assert not out.exists()


def test_a_file_without_errors_is_refused(tmp_path):
    shipped = FactorFile.load(SHIPPED)
    shipped.errors = {}
    shipped.save(tmp_path / "f.safetensors")
    with pytest.raises(UsageError, match="has no errors to choose by"):
        plan_from(tmp_path / "f.safetensors", 0.1, tmp_path / "plan.yaml")


# By measured speed


def row(tokens, method, seconds, job=None, ways=("dense", "neural")):
    return {
        "job": job or f"{tokens} tokens",
        "tokens": tokens,
        "method": method,
        "parts": {"total": {"median_s": seconds}},
        "ways": dict.fromkeys(ways if method == "flashbias" else (), 1),
    }


def rows(*sizes):
    """Of tokens, seconds with the exact bias, and with factors."""
    return [
        row(tokens, method, seconds)
        for tokens, dense, factors in sizes
        for method, seconds in (("dense", dense), ("flashbias", factors), ("stock-torch", 0.01))
    ]


def a_record(rows, **machine):
    return {"benchmark": "model", "options": {"model": "demo"}, "machine": machine, "rows": rows}


@pytest.fixture
def record(tmp_path):
    """Write a record, and read it."""

    def make(rows, **machine):
        path = tmp_path / "model.json"
        path.write_text(json.dumps(a_record(rows, **machine)))
        return Speed.load(path)

    return make


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(64, 1, 2), (128, 1, 2), (1024, 1, 2)], [(1, 1024)]),
        ([(64, 1, 1)], [(1, 64)]),
        ([(64, 2, 1), (1024, 2, 1)], []),
        ([(64, 1, 2), (256, 2, 1)], [(1, 128)]),
        ([(64, 2, 1), (256, 1, 2)], [(129, 256)]),
        ([(256, 2, 1), (64, 1, 2)], [(1, 128)]),
        ([(64, 1, 2), (65, 2, 1), (66, 1, 2)], [(1, 64), (66, 66)]),
        ([(32, 1, 2), (128, 2, 1), (512, 1, 2), (600, 1, 2), (2400, 3, 1)], [(1, 64), (257, 1200)]),
    ],
)
def test_the_exact_bias_is_chosen_where_it_is_as_fast(record, sizes, expected):
    assert record(rows(*sizes)).stretches() == [Stretch(*ends) for ends in expected]


@given(st.dictionaries(st.integers(1, 5000), st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1))
def test_each_size_that_was_measured_is_decided_by_itself(seconds):
    sizes = sorted(seconds)
    found = Speed("r", "demo", "cpu", {size: seconds[size] for size in sizes}).stretches()
    for size in sizes:
        inside = any(one.first <= size <= one.last for one in found)
        assert inside == (seconds[size][0] <= seconds[size][1])
    assert all(one.first <= one.last <= sizes[-1] for one in found)
    # Apart: what is next to each other is one.
    assert all(one.last + 1 < other.first for one, other in pairwise(found))


def test_the_plan_begins_with_what_was_measured(record, tmp_path):
    speed = record(rows((32, 1, 2), (128, 2, 1), (512, 1, 2)), gpu="NVIDIA H200")
    found = plan_from(SHIPPED, 0.2, tmp_path / "plan.yaml", speed)
    assert found == plan_from(SHIPPED, 0.2, tmp_path / "other.yaml")
    plan, other = (Plan.load(tmp_path / name) for name in ("plan.yaml", "other.yaml"))
    assert [(rule.layers, rule.way, rule.gpu, rule.tokens) for rule in plan.rules[:2]] == [
        ("*", "dense", "NVIDIA H200", (1, 64)),
        ("*", "dense", "NVIDIA H200", (257, 512)),
    ]
    assert plan.rules[2:] == other.rules
    text = (tmp_path / "plan.yaml").read_text()
    assert "# On NVIDIA H200: the exact bias at 1 to 64 and 257 to 512 tokens, by what model.json" in text
    assert "# 128 tokens: exact bias 2, factors 1\n" in text


def test_where_factors_win_everywhere_the_plan_says_so(record, tmp_path):
    plan_from(SHIPPED, 0.2, tmp_path / "plan.yaml", record(rows((32, 2, 1))))
    plan_from(SHIPPED, 0.2, tmp_path / "other.yaml")
    assert Plan.load(tmp_path / "plan.yaml").rules == Plan.load(tmp_path / "other.yaml").rules
    assert "# On cpu: factors at every size, by what model.json" in (tmp_path / "plan.yaml").read_text()


def test_the_plan_that_ships_is_by_the_record_that_ships():
    speed = Speed.load(RECORD.with_name("model-demo-h200.json"))
    first = Plan.load(resource("configs", "plans", f"{speed.model}.yaml")).rules[0]
    assert (first.layers, first.way, first.gpu) == ("*", "dense", speed.gpu)
    assert [first.tokens] == [(one.first, one.last) for one in speed.stretches()]


def test_jobs_of_one_size_count_together(record):
    both = [
        row(64, "dense", 1.0, "a"), row(64, "flashbias", 2.0, "a"),
        row(64, "dense", 3.0, "b"), row(64, "flashbias", 1.0, "b"),
        row(64, "dense", 9.0, "c"),
    ]  # fmt: skip
    assert record(both).seconds == {64: (4.0, 3.0)}


def test_the_name_of_a_gpu_ends_no_line(record, tmp_path):
    plan_from(SHIPPED, 0.2, tmp_path / "plan.yaml", record(rows((32, 1, 2)), gpu='X "1"\n- oops: {'))
    assert Plan.load(tmp_path / "plan.yaml").rules[0].gpu == 'X "1" - oops: {'


def test_the_command_says_where_the_exact_bias_is_as_fast(tmp_path):
    """By a record that `bench model` has written: on two cores factors gain nothing."""
    from command_line import TINY, report_of
    from command_line import write_jobs as write
    from conftest import SEQUENCE, protein

    out = tmp_path / "plan.yaml"
    done = call("plan", SHIPPED, "--tolerance", 0.2, "--speed", RECORD, "--out", out, check=0)
    assert "On cpu: the exact bias at 1 to 64 tokens, by what model-cpu.json says of" in done.stdout
    assert "32 tokens: exact bias 3.56, factors 3.95\n" in done.stdout
    assert f"layers by factors; plan in {out}" in done.stdout
    jobs = write(tmp_path / "jobs.json", protein("one", SEQUENCE[:20]))
    call("predict", jobs, "--out", tmp_path / "out", *TINY, "--plan", out, check=0)
    assert {layer["way"] for layer in report_of(tmp_path / "out", "one")["layers"]} == {"dense"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "no record of `flashbias-fold bench model`"),
        ("[]", "no record of `flashbias-fold bench model`"),
        ('{"benchmark": "kernels"}', "no record of `flashbias-fold bench model`"),
        (json.dumps(a_record([{"job": "x"}])), "no record of `flashbias-fold bench model`"),
        (json.dumps(a_record(rows((0, 1, 2)))), "no record of `flashbias-fold bench model`"),
        (json.dumps(a_record(rows((64, None, 2)))), "no record of `flashbias-fold bench model`"),
        (json.dumps(a_record(rows((64, float("nan"), 2)))), "no record of `flashbias-fold bench model`"),
        (json.dumps(a_record([row(64, "dense", 1)])), "no size was predicted by both dense and flashbias"),
        (json.dumps(a_record([row(64, "dense", 1), row(65, "flashbias", 1)])), "no size was predicted by"),
        (
            json.dumps(a_record([row(64, "dense", 1), row(64, "flashbias", 1, ways=["dense"])])),
            "at 64 tokens flashbias ran without factors",
        ),
    ],
)
def test_what_is_no_record_of_both_is_refused(tmp_path, text, why):
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        Speed.load(path)
    assert str(caught.value).startswith(f"--speed: {path}: {why}") and "\n" not in str(caught.value)


def test_a_record_of_another_model_or_none_is_refused_by_the_command(tmp_path):
    path, out = tmp_path / "model.json", tmp_path / "plan.yaml"
    path.write_text(json.dumps(a_record(rows((64, 1, 2))) | {"options": {"model": "protenix-v2"}}))
    for record, why in (
        (path, "--speed: model.json is of the model protenix-v2, not of demo"),
        (tmp_path / "none.json", f"--speed: {tmp_path / 'none.json'}: No such file or directory"),
    ):
        done = call("plan", SHIPPED, "--speed", record, "--out", out, check=2)
        assert errors_in(done.stderr) == [f"error: {why}"]
    assert not out.exists()
