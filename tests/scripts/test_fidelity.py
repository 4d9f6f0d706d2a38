"""The comparison with stock: really run on a domain, and verdicts on made-up numbers."""

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from biotite import structure as struc
from command_line import call, report_of
from conftest import ROOT

from flashbias_fold.accuracy import accuracy, read_structure
from flashbias_fold.inputs import Job

sys.path.insert(0, str(ROOT / "scripts"))
import fidelity
from fidelity import Difference, Line, Method, Store, alpha_lddt, asked, chosen, differences, figures, main

SCRIPT = ROOT / "scripts" / "fidelity.py"
TRUTH = ROOT / "data" / "truth"
WAYS = ("stock", "seeds", "dense", "flashbias")


# The real thing, on the shortest domain


def options(out, *more):
    return [sys.executable, SCRIPT, "--limit", "1", "--samples", "1", "--out", out, "--device", "cpu", *more]


def run(out, *more):
    return subprocess.run(
        [str(option) for option in options(out, *more)],
        check=False, capture_output=True, text=True, timeout=200,
    )  # fmt: skip


def records(out):
    return {
        path.parent.name.rpartition("-")[0]: json.loads(path.read_text()) for path in out.glob("*/*.json")
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Interrupted while two processes worked, then finished: the folder, both runs, what was there."""
    folder = tmp_path_factory.mktemp("fidelity")
    started = subprocess.Popen(
        [str(option) for option in options(folder / "out", "--jobs", "2")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    said = [started.stderr.readline(), started.stderr.readline()]
    os.kill(started.pid, signal.SIGINT)
    out, err = started.communicate(timeout=60)
    until = time.monotonic() + 20
    while left := list(group(started.pid)):
        assert time.monotonic() < until, f"left behind: {left}"
        time.sleep(0.1)
    interrupted = subprocess.CompletedProcess([], started.returncode, out, "".join(said) + err)
    there = len(list((folder / "out").glob("*/*.json")))
    return folder, interrupted, there, run(folder / "out", "--json", folder / "record.json")


def group(leader):
    """The processes of a group that are still there."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, member = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(member) == leader and state != "Z":
            yield path


def test_an_interruption_leaves_whole_predictions(finished):
    _, interrupted, there, last = finished
    assert interrupted.returncode == 130
    assert not interrupted.stdout
    lines = interrupted.stderr.splitlines()
    assert lines[0].startswith("4 predictions to make, 0 are there")
    assert lines[1].startswith("[1/4] 1fs1A00 ")
    assert lines[-1] == "interrupted; the same command continues where it stopped"
    assert "Traceback" not in interrupted.stderr
    assert 1 <= there < 4
    assert last.stderr.startswith(f"{4 - there} predictions to make, {there} are there")
    assert f"[{4 - there}/{4 - there}] 1fs1A00 " in last.stderr


def test_it_prints_the_figures_of_the_weights_that_ship(finished):
    folder, _, _, done = finished
    result = json.loads((folder / "record.json").read_text())
    assert done.returncode in (0, 1)
    assert done.returncode == int("FAIL" in [line["verdict"] for line in result["lines"]])
    assert done.stdout == fidelity.report(result) + "\n"
    verdicts = {line["text"]: line["verdict"] for line in result["lines"]}
    assert list(verdicts.values()).count("----") == 2  # those of bf16
    judged = {text: verdict for text, verdict in verdicts.items() if "quarter" not in text}
    assert set(judged.values()) == {"PASS", "----"}, judged
    dense, ours = (result["figures"][name]["all"] for name in ("dense", "flashbias"))
    assert dense["largest_ptm"] <= 1e-5
    assert dense["mean_lddt"] > 0.9999 and ours["mean_lddt"] > 0.99
    assert "\n12 triangle attentions: 8 neural R = 32, 4 dense; largest certified error 0.0" in done.stdout


def test_the_record_says_where_it_comes_from(finished):
    folder, _, _, _ = finished
    result = json.loads((folder / "record.json").read_text())
    (made,) = result["made_by"]
    assert made.keys() == {"commit", "changed", "versions"}
    assert {"python", "torch", "protenix", "flashbias-fold"} <= made["versions"].keys()
    assert result["machine"]["cpu"]
    assert result["plan"]["name"] == "demo.yaml"
    # Everywhere, also where the plan that ships has the exact bias because it is faster.
    assert all(rule["rank"] == 32 and rule["gpu"] is None for rule in result["plan"]["rules"])
    assert result["weights"].startswith("sha256 ")
    assert [(way["name"], way["seed"], way["dtype"]) for way in result["methods"]] == [
        ("stock", 101, "fp32"), ("seeds", 102, "fp32"), ("dense", 101, "fp32"), ("flashbias", 101, "fp32"),
    ]  # fmt: skip
    assert str(folder) not in json.dumps(result)


def test_predictions_are_those_of_the_command_line(finished, tmp_path):
    """The same model, seed and noise as a user of `predict` has."""
    made = records(finished[0] / "out")["dense"]
    fasta = tmp_path / "one.fasta"
    fasta.write_text(f">1fs1A00\n{made['document']['sequences'][0]['proteinChain']['sequence']}\n")
    options = ("--model", "demo", "--bias", "dense", "--seeds", "101", "--samples", "1", "--device", "cpu")
    call("predict", fasta, "--out", tmp_path / "out", *options, check=0)
    report = report_of(tmp_path / "out", "1fs1A00")
    assert report["samples"][0]["ptm"] == pytest.approx(made["samples"][0]["ptm"], abs=1e-5)
    structure = read_structure(tmp_path / "out" / "1fs1A00" / report["samples"][0]["cif"])
    alphas = structure[structure.atom_name == "CA"].coord
    np.testing.assert_allclose(alphas, made["samples"][0]["alphas"], atol=0.02)
    assert [layer["name"] for layer in report["layers"]] == [layer["name"] for layer in made["layers"]]


def test_another_seed_is_another_structure_and_no_way_is_another_s(finished):
    made = records(finished[0] / "out")
    assert sorted(made) == sorted(WAYS)
    alphas = {way: np.array(record["samples"][0]["alphas"]) for way, record in made.items()}
    same = {way: np.abs(alphas[way] - alphas["stock"]).max() for way in WAYS}
    assert same["dense"] < 0.02
    assert same["dense"] < same["flashbias"] < 1  # most pairs of so short a domain are in the exact band
    assert same["seeds"] > 1  # turned, at least
    ways = {
        way: {layer["way"] for layer in fidelity.triangles(record["layers"])} for way, record in made.items()
    }
    assert ways == {
        "stock": set(), "seeds": set(), "dense": {"dense"}, "flashbias": {"neural", "dense"},
    }  # fmt: skip


# Which domains


@pytest.fixture(scope="module")
def everything():
    return chosen(None)


def test_its_domains_and_fifty_others(everything):
    jobs, known = everything
    sequences = {job.name: job.document["sequences"][0]["proteinChain"]["sequence"] for job in jobs}
    tables = {}
    for name in ("entries", "unseen", "strangers"):
        with (ROOT / "data" / "demo" / f"{name}.csv").open(newline="") as file:
            tables[name] = {row["name"]: row["sequence"] for row in csv.DictReader(file)}
    assert known == tables["entries"].keys()
    others = sequences.keys() - known
    assert (len(known), len(others), len(set(sequences.values()))) == (48, 50, 98)
    assert tables["unseen"].keys() <= others
    assert sequences.items() <= {**tables["entries"], **tables["unseen"], **tables["strangers"]}.items()
    assert all(30 <= len(sequences[name]) <= 200 for name in others)


@pytest.mark.parametrize(("limit", "ours", "others"), [(1, 1, 0), (5, 3, 2)])
def test_a_limit_takes_the_shortest_of_both_kinds(everything, limit, ours, others):
    jobs, known = chosen(limit)
    assert len([job for job in jobs if job.name in known]) == ours
    assert len([job for job in jobs if job.name not in known]) == others
    for kind in (True, False):
        of_kind = [job.name for job in everything[0] if (job.name in known) is kind]
        taken = [job.name for job in jobs if (job.name in known) is kind]
        assert taken == of_kind[: len(taken)]


def test_bf16_is_compared_where_it_is_computed(monkeypatch):
    assert [way.name for way in fidelity.methods(torch.device("cpu"), "fp32")] == list(WAYS)
    monkeypatch.setattr("flashbias_fold.protenix_adapter.kernels.usable_dtype", lambda device, asked: asked)
    ways = fidelity.methods(torch.device("cuda"), "fp32")
    assert [(way.name, way.bias, way.seed, way.dtype) for way in ways[4:]] == [
        ("stock_bf16", "stock", 101, "bf16"),
        ("flashbias_bf16", "flashbias", 101, "bf16"),
    ]
    assert {way.dtype for way in fidelity.methods(torch.device("cuda"), "bf16")} == {"bf16"}


# What is kept


JOB = Job("a", Path("a.fasta"), {"name": "a", "sequences": []}, 3, 20, 1, (), ())
STOCK = Method("stock", "stock", 101, "fp32")


def test_a_prediction_is_that_of_its_settings_and_its_job(tmp_path):
    store = Store(tmp_path, {STOCK: {"plan": 1}})
    assert store.read(STOCK, JOB) is None
    store.path(STOCK, JOB).write_text(json.dumps({"document": JOB.document, "samples": []}))
    assert store.read(STOCK, JOB)["samples"] == []
    assert Store(tmp_path, {STOCK: {"plan": 1}}).read(STOCK, JOB) is not None
    assert Store(tmp_path, {STOCK: {"plan": 2}}).read(STOCK, JOB) is None
    assert store.read(STOCK, replace(JOB, document={"name": "a", "sequences": [1]})) is None
    store.path(STOCK, JOB).write_text('{"document": ')
    assert store.read(STOCK, JOB) is None


def test_what_is_there_is_not_predicted_again(tmp_path, monkeypatch, capsys):
    other = replace(JOB, name="b", document={"name": "b"})
    made = []

    class Stub:
        def __init__(self, store, options):
            self.store = store

        def predict(self, way, job):
            made.append((way.name, job.name))
            self.store.path(way, job).write_text(json.dumps({"document": job.document}))
            return 2.0

    monkeypatch.setattr(fidelity, "Predictor", Stub)
    store = Store(tmp_path, {replace(STOCK, name=name): {} for name in ("stock", "dense")})
    store.path(replace(STOCK, name="dense"), JOB).write_text(json.dumps({"document": JOB.document}))
    asked_for = argparse.Namespace(jobs=1, out=tmp_path)
    for _ in range(2):
        fidelity.predict_missing(store, [JOB, other], asked_for)
    assert made == [("stock", "a"), ("stock", "b"), ("dense", "b")]  # a whole comparison, then the next
    first, *_, third, again = capsys.readouterr().err.splitlines()
    assert first.startswith("3 predictions to make, 1 are there")
    assert third == "[3/3] b dense: 2.0 s, about 0 min left"
    assert again.startswith("0 predictions to make, 4 are there")


# Differences


def alphas_of(name):
    structure = read_structure(TRUTH / f"{name}.pdb.gz")
    return structure, structure[structure.atom_name == "CA"].coord


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("name", ["1igdA00", "1fs1A00"])
def test_lddt_is_that_of_the_evaluation(name, sigma):
    truth, alphas = alphas_of(name)
    model = truth.copy()
    model.coord += np.random.default_rng(0).normal(0, 1, model.coord.shape).astype(np.float32) * sigma
    found = model[model.atom_name == "CA"].coord
    assert alpha_lddt(found, alphas) == pytest.approx(accuracy(model, truth).lddt, abs=1e-9)
    turned = struc.rotate(found, [0.3, 1.0, 2.0]) + 50
    assert alpha_lddt(turned.tolist(), alphas.tolist()) == pytest.approx(alpha_lddt(found, alphas), abs=2e-3)
    assert (alpha_lddt(found, alphas) == 1) is (sigma == 0)


def sample(alphas, ptm, ranking, plddt=80.0):
    return {"ptm": ptm, "plddt": plddt, "ranking_score": ranking, "alphas": np.asarray(alphas).tolist()}


def test_structures_are_paired_by_noise_and_the_best_by_rank():
    _, one = alphas_of("1fs1A00")
    other = one + np.random.default_rng(1).normal(0, 2, one.shape)
    stock = {"name": "d", "samples": [sample(one, 0.50, 0.9), sample(other, 0.40, 0.8, 70.0)]}
    found = {"name": "d", "samples": [sample(one, 0.51, 0.7), sample(other, 0.44, 0.8, 69.0)]}
    first, second, best = differences(found, stock, True)
    assert (first.lddt, second.lddt) == (1.0, 1.0)
    assert (first.ptm, second.ptm) == pytest.approx((0.01, 0.04))
    assert (first.plddt, second.plddt) == pytest.approx((0.0, 1.0))
    assert (first.best, best.best, best.sample) == (False, True, 1)
    assert best.ptm == pytest.approx(0.06)
    assert best.lddt == pytest.approx(alpha_lddt(other, one))
    assert best.lddt < 0.9


def some(domain="d", known=True, best=False, ptm=0.0, plddt=0.0, lddt=1.0):
    return Difference(domain, known, 0, best, ptm, plddt, lddt)


def test_figures_are_means_and_extremes_of_each_part():
    values = [
        some(ptm=0.01, plddt=1.0, lddt=0.9), some(ptm=0.03, plddt=0.0, lddt=1.0),
        some("e", known=False, ptm=0.05, plddt=5.0, lddt=0.5), some(best=True, ptm=0.5, lddt=0.1),
    ]  # fmt: skip
    parts = fidelity._figures_by_part(values)
    assert parts["all"] == pytest.approx({
        "structures": 3, "mean_ptm": 0.03, "largest_ptm": 0.05, "mean_lddt": 0.8, "least_lddt": 0.5,
        "mean_plddt": 2.0, "largest_plddt": 5.0,
    })  # fmt: skip
    assert parts["its domains"] == figures(values[:2])
    assert parts["others"] == figures(values[2:3])
    assert parts["the best of each"] == figures(values[3:])
    assert "others" not in fidelity._figures_by_part(values[:2])
    assert fidelity._by_domain(values)["d"]["mean_ptm"] == 0.02


# What the layers did


PAIR_BIAS = "pairformer_stack.blocks.0.attention_pair_bias"


def layer(number, way="lowrank", rank=32, error=0.1, fallbacks=0):
    name = f"pairformer_stack.blocks.{number}.tri_att_start"
    return {"name": name, "way": way, "rank": rank, "certified_error": error, "fallbacks": fallbacks}


def layers_of(*predictions):
    dense = [layer(number, "dense", None, 0.0) for number in range(6)]
    dense.append({**layer(0, "dense", None, 0.0), "name": PAIR_BIAS})
    made = [{"layers": list(layers)} for layers in predictions]
    return fidelity.layer_table(made, [{"layers": dense}] * len(made))


def test_layers_count_as_decomposed_by_small_factors_alone():
    both = [layer(1, rank=33), layer(3, "dense", None, 0.0), layer(4, "neural", 8)]
    one = [layer(0), layer(2, fallbacks=3), *both]
    two = [layer(0, error=0.3), layer(2), *both]
    rows = layers_of(one, two)
    assert [row["decomposed"] for row in rows] == [1, 0, 0.5, 0, 1, 0, 0]
    assert [row["way"] for row in rows] == [
        "lowrank",
        "lowrank",
        "lowrank",
        "dense",
        "neural",
        *["stock"] * 2,
    ]
    assert [row["fallbacks"] for row in rows] == [0, 0, 3, 0, 0, 0, 0]
    assert rows[0]["mean_error"] == pytest.approx(0.2)
    assert rows[0]["largest_error"] == 0.3
    assert fidelity.layer_counts({"layers": rows}) == [
        "6 triangle attentions: 2 lowrank R = 32, 1 lowrank R = 33, 1 dense, 1 neural R = 8, 1 stock; "
        "largest certified error 0.3, 3 fallbacks",
        "1 attentions with pair bias: 1 stock; largest certified error 0, 0 fallbacks",
    ]


# Verdicts


def made_up(**changes):
    """Figures that pass every line, some of them changed: `NAME_ptm=(mean, largest)`, `NAME_lddt=mean`."""
    usual = {
        "seeds_ptm": (0.02, 0.2), "seeds_lddt": 0.9, "dense_ptm": (1e-5, 1e-5), "dense_lddt": 1.0,
        "flashbias_ptm": (0.004, 0.02), "flashbias_lddt": 0.985,
    } | changes  # fmt: skip
    names = dict.fromkeys(key.rpartition("_")[0] for key in usual)
    return {
        name: {
            "all": {
                "mean_ptm": usual[f"{name}_ptm"][0],
                "largest_ptm": usual[f"{name}_ptm"][1],
                "mean_lddt": usual[f"{name}_lddt"],
            }
        }
        for name in names
    }


def failing(figures, decomposed=(1.0, 0.0), fp32=True):
    layers = [
        {"name": f"{number}.tri_att_end", "decomposed": share} for number, share in enumerate(decomposed)
    ]
    lines = asked(figures, [*layers, {"name": PAIR_BIAS, "decomposed": 0.0}], fp32=fp32)
    return [number for number, line in enumerate(lines) if line.verdict == "FAIL"], lines


@pytest.mark.parametrize(
    ("number", "enough", "too_far"),
    [
        (0, {"dense_ptm": (0, 1e-4)}, {"dense_ptm": (0, 1.1e-4)}),
        (2, {"flashbias_ptm": (0.005, 0.02)}, {"flashbias_ptm": (0.0051, 0.02), "seeds_ptm": (1, 1)}),
        (3, {"flashbias_ptm": (0.004, 0.03)}, {"flashbias_ptm": (0.004, 0.031)}),
        (4, {"flashbias_lddt": 0.98}, {"flashbias_lddt": 0.979}),
        (5, {"seeds_ptm": (0.016, 0.2)}, {"seeds_ptm": (0.0159, 0.2)}),
        (6, {"seeds_lddt": 0.9399}, {"seeds_lddt": 0.9401}),
        (2, {}, {"flashbias_ptm": (float("nan"), 0.02), "seeds_ptm": (1, 1)}),
    ],
)
def test_each_line_has_its_limit(number, enough, too_far):
    assert failing(made_up(**{"seeds_lddt": 0.9, **enough}))[0] == []
    found, _ = failing(made_up(**too_far))
    assert number in found
    assert set(found) <= {number, 5}  # NaN is under no limit at all


def test_half_of_the_layers_must_be_decomposed():
    assert failing(made_up(), (1.0, 0.5, 0.0))[0] == []
    assert failing(made_up(), (1.0, 0.4, 0.0))[0] == [1]


def test_bf16_may_cost_twice_what_it_costs_stock():
    stock = {"stock_bf16_ptm": (0.01, 0.1), "stock_bf16_lddt": 0.9}
    good = {"flashbias_bf16_ptm": (0.02, 0.3), "flashbias_bf16_lddt": 0.8001}
    assert failing(made_up(**stock, **good))[0] == []
    assert failing(made_up(**stock, **good | {"flashbias_bf16_ptm": (0.021, 0.03)}))[0] == [7]
    assert failing(made_up(**stock, **good | {"flashbias_bf16_lddt": 0.79}))[0] == [8]
    _, lines = failing(made_up())
    assert [line.verdict for line in lines[7:]] == ["----", "----"]
    assert all("needs a GPU" in line.text for line in lines[7:])


def test_dense_is_judged_in_fp32_alone():
    found, lines = failing(made_up(dense_ptm=(1, 1)), fp32=False)
    assert found == []
    assert lines[0].verdict == "----"


def test_a_line_says_its_bound():
    lines = [Line("near", 0.5, 0.3), Line("like", 0.9951, 0.98, at_most=False), Line("unknown", None, 0.0)]
    result = {"lines": [vars(line) | {"verdict": line.verdict} for line in lines]}
    assert list(fidelity.line_texts(result)) == [
        "FAIL  near: 0.5 (at most 0.3)", "PASS  like: 0.9951 (at least 0.98)", "----  unknown",
    ]  # fmt: skip


# The page


def test_the_page_says_what_its_records_say():
    assert main(["--page", "--check"]) == 0


def test_the_page_is_written_from_the_record(finished, tmp_path, monkeypatch):
    page, folder = tmp_path / "fidelity.md", tmp_path / "fidelity"
    folder.mkdir()
    record = (finished[0] / "record.json").read_text()
    (folder / "one.json").write_text(record)
    text = (
        "# Page\n\n<!-- predictions one -->\nold\n<!-- end -->\n\n<!-- other one -->\nstays\n<!-- end -->\n"
    )
    page.write_text(text)
    monkeypatch.setattr(fidelity, "PAGE", page)
    assert main(["--page", "--check"]) == 1
    assert page.read_text() == text
    assert main(["--page"]) == 0
    written = page.read_text()
    assert main(["--page", "--check"]) == 0
    assert "old" not in written
    assert written.endswith("<!-- other one -->\nstays\n<!-- end -->\n")
    (row,) = [line for line in written.splitlines() if line.startswith("| flashbias | all |")]
    figures = json.loads(record)["figures"]["flashbias"]["all"]
    assert row.split(" | ")[3] == f"{figures['mean_ptm']:.2g}"
    assert "    PASS  dense: largest difference in pTM" in written


def test_a_record_that_is_missing_is_named(tmp_path, monkeypatch, capsys):
    page = tmp_path / "fidelity.md"
    page.write_text("<!-- predictions none -->\n<!-- end -->\n")
    monkeypatch.setattr(fidelity, "PAGE", page)
    assert main(["--page"]) == 2
    assert "none.json" in capsys.readouterr().err


# Bad usage


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--limit", "0"], "--limit"),
        (["--jobs", "some"], "--jobs"),
        (["--dtype", "fp16"], "--dtype"),
        (["--plan", "no/such/plan.yaml"], "no/such/plan.yaml"),
        (["--json", "no/such/folder/record.json"], "no/such/folder"),
        (["--check"], "--check"),
        (["--lim", "2"], "--lim"),
        (["something"], "something"),
    ],
)
def test_what_is_wrong_with_the_arguments_is_said_in_a_line(tmp_path, capsys, options, said):
    assert main(["--out", str(tmp_path / "out"), *options]) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert said in printed.err
    assert not (tmp_path / "out").exists()


def test_without_a_gpu_it_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--out", str(tmp_path), "--device", "cuda"]) == 2
    assert "--device cuda" in capsys.readouterr().err
