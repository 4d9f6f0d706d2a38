"""What is compared: the stock model first, its noise last, each under a key of its own."""

from dataclasses import replace

import pytest
from conftest import ROOT

from flashbias_fold.choices import MAX_SEED
from flashbias_fold.compare.methods import methods_of
from flashbias_fold.compare.settings import Settings
from flashbias_fold.errors import UsageError
from flashbias_fold.predict.settings import Settings as Predictions
from flashbias_fold.predict.settings import run_defaults
from flashbias_fold.protenix_adapter.models import demo_model

PLAN = "- {layers: '*.tri_att_*', way: lowrank, rank: %d, tolerance: 1.0}\n"
ALL = ("stock", "flashbias", "dense", "none")


def asked(*methods, **predictions):
    common = Predictions(input="jobs.json", out="cmp", model="demo", **predictions)
    return Settings(predictions=common, methods=methods or ALL)


def found_of(*methods, model=None, **predictions):
    settings = asked(*methods, **predictions)
    return methods_of(settings, settings.predictions, model or demo_model())


@pytest.fixture
def plan(tmp_path):
    """Write a plan under a name, of a rank to tell it by."""

    def write(name, rank=4):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PLAN % rank)
        return path

    return write


def keys(methods):
    return [method.key for method in methods]


def ranks(method):
    return {rule.rank for rule in method.plan.rules if rule.way == "lowrank"}


def test_every_method_has_its_key_and_label():
    found = found_of()
    assert keys(found) == [*ALL, "stock_seed_102"]
    assert [method.label for method in found] == [
        "stock", "FlashBias", "dense bias", "without bias", "stock, seed 102",
    ]  # fmt: skip
    assert [method.settings.bias for method in found] == [*ALL, "stock"]
    assert [method.plan.name for method in found] == [*ALL, "stock"]
    assert [method.is_noise for method in found] == [False] * 4 + [True]
    assert found[2].as_dict() == {
        "key": "dense", "label": "dense bias", "bias": "dense", "seed": 101, "plan": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (("none",), ["stock", "none"]),
        (("none", "dense"), ["stock", "none", "dense"]),
        (("none", "stock", "dense"), ["stock", "none", "dense"]),
        (("dense", "none", "dense"), ["stock", "dense", "none"]),
        (("stock",), ["stock"]),
    ],
)
def test_stock_is_first_and_each_is_there_once(methods, expected):
    assert keys(found_of(*methods)) == [*expected, "stock_seed_102"]


def test_all_have_one_seed_and_what_they_share():
    found = found_of(seeds=(7,), steps=3, samples=2)
    assert [method.seed for method in found] == [7, 7, 7, 7, 8]
    assert {(method.settings.steps, method.settings.samples) for method in found} == {(3, 2)}
    assert found[-1].key == "stock_seed_8" and found[-1].label == "stock, seed 8"
    same = {replace(method.settings, bias="stock", seeds=None) for method in found}
    assert len(same) == 1, "they differ in nothing else"


@pytest.mark.parametrize(
    ("given", "seeds"),
    [
        (None, (run_defaults().seeds[0], run_defaults().seeds[0] + 1)),
        ((0,), (0, 1)),
        ((5, 9), (5, 9)),
        ((MAX_SEED - 1,), (MAX_SEED - 1, MAX_SEED)),
        ((MAX_SEED,), (MAX_SEED, 0)),
        ((MAX_SEED, 3), (MAX_SEED, 3)),
    ],
)
def test_the_other_seed_is_the_next_one(given, seeds):
    settings = asked(seeds=given)
    assert settings.seeds == seeds
    found = found_of(seeds=given)
    assert (found[0].seed, found[-1].seed) == seeds


def test_a_seed_too_many_is_refused():
    with pytest.raises(UsageError, match=r"--seeds: expected one or two.*got 3"):
        asked(seeds=(1, 2, 3))
    with pytest.raises(UsageError, match=f"from 0 to {MAX_SEED}"):
        asked(seeds=(MAX_SEED + 1,))


# Plans


def test_a_plan_is_a_method_named_after_its_file(plan):
    path = plan("my plan.v2.yaml")
    first, mine, noise = found_of(str(path))
    assert (first.key, mine.key, noise.key) == ("stock", "plan_my_plan_v2", "stock_seed_102")
    assert mine.as_dict() == {
        "key": "plan_my_plan_v2", "label": "my_plan_v2", "bias": "flashbias", "seed": 101,
        "plan": "my plan.v2.yaml",
    }  # fmt: skip
    assert mine.settings.plan == path and ranks(mine) == {4}


def test_plans_of_one_name_have_keys_of_their_own(plan):
    paths = [plan("a/fast.yaml", 4), plan("b/fast.yml", 5), plan("c/fast.yaml", 6), plan("c/fas+.yaml", 7)]
    found = found_of(*map(str, [*paths, plan("c/fas_.yaml", 8)]))
    assert keys(found)[1:-1] == ["plan_fast", "plan_fast_2", "plan_fast_3", "plan_fas_", "plan_fas__2"]
    assert [ranks(method) for method in found[1:-1]] == [{4}, {5}, {6}, {7}, {8}]
    assert len(set(keys(found))) == len(found)


def test_no_name_of_a_plan_is_that_of_another_method(plan):
    names = ("stock", "flashbias", "dense", "none", "stock_seed_102", "fast_2")
    found = found_of(*ALL, *(str(plan(f"{name}.yaml")) for name in names), str(plan("x/fast.yaml")))
    assert len(set(keys(found))) == len(found) == len(ALL) + len(names) + 1 + 1
    again = found_of(*(str(plan(f"{place}/fast.yaml")) for place in "ab"), str(plan("fast_2.yaml")))
    assert len(set(keys(again))) == len(again) == 5


def test_flashbias_has_the_plan_that_ships_with_the_model():
    (_, mine, noise) = found_of("flashbias")
    assert (mine.plan_name, mine.plan.name) == ("demo.yaml", "flashbias")
    assert {rule.way for rule in mine.plan.rules} >= {"neural"}
    assert (noise.plan_name, noise.plan.name) == (None, "stock")
    assert mine.settings.plan is None


def test_a_model_without_a_plan_of_its_own_has_none(tmp_path):
    other = replace(demo_model(), name="other")
    assert not (ROOT / "configs" / "plans" / "other.yaml").exists()
    (_, mine, _) = found_of("flashbias", model=other)
    assert mine.plan_name is None and mine.plan.name == "flashbias"


def test_the_users_plan_is_that_of_flashbias_alone(plan):
    path = plan("mine.yaml", 12)
    found = found_of(*ALL, str(plan("other.yaml", 13)), plan=path)
    assert [method.plan_name for method in found] == [None, "mine.yaml", None, None, "other.yaml", None]
    assert [method.label for method in found][1] == "FlashBias"
    assert (ranks(found[1]), ranks(found[4])) == ({12}, {13})
    with pytest.raises(UsageError, match="--plan: is for the method flashbias"):
        found_of("dense", plan=path)


def test_a_mistake_in_a_plan_is_found_before_anything_is_made(plan, tmp_path):
    path = plan("wrong.yaml")
    path.write_text("- {layers: '*', way: sideways}\n")
    with pytest.raises(UsageError, match=r"wrong\.yaml"):
        found_of(str(path))
    with pytest.raises(UsageError, match=r"nowhere\.yml"):
        found_of(str(tmp_path / "nowhere.yml"))


@pytest.mark.parametrize("name", ["turbo", "plan.json", "", "Stock"])
def test_what_is_neither_a_way_nor_a_plan_is_refused(name):
    with pytest.raises(UsageError, match=f"--methods: expected some of .*got '{name}'"):
        asked("stock", name)
