"""`plan`: the smallest rank that is near enough, a reason for each layer, and a file that `predict` takes."""

import pytest
from command_line import call, errors_in

from flashbias_fold.calibrate.planning import plan_from
from flashbias_fold.errors import UsageError
from flashbias_fold.factorize.store import FactorFile
from flashbias_fold.pairformer import Plan
from flashbias_fold.resources import resource

SHIPPED = resource("data", "demo", "factors.safetensors")


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
