"""Plans: what a file may say, and which rule decides for a layer."""

import pytest
import yaml

from flashbias_fold.errors import UsageError
from flashbias_fold.pairformer import Plan, Rule
from flashbias_fold.resources import resource


def load(tmp_path, text):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    return Plan.load(path)


def test_the_first_rule_that_fits_decides(tmp_path):
    plan = load(
        tmp_path,
        """
        - {layers: "confidence_head.*", way: stock}
        - {layers: "*.blocks.?.tri_att_start", way: lowrank, rank: 24, tolerance: 0.1}
        """,
    )
    assert plan.rule("confidence_head.blocks.0.tri_att_start").way == "stock"
    assert plan.rule("trunk.blocks.3.tri_att_start") == Rule(
        "*.blocks.?.tri_att_start", "lowrank", 24, 0.1, reach=16
    )
    assert plan.rule("trunk.blocks.13.tri_att_start").way == "dense"
    assert plan.rule("trunk.blocks.3.tri_att_end").way == "dense"


def test_a_plan_that_is_written_is_read_as_it_was(tmp_path):
    rules = [
        Rule("a*", "lowrank", 8, 0.25, reach=5),
        Rule("c", "lowrank", 8, 0.25),
        Rule("b", "dense"),
        Rule("*", "stock"),
    ]
    assert load(tmp_path, yaml.safe_dump(Plan("plan", tuple(rules)).as_list())).rules == tuple(rules)


@pytest.mark.parametrize("bias", ["dense", "none", "stock"])
def test_a_way_for_all(bias):
    assert Plan.for_bias(bias).rule("anything").way == bias


def test_without_a_plan_flashbias_is_exact():
    assert Plan.for_bias("flashbias").rule("anything").way == "dense"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected a list of rules"),
        ("layers: x", "expected a list of rules"),
        ("[]", "expected a list of rules"),
        ("- x", "rule 1: expected fields (layers, way, rank, tolerance, reach, factors), got 'x'"),
        ("- {layers: x, way: dense}\n- {layers: x, ways: dense}", "rule 2: 'ways' is none of layers, way"),
        ("- {way: dense}", "rule 1: layers: expected a pattern of names, got None"),
        ("- {layers: [x], way: dense}", "rule 1: layers: expected a pattern of names, got ['x']"),
        (
            "- {layers: x, way: none}",
            "rule 1: way: expected one of neural, lowrank, dense, stock, got 'none'",
        ),
        ("- {layers: x, way: [dense]}", "rule 1: way: expected one of neural, lowrank, dense, stock"),
        ("- {layers: x, way: dense, rank: 3}", "rule 1: rank is not for dense"),
        ("- {layers: x, way: lowrank, tolerance: 0.1}", "rank: expected a number from 1 to 128, got None"),
        (
            "- {layers: x, way: lowrank, rank: 0, tolerance: 0.1}",
            "rank: expected a number from 1 to 128, got 0",
        ),
        ("- {layers: x, way: lowrank, rank: true, tolerance: 0.1}", "got True"),
        ("- {layers: x, way: lowrank, rank: 8}", "tolerance: expected a number above 0, up to 1, got None"),
        ("- {layers: x, way: lowrank, rank: 8, tolerance: .nan}", "up to 1, got nan"),
        ("- {layers: x, way: lowrank, rank: 8, tolerance: 0}", "above 0, up to 1, got 0"),
        ("- {layers: x, way: lowrank, rank: 8, tolerance: 5 %}", "got '5 %'"),
        (
            "- {layers: x, way: lowrank, rank: 8, tolerance: 1, reach: -1}",
            "reach: expected a number from 0 to 256",
        ),
        ("- {layers: x, way: lowrank, rank: 8, tolerance: 1, reach: 300}", "from 0 to 256, got 300"),
        ("- {layers: x, way: dense, reach: 3}", "rule 1: reach is not for dense"),
        ("- {layers: x", "is no YAML file"),
        ("- !!python/object/apply:os.system [true]", "is no YAML file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, text, why):
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert why in str(caught.value)
    assert str(caught.value).startswith(f"--plan: {tmp_path / 'plan.yaml'}")


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "plan.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is no YAML file"):
        Plan.load(tmp_path / "plan.yaml")
    with pytest.raises(UsageError, match="Is a directory"):
        Plan.load(tmp_path)


def test_plans_that_ship_can_be_read():
    files = sorted(resource("configs", "plans").glob("*.yaml"))
    assert files
    assert all(Plan.load(file).rules for file in files)
