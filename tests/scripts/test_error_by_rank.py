"""Error against rank: read from real calibrations, measured beside them, and merged into one table."""

import dataclasses
import json
import sys
from statistics import fmean

import pytest
import torch
from command_line import call
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbias_fold.errors import JobError, UsageError
from flashbias_fold.factorize import decompose
from flashbias_fold.factorize.store import FactorFile
from flashbias_fold.pairformer.triangle import factors_of

sys.path.insert(0, str(ROOT / "scripts"))
import error_by_rank
from error_by_rank import (
    Calibration,
    Optimal,
    Way,
    inputs_named,
    label,
    main,
    measured,
    merged,
    nearer,
    optimal,
    refuse_different,
)
from evaluate_demo import read_domains

RECORD = ROOT / "docs" / "fidelity" / "ranks-h200.json"
LAYER = "pairformer_stack.blocks.3.tri_att_start"
LADDER = ["4", "8", "16", "32", "64", "96"]
SHORTEST = ("1fs1A00", "1k1vA00", "2erlA00")  # the last is kept aside
SMALL = ("--model", "demo", "--reach", 0, "--steps", 2, "--cycles", 1, "--passes", 1, "--device", "cpu")


# The real thing


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two files of real calibrations, and the record that was made of them."""
    folder = tmp_path_factory.mktemp("ranks")
    rows = [row for table in error_by_rank.DOMAINS for row in read_domains(table, "")]
    inputs = folder / "domains.fasta"
    inputs.write_text("".join(f">{row.name}\n{row.sequence}\n" for row in rows if row.name in SHORTEST))
    for network, rank in (("sketch", 8), ("means", 4)):
        out = folder / f"{network}.safetensors"
        options = ("--inputs", inputs, "--out", out, "--network", network, "--rank", rank)
        call("calibrate", *options, *SMALL, check=0)
    return folder


@pytest.fixture(scope="module")
def files(folder):
    return {name: FactorFile.load(folder / f"{name}.safetensors") for name in ("sketch", "means")}


@pytest.fixture(scope="module")
def result(folder):
    paths = [str(folder / f"{name}.safetensors") for name in ("sketch", "means")]
    assert main([*paths, "--device", "cpu", "--json", str(folder / "record.json")]) == 0
    return json.loads((folder / "record.json").read_text())


def test_errors_of_networks_are_those_that_calibrate_measured(files, result):
    assert list(result["errors"]) == list(files["sketch"].errors)
    assert len(result["errors"]) == 12
    for layer, found in result["errors"].items():
        assert list(found) == ["svd", "lowrank", "means", "sketch"]
        assert found["sketch"] == files["sketch"].errors[layer]["neural"]
        assert found["lowrank"] == files["sketch"].errors[layer]["lowrank"]
        assert found["means"] == files["means"].errors[layer]["neural"]
        assert list(found["means"]) == ["4"] and list(found["lowrank"]) == ["4", "8"]


def test_the_best_by_norm_are_measured_at_every_rank(result):
    best = [found["svd"] for found in result["errors"].values()]
    for by_rank in best:
        assert list(by_rank) == LADDER
        assert all(0 < error["mean"] <= error["largest"] for error in by_rank.values())
        # Of 40 places there are no more than 40 channels.
        assert by_rank["64"] == by_rank["96"] and by_rank["96"]["largest"] < 1e-5
    means = [fmean(by_rank[rank]["mean"] for by_rank in best) for rank in LADDER[:5]]
    assert means == sorted(means, reverse=True)
    # By norm or as attention sees it, either is better at twice the rank of the other.
    computed = [fmean(found["lowrank"][rank]["mean"] for found in result["errors"].values()) for rank in "48"]
    assert means[1] < computed[0] and computed[1] < means[0]


@pytest.fixture
def again(folder, monkeypatch):
    """The errors of factors that are computed in the call, measured here."""
    monkeypatch.setattr(error_by_rank, "Optimal", lambda most: computed)
    one = Calibration.load(folder / "sketch.safetensors")
    jobs = inputs_named(["2erlA00"], one.path)

    def computed(x, bias, tokens, rank, counted=None, reach=0):
        return factors_of(bias, x, None, rank)

    return lambda **changes: measured(dataclasses.replace(one, common=one.common | changes), jobs, "cpu")[0]


def test_the_predictions_are_those_of_calibrate(again, files):
    found = again()
    for layer, by_way in files["sketch"].errors.items():
        for rank, error in by_way["lowrank"].items():
            assert found[layer][rank] == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize(
    "change", [{"seed": 7}, {"steps": 3}, {"cycles": 2}], ids=lambda change: next(iter(change))
)
def test_other_settings_are_other_predictions(again, files, change):
    """So the agreement above is none of chance."""
    layer = "confidence_head.pairformer_stack.blocks.0.tri_att_start"
    assert again(**change)[layer]["8"] != pytest.approx(
        files["sketch"].errors[layer]["lowrank"]["8"], rel=1e-3
    )


def test_the_record_says_how_each_row_was_made(folder, files, result):
    assert result["kept_aside"] == ["2erlA00"] and result["inputs"] == ["1fs1A00", "1k1vA00"]
    assert result["settings"] == {"seed": 101, "steps": 2, "cycles": 1, "dtype": None}
    assert result["weights"] == files["sketch"].weights
    made = result["made"]
    assert made["svd"]["dtype"] == "fp32" and made["svd"]["machine"]["cpu"]
    assert {"python", "torch", "protenix"} <= made["svd"]["versions"].keys()
    assert [file["file"] for file in made["lowrank"]["files"]] == ["sketch.safetensors"]
    assert made["means"]["files"][0]["settings"]["rank"] == 4
    assert str(folder) not in json.dumps(result)


def test_it_prints_the_means(folder, result, monkeypatch, capsys):
    found = {layer: by_way["svd"] for layer, by_way in result["errors"].items()}
    monkeypatch.setattr(error_by_rank, "measured", lambda *_: (found, {}))
    assert main([str(folder / "sketch.safetensors")]) == 0
    head, svd, computed, ours = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "mean of all layers" and "R = 96" in head
    expected = sum(by_rank["4"]["mean"] for by_rank in found.values()) / 12
    assert svd.split()[2] == f"{expected:.3f}"
    assert computed.count("not measured") == ours.count("not measured") == 4


def test_an_input_that_fails_ends_it(folder, monkeypatch, capsys):
    from flashbias_fold.protenix_adapter.engine import Engine

    def fail(*_):
        raise JobError("no room for it")

    monkeypatch.setattr(Engine, "predict", fail)
    assert main([str(folder / "sketch.safetensors"), "--json", str(folder / "none.json")]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "error: no room for it"
    assert not (folder / "none.json").exists()


# The best factors by norm


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lacking(factors, bias, counted=None):
    """What a product lacks of a bias around its rows' means, where there is no padding."""
    kept = torch.ones(bias.shape[-1], dtype=torch.bool) if counted is None else counted
    bias = bias.double()[..., kept, :][..., kept]
    product = factors.bias().double()[..., kept, :][..., kept]
    return float((bias - bias.mean(-1, keepdim=True) - product).norm() / (1e-30 + bias.norm()))


sizes = st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 12), st.integers(0, 99))


@settings(max_examples=30, deadline=None)
@given(sizes, st.sampled_from([1e-4, 1.0, 1e4]), st.booleans())
def test_a_bias_of_low_rank_is_had_whole(size, scale, padded):
    heads, length, rank, seed = size
    counted = normal(length, seed=seed) > -1 if padded else None
    bias = normal(heads, length, rank, seed=seed) @ normal(heads, rank, length, seed=seed + 1) * scale
    bias = bias + 100 * scale * normal(heads, length, 1, seed=seed)  # of each row: softmax does not see it
    if padded:
        bias = bias.masked_fill(~counted, torch.nan)
    assert lacking(optimal(bias, rank, counted), bias, counted) < 1e-5
    if length > rank + 2 and not padded:
        assert rank == 1 or lacking(optimal(bias, rank - 1), bias) > 1e-5


@settings(max_examples=30, deadline=None)
@given(sizes, st.floats(0, 3), st.booleans())
def test_none_is_nearer_by_norm(size, steepness, padded):
    heads, length, rank, seed = size
    counted = normal(length, seed=seed) > -1 if padded else None
    spectrum = torch.arange(1, length + 1).pow(-steepness)
    bias = normal(heads, length, length, seed=seed) * spectrum @ normal(heads, length, length, seed=seed + 1)
    found = lacking(optimal(bias, rank, counted), bias, counted)
    other = lacking(decompose(bias, rank, key_mask=counted), bias, counted)
    assert found <= other + 1e-6
    if not padded:
        values = torch.linalg.svdvals((bias - bias.mean(-1, keepdim=True)).double())[..., rank:]
        assert found == pytest.approx(float(values.norm() / bias.double().norm()), abs=1e-6)


def test_the_first_channels_are_the_best_of_fewer():
    bias = normal(2, 30, 30)
    best, x = Optimal(16), torch.zeros(30, 30, 1)
    for rank in (4, 8, 16):
        found = best(x, bias, None, rank)
        assert found.q.shape == found.k.shape == (2, 30, rank)
        assert lacking(found, bias) == pytest.approx(lacking(optimal(bias, rank), bias), abs=1e-6)
    other = normal(2, 30, 30, seed=1)
    assert lacking(best(x, other, None, 16), other) == pytest.approx(lacking(optimal(other, 16), other))
    assert best(x.bfloat16(), other, None, 4).q.dtype == torch.bfloat16


# What files say, merged


@pytest.fixture
def write(tmp_path, files):
    """A file of made-up errors, of the same predictions as the real ones."""

    def write(name, kind="sketch", ranks=(4, 8), about=None, error=0.5, **changes):
        found = {str(rank): {"mean": error / rank, "largest": error} for rank in ranks}
        about = {**files["sketch"].about, **(about or {})}
        said = {"kind": kind, "rank": max(ranks), "errors": {LAYER: {"neural": found, "lowrank": found}}}
        file = dataclasses.replace(files["sketch"], networks={}, sizes={}, about=about, **(said | changes))
        file.save(tmp_path / f"{name}.safetensors")
        return tmp_path / f"{name}.safetensors"

    return write


def load(*paths):
    return [Calibration.load(path) for path in paths]


def test_networks_of_means_make_one_row_and_sketches_bring_what_is_computed(write):
    paths = [write(f"m{rank}", "means", [rank], error=rank) for rank in (96, 8, 16)]
    found = merged(load(write("sketch"), *paths))
    assert found.keys() == {Way("sketch"), Way("lowrank"), Way("means")}
    assert list(found[Way("means")][LAYER]) == ["8", "16", "96"]
    assert found[Way("means")][LAYER]["96"] == {"mean": 1.0, "largest": 96.0}
    assert found[Way("lowrank")] == found[Way("sketch")]
    assert merged(load(*paths)).keys() == {Way("means")}


def test_another_reach_is_another_row(write):
    paths = [write("a"), write("b", reach=16, error=0.2), write("c", kind="means")]
    files = load(*paths)
    refuse_different(files)
    found = merged(files)
    ways = sorted(found, key=lambda way: way.place)
    assert [way.key for way in ways] == [
        "lowrank",
        "lowrank within 16",
        "means",
        "sketch",
        "sketch within 16",
    ]
    assert [Way.of(way.key) for way in ways] == ways
    assert found[Way("sketch", 16)][LAYER]["4"]["mean"] == 0.05
    made = error_by_rank.record(files, found, {})
    rows = error_by_rank.mean_rows(made)
    assert rows[-1][:2] == ["our networks (`sketch`), exact within 16 places", "0.050"]
    assert [file["file"] for file in made["made"]["lowrank within 16"]["files"]] == ["b.safetensors"]
    first, second = error_by_rank.nearer(made)
    assert first.endswith("nearer than the authors' in 0 of 2 layers and ranks")
    assert second.endswith("16 places: nearer than the authors' in 2 of 2 layers and ranks")


def test_one_row_at_one_rank_twice_is_refused(write):
    files = load(write("a"), write("b", ranks=[8, 24]))
    with pytest.raises(UsageError, match=r"b\.safetensors: .*, found sketch of rank 8 again"):
        merged(files)


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("model", {"model": "protenix-v2"}),
        ("weights", {"weights": "sha256 of others"}),
        ("inputs", {"about": {"inputs": ["1fs1A00"]}}),
        ("inputs kept aside", {"about": {"kept_aside": ["1fs1A00"]}}),
        ("inputs kept aside", {"about": {"kept_aside": ["2erlA00", "1mynA00"]}}),
        ("inputs kept aside", {"about": {"kept_aside": ["1fs1A00", "2erlA00"], "failed": {"2erlA00": "no"}}}),
        ("layers", {"errors": {"other": {"neural": {}, "lowrank": {}}}}),
        ("cycles", {"about": {"settings": {"seed": 101, "steps": 2, "cycles": 3, "dtype": None}}}),
    ],
)
def test_errors_of_other_predictions_are_refused(write, capsys, what, changes):
    assert main([str(write("a")), str(write("b", **changes))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "b.safetensors: expected the same" in line
    assert f" same {what} as in " in line


# Inputs by name


def test_inputs_are_examples_and_domains_in_the_order_of_the_file(tmp_path):
    names = ["2ksfA00", "1a1t", "1dlwA00", "1igdA00"]
    jobs = inputs_named(names, tmp_path)
    assert [job.name for job in jobs] == names
    assert len(jobs[1].document["sequences"]) == 3
    assert jobs[0].document["sequences"][0]["proteinChain"]["sequence"].startswith("MVQIQGSVV")
    assert [job.name for job in inputs_named(["1a1t"], tmp_path)] == ["1a1t"]


# Bad input


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"about": {"kept_aside": ["1fs1A00", "mine", "yours"]}}, "data/demo has, found mine, yours"),
        ({"about": {"settings": {"seed": 101}}}, "expected the errors that calibrate measures"),
        ({"about": {"settings": None}}, "expected the errors that calibrate measures"),
        (
            {"errors": {LAYER: {"neural": {"4": {"mean": 0.1}}}}},
            "expected the errors that calibrate measures",
        ),
        ({"errors": {LAYER: {"neural": {}}}}, "KeyError('lowrank')"),
        ({"errors": {}}, "nothing was measured"),
        ({"about": {"failed": {"2erlA00": "no room for it"}}}, "nothing was measured"),
        ({"errors": {"other": {"neural": {}, "lowrank": {}}}}, "the model has no layer other"),
        ({"weights": "sha256 of others"}, "was made with other weights of demo"),
        ({"model": "protenix-v9"}, "protenix-v9"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_line(write, capsys, changes, said):
    assert main([str(write("a", **changes))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "expected files of factor networks, or --page"),
        (["a.safetensors", "--page"], "expected files of factor networks, or --page"),
        (["no/such.safetensors"], "no/such.safetensors"),
        (["README.md"], "README.md"),
        (["a.safetensors", "--json", "no/such/record.json"], "no/such"),
        (["a.safetensors", "--check"], "--check"),
        (["a.safetensors", "--device", "tpu"], "--device"),
        (["--pag"], "--pag"),
    ],
)
def test_what_is_wrong_with_the_arguments_is_said_in_a_line(monkeypatch, capsys, options, said):
    monkeypatch.chdir(ROOT)
    assert main(options) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert said in printed.err


# The page


def test_the_page_says_what_its_records_say():
    assert main(["--page", "--check"]) == 0


@pytest.fixture
def page(tmp_path, monkeypatch):
    page = tmp_path / "fidelity.md"
    (tmp_path / "fidelity").mkdir()
    page.write_text(
        "# Page\n\n<!-- ranks one -->\nold\n<!-- end -->\n\n<!-- other one -->\nstays\n<!-- end -->\n"
    )
    monkeypatch.setattr(error_by_rank, "PAGE", page)
    return page


def test_the_page_is_written_from_the_record(page, result):
    page.with_suffix("").joinpath("one.json").write_text(json.dumps(result))
    before = page.read_text()
    assert main(["--page", "--check"]) == 1
    assert page.read_text() == before
    assert main(["--page"]) == 0
    written = page.read_text()
    assert main(["--page", "--check"]) == 0
    assert "old" not in written
    assert written.endswith("<!-- other one -->\nstays\n<!-- end -->\n")
    assert "2 inputs to learn from, 1 kept aside to measure on." in written
    tables = [part.splitlines() for part in written.split("\n\n") if part.startswith("| ")]
    assert [len(table) for table in tables] == [6, 14, 14, 14, 15]  # the end of the last one
    errors = [error["mean"] for error in result["errors"][LAYER]["svd"].values()]
    assert f"| block 3 start | {errors[0]:.3f} | {errors[1]:.3f} |" in "".join(tables[1])
    assert tables[1][0].startswith("| optimal SVD | R = 4 |") and "not measured" not in "".join(tables[1])
    assert tables[3][0].startswith("| the authors' networks (`means`) |")
    assert [row.count("not measured") for row in tables[3][2:]] == [5] * 12


def test_a_record_without_the_best_by_norm_says_so(page):
    record = json.loads(RECORD.read_text())
    for by_way in record["errors"].values():
        by_way.pop("svd", None)
    page.with_suffix("").joinpath("one.json").write_text(json.dumps(record))
    assert main(["--page"]) == 0
    assert f"| optimal SVD |{' not measured |' * 6}\n" in page.read_text()
    assert "| optimal SVD | R = 4" not in page.read_text()


def test_our_networks_are_nearer_than_the_authors_in_every_layer_at_every_rank():
    lines = list(nearer(json.loads(RECORD.read_text())))
    assert lines and all(line.endswith("in 72 of 72 layers and ranks") for line in lines), lines


@pytest.mark.parametrize("record", [None, "{", "[]", '{"errors": {}}'])
def test_a_record_that_is_none_is_named(page, capsys, record):
    if record is not None:
        page.with_suffix("").joinpath("one.json").write_text(record)
    before = page.read_text()
    assert main(["--page"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "one.json: expected a record that --json wrote" in line
    assert page.read_text() == before


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("msa_module.blocks.0.pair_stack.tri_att_end", "MSA block 0 end"),
        ("pairformer_stack.blocks.47.tri_att_start", "block 47 start"),
        ("confidence_head.pairformer_stack.blocks.3.tri_att_end", "confidence head block 3 end"),
        ("template_embedder.pairformer_stack.blocks.1.tri_att_start", "template block 1 start"),
        ("another.layer", "another.layer"),
    ],
)
def test_layers_have_names_that_can_be_read(layer, said):
    assert label(layer) == said
