"""Plans: what a file may say, and which rule decides for a layer."""

from fnmatch import fnmatchcase

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

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
        Rule("d", "lowrank", 8, 0.25, gpu="NVIDIA [H]*", tokens=(3, None)),
        Rule("e", "dense", tokens=(1, 1)),
        Rule("*", "stock", gpu="cpu"),
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
        (
            "- x",
            "rule 1: expected fields (layers, way, rank, tolerance, reach, factors, gpu, tokens), got 'x'",
        ),
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
        ("- {layers: x, way: dense, gpu: ''}", "rule 1: gpu: expected a pattern of names, got ''"),
        ("- {layers: x, way: stock, gpu: [cpu]}", "gpu: expected a pattern of names, got ['cpu']"),
        ("- {layers: x, way: dense, gpu:}", "gpu: expected a pattern of names, got None"),
        *(
            (
                f"- {{layers: x, way: dense, tokens: {value}}}",
                "rule 1: tokens: expected [from, to], whole numbers from 1, to not below from or null for no "
                f"end, got {shown}",
            )
            for value, shown in (
                ("5", "5"),
                ("[5]", "[5]"),
                ("[1, 2, 3]", "[1, 2, 3]"),
                ("[0, 5]", "[0, 5]"),
                ("[null, 5]", "[None, 5]"),
                ("[6, 5]", "[6, 5]"),
                ("[1, 5.5]", "[1, 5.5]"),
                ("[true, 5]", "[True, 5]"),
                ("[1, true]", "[1, True]"),
                ("['1', '5']", "['1', '5']"),
                ("{from: 1}", "{'from': 1}"),
                ("null", "None"),
            )
        ),
        ("- {layers: x, way: lowrank, rank: 8, tokens: [1, 2]}", "rule 1: tolerance: expected"),
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


# Conditions

GPUS = ("cpu", "NVIDIA H100", "NVIDIA H200", "NVIDIA H200 NVL", "NVIDIA A10G", "GPU [rev 2]")
PATTERNS = (None, "*", "cpu", "NVIDIA*", "NVIDIA H?00", "NVIDIA H200", "NVIDIA H200*", "GPU [rev 2]", "*0*")
SIZES = st.integers(1, 40)
RANGES = st.one_of(
    st.none(),
    st.tuples(SIZES, st.none()),
    st.tuples(SIZES, SIZES).map(lambda ends: tuple(sorted(ends))),
)
RULES = st.lists(
    st.builds(
        Rule,
        st.sampled_from(["*", "a*", "*b", "ab"]),
        st.sampled_from(["dense", "stock", "none"]),
        gpu=st.sampled_from(PATTERNS),
        tokens=RANGES,
    ),
    max_size=6,
)


def test_a_rule_holds_where_both_conditions_do():
    rule = Rule("*", "dense", gpu="NVIDIA H200*", tokens=(64, 128))
    assert all(rule.holds("NVIDIA H200", tokens) for tokens in (64, 100, 128))
    assert not any(rule.holds("NVIDIA H200", tokens) for tokens in (1, 63, 129))
    assert rule.holds("NVIDIA H200 NVL", 64)
    assert not any(rule.holds(name, 64) for name in ("NVIDIA H100", "nvidia h200", "An NVIDIA H200", "cpu"))
    assert Rule("*", "dense", tokens=(5, None)).holds("cpu", 10**9)
    assert Rule("*", "dense").holds("cpu", 1)
    assert Rule("*", "dense", gpu="GPU [rev 2]").holds("GPU [rev 2]", 1)
    assert not Rule("*", "dense", gpu="GPU [rev 2]").holds("GPU r", 1)


def test_conditions_are_for_every_way(tmp_path):
    (tmp_path / "f").write_bytes(b"")
    computed = "way: lowrank, rank: 8, tolerance: 0.5"
    ways = "way: dense", "way: stock", computed, computed.replace("lowrank", "neural") + ", factors: f"
    lines = [f"- {{layers: x, {way}, gpu: cpu, tokens: [2, null]}}" for way in ways]
    plan = load(tmp_path, "\n".join(lines))
    assert [rule.way for rule in plan.at("cpu", 2).rules] == ["dense", "stock", "lowrank", "neural"]
    assert plan.at("cpu", 1).rules == plan.at("NVIDIA H200", 2).rules == ()
    assert {(rule.gpu, rule.tokens) for rule in plan.rules} == {("cpu", (2, None))}


@given(RULES, st.sampled_from(GPUS), SIZES, st.sampled_from(["ab", "a", "b", "c"]))
@settings(deadline=None)
def test_the_first_rule_that_holds_and_fits_decides(rules, gpu, tokens, layer):
    expected = "dense"
    for rule in reversed(rules):
        first, last = rule.tokens or (1, 99)
        pattern = "*" if rule.gpu is None else rule.gpu
        on_gpu = gpu == pattern or ("[" not in pattern and fnmatchcase(gpu, pattern))
        if on_gpu and tokens in range(first, (last or 99) + 1) and fnmatchcase(layer, rule.layers):
            expected = rule.way
    plan = Plan("x", tuple(rules), "digest")
    found = plan.at(gpu, tokens)
    assert found.rule(layer).way == expected
    assert (found.name, found.digest) == ("x", "digest")
    assert set(found.rules) <= set(rules)


@given(RULES)
@settings(deadline=None)
def test_every_set_of_rules_that_holds_somewhere_is_a_variant(rules):
    """Of a rule that holds, and of the GPUs here: real names are among those that variants think of."""
    plan = Plan("x", tuple(rules))
    variants = plan.variants()
    assert len({variant.rules for variant in variants}) == len(variants)
    assert {rule for variant in variants for rule in variant.rules} == set(rules)
    patterns = {rule.gpu or "*" for rule in rules}
    for gpu in patterns - {pattern for pattern in patterns if set(pattern) & set("*?")}:
        for tokens in range(1, 43):
            assert plan.at(gpu, tokens) in variants


@given(RULES)
@settings(deadline=None)
def test_rules_with_conditions_are_written_as_they_were(tmp_path_factory, rules):
    rules = [rule for rule in rules if rule.way != "none"]
    if rules:
        written = yaml.safe_dump(Plan("plan", tuple(rules)).as_list())
        assert load(tmp_path_factory.mktemp("plan"), written).rules == tuple(rules)


def test_what_ships_is_exact_where_factors_gain_nothing():
    plan = Plan.load(resource("configs", "plans", "demo.yaml"))
    layer = "confidence_head.pairformer_stack.blocks.0.tri_att_start"
    for gpu, tokens, way in (
        ("NVIDIA H200", 1, "dense"),
        ("NVIDIA H200", 1024, "dense"),
        ("NVIDIA H200", 1025, "neural"),
        ("NVIDIA H100", 64, "neural"),
        ("cpu", 64, "neural"),
    ):
        assert plan.at(gpu, tokens).rule(layer).way == way
