"""What a comparison comes to: the verdict of every case, and numbers that can be worked out by hand."""

import json
import sys

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(ROOT / "tests" / "report"))
from jsonschema import Draft202012Validator
from report_schema import SCHEMA

from flashbias_fold.compare.measure import STAGES
from flashbias_fold.compare.outcome import in_words, judgement, outcome, same

NOISE = "stock_seed_102"
LABELS = {
    "stock": "stock",
    "flashbias": "FlashBias",
    "dense": "dense bias",
    "none": "without bias",
    "plan_mine": "mine",
    NOISE: "stock, seed 102",
}


def closeness(lddt, interface):
    kinds = {} if interface is None else {"kind": "interface_lddt", "value": interface}
    return {"lddt_ca": lddt, "lddt_all": lddt, "tm_score": lddt, "rmsd": 0.0, "interface": kinds or None}


def layer(name, error, *, way="lowrank", rank=8, fallbacks=0):
    return {
        "name": name, "way": way, "rank": rank, "reach": 16, "certified_error": error, "fallbacks": fallbacks,
    }  # fmt: skip


def a_result(method, change=None, *, lddt=1.0, interface=None, pae=0.0, wall=10.0, truth=None, **more):
    """Of a method that changes pTM by so much; without that, of stock."""
    changes = dict.fromkeys(("plddt", "ranking_score"), 0.0)
    changes |= {"ptm": change, "iptm": more.pop("iptm_change", None), "pae": pae}
    return {
        "method": method,
        "structure": f"{method}.cif",
        "ptm": 0.8 + (change or 0.0),
        "iptm": None,
        "plddt": 80.0,
        "ranking_score": 0.7,
        "plausible": True,
        "problems": [],
        "stages_s": {stage: wall / len(STAGES) for stage in STAGES},
        "wall_s": wall,
        "runs_s": [wall],
        "peak_memory_bytes": 1000,
        "change": None if change is None else changes,
        "to_stock": None if change is None else closeness(lddt, interface),
        "to_truth": truth,
        "layers": [],
        **more,
    }


def an_entry(*results):
    return {"name": "entry", "results": [a_result("stock"), *results]}


def entries_of(method, changes, noise, lost=None, lost_to_noise=None):
    """Entries of which a method and the noise change pTM by so much each, and lose so much of LDDT."""
    rows = zip(changes, noise, lost or [0.0] * len(noise), lost_to_noise or [0.0] * len(noise), strict=True)
    return [an_entry(a_result(method, a, lddt=1 - c), a_result(NOISE, b, lddt=1 - d)) for a, b, c, d in rows]


def found_of(entries, *keys):
    """The outcome of methods in that order, which is as the schema says."""
    methods = [{"key": key, "label": LABELS[key]} for key in ("stock", *keys, NOISE)]
    found = json.loads(json.dumps(outcome(entries, methods, NOISE)))
    for name, part in found.items():
        rules = {**SCHEMA["properties"][name], "$defs": SCHEMA["$defs"]}
        assert not [error.message for error in Draft202012Validator(rules).iter_errors(part)]
    return found


def measures(found):
    return {one["name"]: one for one in found["verdict"]["measures"]}


def row(found, key):
    (only,) = (row for row in found["summary"] if row["method"] == key)
    return only


# Verdicts

STEADY, HALF, MUCH = [0.02, 0.03, 0.025, 0.02], [0.01, 0.02, 0.01, 0.01], [0.5, 0.6, 0.4, 0.55]
SAME, OTHER, OPEN = (
    (True, "same within noise", "Same within noise"),
    (False, "not the same", "Not the same: more than a second seed changes"),
    (None, "cannot tell", "Cannot tell: the entries differ too much, or are too few"),
)
NEARLY = (True, "same but for what is negligible", "Same but for what is negligible")
CASES = {
    "within noise": (HALF, STEADY, SAME),
    "as much as noise": (STEADY, STEADY, SAME),
    "nothing changed": ([0.0] * 4, [0.0] * 4, SAME),
    "either sign": ([0.01, -0.02, 0.01, -0.01], [-0.02, 0.03, -0.02, 0.02], SAME),
    "negligible": ([9e-4] * 4, [1e-5] * 4, NEARLY),
    "too much": (MUCH, STEADY, OTHER),
    "too much one way or the other": ([0.5, -0.6, 0.4, -0.5], STEADY, OTHER),
    "too few": (MUCH[:2], STEADY[:2], OPEN),
    "one decides": ([0.0, 0.0, 0.0, 0.5], [0.01] * 4, OPEN),
}


@pytest.mark.parametrize("case", CASES)
def test_a_verdict_in_words_and_as_a_boolean(case):
    changes, noise, (is_same, words, headline) = CASES[case]
    found = found_of(entries_of("flashbias", changes, noise), "flashbias")
    verdict, judged = found["verdict"], row(found, "flashbias")
    assert (verdict["method"], verdict["noise"], verdict["level"]) == ("flashbias", NOISE, 0.95)
    assert verdict["same"] is judged["same"] is measures(found)["ptm_change"]["same"] is is_same
    assert (judged["verdict"], verdict["headline"]) == (words, headline)


def test_one_measure_is_enough_to_be_different_or_open():
    noise = [0.01] * 4
    lost = entries_of("flashbias", noise, noise, lost=[0.4, 0.5, 0.6, 0.5], lost_to_noise=[0.01] * 4)
    found = found_of(lost, "flashbias")
    assert found["verdict"]["same"] is False
    each = {name: one["same"] for name, one in measures(found).items()}
    assert each.pop("lddt_ca_to_stock") is False and set(each.values()) == {True}
    # What is open does not hide what is different.
    both = entries_of("flashbias", [0.0, 0.0, 0.0, 0.5], noise, [0.4, 0.5, 0.6, 0.5], noise)
    judged = judgement(both, "flashbias", NOISE)
    assert (judged["ptm_change"].same, judged["lddt_ca_to_stock"].same) == (None, False)
    assert same(judged) is False and in_words(judged) == "not the same"


# By the measure: a change in it alone, far beyond what is negligible and beyond noise.
ALONE = {
    "ptm_change": {"change": {"ptm": 0.3}},
    "iptm_change": {"change": {"iptm": -0.3}},
    "plddt_change": {"change": {"plddt": -9.0}},
    "pae_change": {"change": {"pae": 3.0}},
    "lddt_ca_to_stock": {"to_stock": {"lddt_ca": 0.5}},
    "interface_to_stock": {"to_stock": {"interface": {"kind": "interface_lddt", "value": 0.5}}},
}


@pytest.mark.parametrize("name", ALONE)
def test_each_measure_alone_makes_a_method_different(name):
    def result(method, altered):
        made = a_result(method, 0.0, interface=1.0, iptm_change=0.0)
        return {**made, **{part: {**made[part], **values} for part, values in altered.items()}}

    entries = [an_entry(result("flashbias", ALONE[name]), result(NOISE, {})) for _ in range(4)]
    found = found_of(entries, "flashbias")
    judged = {one: value["same"] for one, value in measures(found).items()}
    assert judged == {**dict.fromkeys(ALONE, True), name: False}
    assert row(found, "flashbias")["verdict"] == found["verdict"]["headline"].partition(":")[0].lower()
    assert found["verdict"]["same"] is False


def test_what_is_negligible_of_one_measure_is_not_within_noise():
    entries = [
        an_entry(a_result("flashbias", 0.001, pae=0.04), a_result(NOISE, 0.01, pae=0.001)) for _ in "four"
    ]
    found = found_of(entries, "flashbias")
    assert measures(found)["pae_change"]["same"] is True
    assert row(found, "flashbias")["verdict"] == "same but for what is negligible"


def test_without_anything_to_judge_by_there_is_no_verdict():
    alone = [an_entry(a_result("flashbias", 0.1))] * 4  # the second seed had no room
    unknown = {"change": {"ptm": None, "iptm": None, "plddt": None, "pae": None}, "to_stock": None}
    empty = [an_entry(*({**a_result(key, 0.1), **unknown} for key in ("flashbias", NOISE)))] * 4
    for entries in (alone, empty):
        found = found_of(entries, "flashbias")
        assert found["verdict"]["method"] == "flashbias"
        assert found["verdict"]["same"] is None
        assert found["verdict"]["headline"] == "Nothing to judge by"
        assert (found["verdict"]["text"], found["verdict"]["measures"]) == ("", [])
        assert (row(found, "flashbias")["same"], row(found, "flashbias")["verdict"]) == (None, None)
    assert same({}) is None


def test_stock_alone_is_judged_by_nothing():
    found = found_of([an_entry(a_result(NOISE, 0.1))] * 3)
    assert found["verdict"]["method"] == found["speed"]["method"] == "stock"
    assert (found["verdict"]["same"], found["verdict"]["measures"]) == (None, [])
    assert found["speed"]["wall_ratio"]["mean"] == pytest.approx(1.0)


def test_the_text_has_the_numbers_that_it_rests_on():
    entries = entries_of("flashbias", [0.01, 0.02, 0.03], [0.1, 0.2, 0.3], [0.02] * 3, [0.1] * 3)
    for entry in entries:
        entry["results"].insert(2, a_result("none", 0.9, lddt=0.1))
    text = found_of(entries, "flashbias", "none")["verdict"]["text"]
    assert text == (
        "FlashBias changes pTM by 0.02 on average over 3 entries; another seed of stock changes it by 0.2. "
        "C-alpha LDDT to stock is 0.980; that of another seed is 0.900. "
        "Of the others, without bias: not the same."
    )
    entries[1]["results"][1] |= {"plausible": False, "problems": ["chain A: 1 break of the backbone"]}
    assert found_of(entries, "flashbias", "none")["verdict"]["text"] == (
        "1 of 12 structures are not plausible, such as entry by FlashBias: what is said of them says little. "
        f"{text}"
    )
    single = found_of(entries_of("flashbias", [0.01], [0.1]), "flashbias")["verdict"]["text"]
    assert "over 1 entry;" in single and "Of the others" not in single


@pytest.mark.parametrize(
    ("asked", "judged"),
    [
        (("none", "dense", "flashbias"), "flashbias"),
        (("none", "dense"), "dense"),
        (("plan_mine", "none"), "none"),
        (("plan_mine",), "plan_mine"),
    ],
)
def test_methods_keep_their_order_and_the_verdict_is_about_the_preferred(asked, judged):
    results = [a_result(key, 0.01, wall=5.0) for key in asked]
    found = found_of([an_entry(*results, a_result(NOISE, 0.02))] * 3, *asked)
    assert [row["method"] for row in found["summary"]] == ["stock", *asked, NOISE]
    assert found["verdict"]["method"] == found["speed"]["method"] == judged
    for key in ("stock", NOISE):
        assert (row(found, key)["same"], row(found, key)["verdict"]) == (None, None)
    others = [LABELS[key] for key in asked if key != judged]
    places = [found["verdict"]["text"].index(f"{label}: same within noise") for label in others]
    assert places == sorted(places)


# What is missing


def test_entries_without_the_method_or_the_noise_are_left_out_of_its_judgement():
    entries = entries_of("flashbias", HALF, STEADY)
    entries += [an_entry(a_result("flashbias", 0.9)), an_entry(a_result(NOISE, 0.9)), an_entry()]
    found = found_of(entries, "flashbias")
    judged = measures(found)["ptm_change"]
    assert judged["change"]["n"] == judged["noise"]["n"] == 4
    assert judged["change"]["mean"] == pytest.approx(sum(HALF) / 4)
    assert judged["noise"]["mean"] == pytest.approx(sum(STEADY) / 4)
    # Means of what there is are over all that have it.
    assert row(found, "stock")["measures"]["ptm"]["n"] == 7
    assert row(found, "flashbias")["measures"]["ptm_change"]["n"] == 5
    assert row(found, NOISE)["measures"]["ptm_change"]["n"] == 5
    assert found["speed"]["wall_ratio"]["n"] == 5


def test_a_measure_that_some_entries_have_is_judged_by_these():
    complexes = [
        an_entry(
            a_result("flashbias", 0.0, iptm_change=-0.5, interface=0.5, iptm=0.3),
            a_result(NOISE, 0.0, iptm_change=0.01, interface=0.9, iptm=0.8),
        )
        for _ in "abc"
    ]
    found = found_of([*complexes, *entries_of("flashbias", HALF, STEADY)], "flashbias")
    judged = measures(found)
    assert judged["ptm_change"]["change"]["n"] == 7
    assert judged["iptm_change"]["change"] == {"mean": 0.5, "low": 0.5, "high": 0.5, "n": 3}
    assert judged["interface_to_stock"]["change"]["n"] == 3
    assert judged["iptm_change"]["same"] is judged["interface_to_stock"]["same"] is False
    assert found["verdict"]["same"] is False
    assert row(found, "flashbias")["measures"]["iptm"]["n"] == 3
    assert "iptm" not in row(found, "stock")["measures"]
    single = found_of(entries_of("flashbias", HALF, STEADY), "flashbias")
    assert not {"iptm_change", "interface_to_stock"} & set(measures(single))


def test_a_score_of_atoms_that_are_nowhere_near_each_other_is_left_out():
    entries = entries_of("flashbias", HALF, STEADY)
    entries[0]["results"][1]["to_stock"]["lddt_ca"] = None
    found = found_of(entries, "flashbias")
    assert measures(found)["lddt_ca_to_stock"]["change"]["n"] == 3
    assert row(found, "flashbias")["measures"]["lddt_ca_to_stock"]["n"] == 3
    assert row(found, "flashbias")["measures"]["lddt_all_to_stock"]["n"] == 4


def test_a_method_that_failed_everywhere_has_an_empty_row():
    found = found_of(entries_of("dense", HALF, STEADY), "flashbias", "dense")
    assert found["verdict"]["method"] == found["speed"]["method"] == "dense"
    assert row(found, "flashbias") == {
        "method": "flashbias",
        "same": None,
        "verdict": None,
        "measures": {},
        "stages_s": dict.fromkeys(STAGES, 0.0),
        "layers": [],
    }
    assert "FlashBias" not in found["verdict"]["text"]


# Numbers


def test_closeness_is_judged_as_lost_and_shown_as_a_score():
    lost, by_noise = [0.1, 0.2, 0.6], [0.2, 0.3, 0.7]
    found = found_of(entries_of("flashbias", [0.0] * 3, [0.0] * 3, lost, by_noise), "flashbias")
    shown = measures(found)["lddt_ca_to_stock"]
    assert shown["change"]["mean"] == pytest.approx(0.7)
    assert shown["noise"]["mean"] == pytest.approx(0.6)
    assert shown["negligible"] == pytest.approx(0.999)
    for one in (shown["change"], shown["noise"]):
        assert one["low"] < one["mean"] < one["high"]
        assert one["high"] - one["mean"] < one["mean"] - one["low"]  # the one that lost most is far below
    # The same as the mean of the scores themselves, but for the draws of the bootstrap.
    scores = row(found, "flashbias")["measures"]["lddt_ca_to_stock"]
    assert scores == {key: pytest.approx(value, abs=1e-9) for key, value in shown["change"].items()}
    assert measures(found)["ptm_change"]["negligible"] == 0.001


def test_what_is_changed_is_without_sign_and_what_it_is_about_has_one():
    found = found_of(entries_of("flashbias", [0.1, -0.1, 0.3], [-0.5] * 3), "flashbias")
    assert row(found, "flashbias")["measures"]["ptm_change"]["mean"] == pytest.approx(0.5 / 3)
    assert row(found, "flashbias")["measures"]["ptm"]["mean"] == pytest.approx(0.8 + 0.1)
    assert measures(found)["ptm_change"]["noise"]["mean"] == pytest.approx(0.5)


def test_ratios_are_of_stock_to_the_method_in_pairs():
    def timed(stock, ours):
        return {
            "name": "entry",
            "results": [
                a_result("stock", wall=stock, peak_memory_bytes=3000),
                a_result("flashbias", 0.0, wall=ours, peak_memory_bytes=1500),
                a_result(NOISE, 0.0, wall=777.0),
            ],
        }

    found = found_of([timed(8.0, 4.0), timed(100.0, 12.5)], "flashbias")["speed"]
    assert found["wall_ratio"]["mean"] == pytest.approx((2 * 8) ** 0.5)
    assert found["trunk_ratio"]["mean"] == pytest.approx((2 * 8) ** 0.5)
    assert (found["wall_ratio"]["low"], found["wall_ratio"]["high"]) == pytest.approx((2.0, 8.0))
    assert found["memory_ratio"]["mean"] == pytest.approx(2.0)


def test_what_took_no_time_has_no_ratio():
    found = found_of(entries_of("flashbias", HALF, STEADY), "flashbias")
    assert found["speed"]["trunk_ratio"]["mean"] == pytest.approx(1.0)
    entries = entries_of("flashbias", HALF, STEADY)
    for entry in entries:
        entry["results"][1]["stages_s"]["trunk"] = 0.0
    found = found_of(entries, "flashbias")
    assert found["speed"]["trunk_ratio"] is None and found["speed"]["wall_ratio"] is not None


def test_stages_are_means_over_the_entries_that_have_the_method():
    entries = [
        an_entry(a_result("flashbias", 0.0, wall=10.0)),
        an_entry(a_result("flashbias", 0.0, wall=20.0)),
        an_entry(),
    ]
    found = found_of(entries, "flashbias")
    assert row(found, "flashbias")["stages_s"] == dict.fromkeys(STAGES, pytest.approx(3.0))
    assert row(found, "stock")["stages_s"] == dict.fromkeys(STAGES, pytest.approx(2.0))


def test_layers_are_gathered_over_the_entries():
    first = [layer("b.0", 0.1, fallbacks=1), layer("a.1", 0.3, way="neural", rank=32)]
    second = [layer("b.0", 0.3, fallbacks=2), layer("a.1", None, way="neural", rank=32)]
    third = [layer("b.0", 0.2), layer("a.1", None), layer("c.2", None, way="stock", rank=None)]
    entries = [an_entry(a_result("flashbias", 0.0, layers=layers)) for layers in (first, second, third)]
    found = row(found_of(entries, "flashbias"), "flashbias")["layers"]
    assert [one["name"] for one in found] == ["b.0", "a.1", "c.2"], "the model's order"
    assert found[0] == {
        "name": "b.0", "way": "lowrank", "rank": 8, "reach": 16,
        "mean_error": pytest.approx(0.2), "largest_error": 0.3, "fallbacks": 3,
    }  # fmt: skip
    assert (found[1]["way"], found[1]["mean_error"], found[1]["largest_error"]) == ("neural", 0.3, 0.3)
    assert (found[2]["mean_error"], found[2]["largest_error"], found[2]["fallbacks"]) == (None, None, 0)


def test_closeness_to_experiment_judges_nothing_but_is_told():
    entries = entries_of("flashbias", HALF, STEADY)
    entries[0]["results"][1]["to_truth"] = closeness(0.25, 0.5)
    found = found_of(entries, "flashbias")
    told = row(found, "flashbias")["measures"]
    assert (told["lddt_ca_to_truth"]["mean"], told["lddt_ca_to_truth"]["n"]) == (0.25, 1)
    assert told["interface_to_truth"]["mean"] == 0.5
    assert not [name for name in measures(found) if "truth" in name]


# Whatever the entries

CHANGE = st.one_of(st.none(), st.floats(-1, 1))
SHARE = st.one_of(st.none(), st.floats(0, 1))
TIME = st.floats(1e-3, 1e5)
RESULT = st.one_of(
    st.none(), st.fixed_dictionaries({"ptm": CHANGE, "pae": st.floats(0, 30), "lddt": SHARE, "wall": TIME})
)
ENTRIES = st.lists(st.tuples(TIME, RESULT, RESULT, RESULT), min_size=1, max_size=8)
KEYS = ("flashbias", "none", NOISE)


def drawn(rows, factor=1.0):
    """Entries out of what hypothesis has drawn; a result that is none failed."""
    entries = []
    for stock, *others in rows:
        entry = {"name": "entry", "results": [a_result("stock", wall=factor * stock)]}
        for key, one in zip(KEYS, others, strict=True):
            if one is not None:
                made = a_result(key, 0.0, lddt=one["lddt"], pae=one["pae"], wall=factor * one["wall"])
                made["change"]["ptm"] = one["ptm"]
                entry["results"].append(made)
        entries.append(entry)
    return entries


@settings(deadline=None, max_examples=15)
@given(ENTRIES, st.randoms(use_true_random=False))
def test_the_order_of_entries_changes_no_mean(rows, random):
    shuffled = random.sample(rows, len(rows))
    one, other = (found_of(drawn(these), *KEYS[:-1]) for these in (rows, shuffled))
    for ours, theirs in zip(one["summary"], other["summary"], strict=True):
        assert ours["measures"].keys() == theirs["measures"].keys()
        for name, found in ours["measures"].items():
            assert theirs["measures"][name]["mean"] == pytest.approx(found["mean"], rel=1e-9, abs=1e-12)
            assert theirs["measures"][name]["n"] == found["n"]
        assert theirs["stages_s"] == {key: pytest.approx(value) for key, value in ours["stages_s"].items()}
    if one["verdict"]["method"] != "stock":
        assert other["speed"]["wall_ratio"]["mean"] == pytest.approx(one["speed"]["wall_ratio"]["mean"])


@settings(deadline=None, max_examples=15)
@given(ENTRIES, st.floats(1e-3, 1e3))
def test_a_machine_that_is_slower_throughout_has_the_same_ratios(rows, factor):
    one, other = (found_of(drawn(rows, times), *KEYS[:-1])["speed"] for times in (1.0, factor))
    for name in ("wall_ratio", "trunk_ratio", "memory_ratio"):
        assert other[name] == {key: pytest.approx(value) for key, value in one[name].items()}


@settings(deadline=None, max_examples=15)
@given(ENTRIES)
def test_a_method_that_is_stock_is_the_same(rows):
    unchanged = {"ptm": 0.0, "pae": 0.0, "lddt": 1.0, "wall": 1.0}
    noise = {"ptm": 0.0, "pae": 0.0, "lddt": 1.0, "wall": 1.0}
    entries = drawn([(stock, unchanged, other, last or noise) for stock, _, other, last in rows])
    found = found_of(entries, *KEYS[:-1])
    assert found["verdict"]["same"] is True
    assert found["verdict"]["headline"] == "Same within noise"


@settings(deadline=None, max_examples=15)
@given(ENTRIES)
def test_words_booleans_and_measures_agree(rows):
    found = found_of(drawn(rows), *KEYS[:-1])
    each = [one["same"] for one in found["verdict"]["measures"]]
    expected = (False if False in each else None if None in each else True) if each else None
    assert found["verdict"]["same"] is expected
    words = {True: {"same within noise", "same but for what is negligible"}, False: {"not the same"}}
    for line in found["summary"]:
        assert line["verdict"] in words.get(line["same"], {None, "cannot tell"})
