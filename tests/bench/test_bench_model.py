"""`bench model`: every method predicts in turn, the stock model is back afterwards, the record says all."""

import csv
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from command_line import write_jobs
from conftest import protein
from lengths import only_in_full

from flashbias_fold.bench.model import record, run
from flashbias_fold.bench.model.inputs import chain, problem
from flashbias_fold.bench.model.layers import REST
from flashbias_fold.bench.model.methods import Method, methods
from flashbias_fold.bench.model.options import METHODS, ModelOptions
from flashbias_fold.bench.model.session import STAGES, Session
from flashbias_fold.bench.model.weights import draw
from flashbias_fold.errors import FlashbiasError, InputError, SetupError, UsageError
from flashbias_fold.pairformer import Plan
from flashbias_fold.predict.progress import Reporter
from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.initial_weights import uninitialised
from flashbias_fold.protenix_adapter.kernels import StockKernels, stock_kernels
from flashbias_fold.protenix_adapter.models import Model, architecture, build_config, demo_model

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
ABLE = ["stock-torch", "dense", "flashbias"]
GPU_ONLY = ["stock-cuequivariance", "stock-triattention", "stock-deepspeed", "bionemo"]
BASE = "protenix_base_default_v1.0.0"
TINY = {"model": "demo", "device": "cpu", "cycles": 1, "steps": 2, "samples": 1, "repeats": 2}


def measured(after_each=None, **options):
    return run.run(ModelOptions(**{**TINY, **options}), Reporter(quiet=True), after_each)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of everything that runs here, and its folder, which is written after each size."""
    out = tmp_path_factory.mktemp("bench")
    sizes = []

    def keep(result):
        sizes.append({row.tokens for row in result.rows})
        record.write(result, out)

    result = measured(keep, tokens=(14, 21))
    assert sizes == [{14}, {14, 21}]
    return result, out


def test_a_short_first_call_is_not_told(tmp_path):
    """The rounds are whole predictions all the same."""
    result = measured(tokens=(14,), methods=("dense",), warm_up="short", repeats=1, steps=6, layers=False)
    (row,) = result.rows
    assert row.first_s is None and len(row.part("total").rounds_s) == 1
    assert result.options.steps == 6 and result.options.cycles == 1
    record.write(result, tmp_path)
    assert json.loads((tmp_path / "model.json").read_text())["rows"][0]["first_s"] is None
    assert record.rows(result)[0][record.COLUMNS.index("first")] == ""


def test_the_peak_of_the_whole_is_that_of_a_stage(finished):
    for row in finished[0].rows:
        peaks = [row.part(stage).peak_bytes for stage in STAGES]
        assert min(peaks) > 0 and row.peak_memory_bytes == row.part("total").peak_bytes == max(peaks)


@pytest.fixture(scope="module")
def session():
    return a_session(demo_model(), random_weights=False)


@pytest.fixture(scope="module")
def features(session, components):
    return problem(chain(17), session.config, components, 1).features


def a_session(model, **options):
    given = {"random_weights": True, "device": CPU, "dtype": "fp32", "samples": 1, "steps": 2, "cycles": 1}
    return Session(model, **{**given, **options})


def test_every_method_is_timed_at_every_size(finished):
    result, _ = finished
    for tokens in (14, 21):
        here = [row for row in result.rows if row.tokens == tokens]
        assert sorted(row.method for row in here) == sorted(ABLE)
        medians = [row.part("total").seconds.median for row in here]
        assert medians == sorted(medians)
        stock = next(row for row in here if row.method == "stock-torch")
        for row in here:
            assert [part.name for part in row.parts] == ["total", *STAGES]
            for part in row.parts:
                assert len(part.rounds_s) == 2 and min(part.rounds_s) > 0
                base = stock.part(part.name).seconds.median
                assert part.ratio == pytest.approx(base / part.seconds.median)
            for number, total in enumerate(row.part("total").rounds_s):
                assert total == pytest.approx(sum(row.part(stage).rounds_s[number] for stage in STAGES))
            assert row.first_s > 0 and row.peak_memory_bytes > 0
    assert result.baseline == "stock-torch"
    assert [(entry.method, entry.reason) for entry in result.not_run] == [
        (name, "needs an NVIDIA GPU") for name in GPU_ONLY
    ]
    assert result.exit_status == 0


def test_methods_differ_in_what_they_say_and_not_in_what_they_call(finished):
    by_name = {row.method: row for row in finished[0].rows if row.tokens == 21}
    assert by_name["stock-torch"].ways == {}
    assert by_name["dense"].ways.keys() == {"dense"}
    assert by_name["flashbias"].ways.keys() == {"dense", "neural"}
    called = [{(layer.stage, layer.kind): layer.calls for layer in by_name[method].layers} for method in ABLE]
    # Ours looks at the pairs in the first of two steps alone.
    assert [own.pop(("diffusion", "pair normalisation in a step")) for own in called] == [2, 1, 1]
    assert called[0] == called[1] == called[2]
    # Four blocks of the Pairformer and one of the alignment, then one of the confidence head.
    assert called[0]["trunk", "triangle attention"] == called[0]["trunk", "triangle multiplication"] == 10
    assert called[0]["confidence", "triangle attention"] == 2
    assert (
        called[0]["diffusion", "diffusion attention"] == called[0]["diffusion", "diffusion transition"] == 8
    )
    assert called[0]["diffusion", "atom decoder"] == 2
    assert {stage for stage, kind in called[0] if kind == REST} == set(STAGES)


def test_the_files_say_what_was_measured(finished):
    result, out = finished
    assert sorted(path.name for path in out.iterdir()) == sorted(record.NAMES)
    found = json.loads((out / "model.json").read_text())
    assert found == json.loads(json.dumps(record.as_json(result)))
    assert found["options"]["warm_up"] == "whole"
    assert found["weights"] == "real" and found["parameters"] > 6e6
    assert found["trunk_recorded"] is True
    assert found["options"]["cycles"] == 1 and found["options"]["steps"] == 2
    assert found["plan"]["name"] == "demo.yaml"
    named = {rule["factors"] for rule in found["plan"]["rules"] if "factors" in rule}
    assert named == {"factors.safetensors"}
    assert found["kernels"]["dense"] == {"attention": "torch", "multiplication": "torch"}
    assert found["versions"]["torch"] == torch.__version__ and found["machine"]["threads"] >= 1
    assert [job["tokens"] for job in found["jobs"]] == [14, 21]
    assert all(job["featurize_s"] > 0 for job in found["jobs"])
    for row, entry in zip(result.rows, found["rows"], strict=True):
        for part in row.parts:
            assert entry["parts"][part.name]["rounds_s"] == pytest.approx(list(part.rounds_s), rel=1e-4)
        assert len(entry["layers"]) == len(row.layers)
        assert {layer["floor_s"] for layer in entry["layers"]} == {None}, "no rate of a CPU is known"
    for file in out.iterdir():
        assert str(ROOT) not in file.read_text()


def test_the_table_has_a_line_for_every_part_and_kind(finished):
    result, out = finished
    with (out / "model.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    timed = [line for line in lines if line["status"] == "timed"]
    assert len(timed) == sum(len(row.parts) + len(row.layers) for row in result.rows)
    for row in result.rows:
        own = [line for line in timed if (line["method"], line["tokens"]) == (row.method, str(row.tokens))]
        whole = next(line for line in own if line["part"] == "total")
        assert float(whole["median_s"]) == pytest.approx(row.part("total").seconds.median, rel=1e-4)
        assert int(whole["peak_memory_bytes"]) == row.peak_memory_bytes
        for stage in STAGES:
            assert sum(line["part"] == stage and line["kind"] != "" for line in own) > 2
    assert [line["method"] for line in lines if line["status"] == "not run"] == GPU_ONLY


def test_the_chart_has_a_panel_for_every_part(finished):
    chart_of = ElementTree.parse(finished[1] / "model.svg")
    texts = [text.text for text in chart_of.iter("{http://www.w3.org/2000/svg}text")]
    assert all(texts.count(label) == 1 for label in (*ABLE, "total", *STAGES))


def test_what_is_shown(finished):
    result, _ = finished
    assert re.match(
        r"demo with real weights on .*: fp32, 1 cycles, 2 steps, 1 samples, 2 inter", record.head(result)
    )
    rows = record.rows(result)
    assert [row[1:3] for row in rows] == [(str(row.tokens), row.method) for row in result.rows]
    assert {len(row) for row in rows} == {len(record.COLUMNS)}
    layers = record.layer_rows(result)
    # Nobody has measured the rates of this CPU.
    assert {len(row) for row in layers} == {len(record.layer_columns(result))}
    assert record.layer_columns(result) == record.LAYER_COLUMNS[:-1]
    assert {row[0] for row in layers} == set(ABLE)
    attention = [row for row in layers if row[:3] == ("dense", "trunk", "triangle attention")]
    assert [row[3] for row in attention] == ["10"] and attention[0][5].endswith(" %")
    notes = record.notes(result)
    assert "flashbias: plan demo.yaml" in notes
    assert not any("random" in note for note in notes)
    assert [note for note in notes if note.startswith("not run: ")] == [
        f"not run: {name}: needs an NVIDIA GPU" for name in GPU_ONLY
    ]


def test_the_stock_model_is_back_bit_for_bit(session, features):
    before = {name: type(module) for name, module in session.network.named_modules()}
    expected = session.call(features).coordinates
    able, _ = methods(
        ModelOptions(**TINY), session.model, random_weights=False, kernels=stock_kernels(CPU), device=CPU
    )
    assert [method.name for method in able] == ABLE
    found = {}
    for method in able:
        session.take(method)
        found[method.name] = session.call(features).coordinates
    session.restore()
    assert {name: type(module) for name, module in session.network.named_modules()} == before
    assert torch.equal(session.call(features).coordinates, expected)
    assert torch.equal(found["stock-torch"], expected)
    for ours in ("dense", "flashbias"):
        assert not torch.equal(found[ours], expected), "another kernel, or nothing was replaced"
        assert float((found[ours] - expected).norm() / expected.norm()) < 0.05
    assert session.config.triangle_attention == session.config.triangle_multiplicative == "torch"


def test_each_method_has_its_kernels(session):
    session.take(Method("stock-triattention", "triattention", "cuequivariance"))
    chosen = session.config.triangle_attention, session.config.triangle_multiplicative
    session.restore()
    assert chosen == ("triattention", "cuequivariance")


def test_a_call_leaves_the_features_as_they_were(session, features):
    kept = {
        key: value.clone()
        for key, value in features.data["input_feature_dict"].items()
        if torch.is_tensor(value)
    }
    session.call(features)
    now = features.data["input_feature_dict"]
    assert {key for key, value in now.items() if torch.is_tensor(value)} == kept.keys()
    assert all(torch.equal(now[key], value) for key, value in kept.items())


def test_fewer_steps_for_a_while(session, features):
    counts = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: counts.append(name))
        for name, module in (
            ("cycle", session.network.pairformer_stack),
            ("step", session.network.diffusion_module),
        )
    ]
    with pytest.raises(ZeroDivisionError), session.only(3, 4):
        session.call(features)
        raise ZeroDivisionError
    assert (counts.count("cycle"), counts.count("step")) == (3, 4)
    counts.clear()
    session.call(features)
    assert (counts.count("cycle"), counts.count("step")) == (session.cycles, session.steps) == (1, 2)
    for hook in hooks:
        hook.remove()


def test_random_weights_are_all_drawn_and_the_same_each_time():
    environment.prepare()
    from protenix.model.protenix import Protenix

    states = []
    for garbage in (float("nan"), 7.0):
        with environment.swallow_stdout(), uninitialised():
            network = Protenix(build_config(demo_model()))
        fixed = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
        for name, parameter in network.named_parameters():
            if name not in fixed:
                parameter.data.fill_(garbage)
        constants = {name: network.get_parameter(name).clone() for name in fixed}
        draw(network)
        assert fixed and all(torch.equal(network.get_parameter(name), constants[name]) for name in fixed)
        states.append(network.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])
        assert bool(torch.isfinite(value).all())
        assert value.dim() < 2 or bool(value.any())


def test_random_weights_stay_finite_over_a_whole_prediction(components):
    session = a_session(demo_model(), cycles=10, steps=200)
    features = problem(chain(10), session.config, components, 1).features
    largest = []
    hook = session.network.pairformer_stack.register_forward_hook(
        lambda _module, _arguments, out: largest.append(float(out[1].abs().max()))
    )
    call = session.call(features)
    hook.remove()
    assert len(largest) == 10 and max(largest) < 1e3
    assert bool(torch.isfinite(call.coordinates).all()) and float(call.coordinates.abs().max()) < 1e6


@only_in_full
def test_a_full_size_architecture_runs_on_random_weights(components):
    session = a_session(architecture("protenix_mini_default_v0.5.0"))
    assert sum(parameter.numel() for parameter in session.network.parameters()) > 134e6
    found = problem(chain(24), session.config, components, 3)
    assert found.features.n_token == 24 and found.features.n_msa > 2
    coordinates = {}
    for name, plan in (("stock", None), ("dense", Plan.for_bias("dense"))):
        session.take(Method(name, "torch", "torch", plan))
        # In 16 bit, as on a GPU.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            coordinates[name] = session.call(found.features).coordinates
    assert float((coordinates["dense"] - coordinates["stock"]).norm() / coordinates["stock"].norm()) < 0.05


def test_jobs_of_an_input_keep_their_names(tmp_path):
    jobs = [protein("first", "MTPAVTTYKLVI"), protein("second", "MTPAVTTY")]
    path = write_jobs(tmp_path / "jobs.json", *jobs)
    result = measured(input=path, methods=("dense",), repeats=1, layers=False)
    assert [(row.job, row.tokens, row.layers) for row in result.rows] == [
        ("first", 12, ()),
        ("second", 8, ()),
    ]
    assert result.options.as_dict()["input"] == "jobs.json"
    assert result.baseline is None and {part.ratio for row in result.rows for part in row.parts} == {None}
    assert record.layer_rows(result) == [] and result.not_run == []


def test_a_chain_is_the_same_each_time_and_may_have_an_alignment(components):
    session = a_session(demo_model())
    assert chain(30) == chain(30) != chain(31)
    document = chain(15)
    alone, aligned = (problem(document, session.config, components, rows).features for rows in (1, 20))
    assert alone.n_token == aligned.n_token == 15
    assert alone.n_msa < 5 and aligned.n_msa >= 20
    assert document == chain(15)


def test_what_breaks_is_noted_and_the_rest_goes_on(monkeypatch):
    take = Session.take

    def broken(self, method):
        if method.name == "dense":
            raise ValueError(f"no such thing in {ROOT}/secret/file.py")
        take(self, method)

    monkeypatch.setattr(Session, "take", broken)
    result = measured(tokens=(9,), repeats=1, layers=False, methods=("stock-torch", "dense"))
    assert [row.method for row in result.rows] == ["stock-torch"]
    (entry,) = result.not_run
    assert (entry.method, entry.tokens, entry.broken) == ("dense", 9, True)
    assert entry.reason == "ValueError: no such thing in file.py"
    assert result.exit_status == 1
    assert "failed: dense (9 tokens): ValueError: no such thing in file.py" in record.notes(result)
    assert {line["status"] for line in csv.DictReader(record.as_csv(result).splitlines())} == {
        "timed",
        "failed",
    }


def test_too_little_memory_is_no_failure_of_ours(monkeypatch):
    call = Session.call

    def full(self, features, **options):
        if self.swap.plan.name == "dense":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory, a long story")
        return call(self, features, **options)

    monkeypatch.setattr(Session, "call", full)
    result = measured(tokens=(9,), repeats=1, layers=False, methods=("stock-torch", "dense"))
    assert [(entry.method, entry.reason, entry.broken) for entry in result.not_run] == [
        ("dense", "out of memory", False)
    ]
    assert result.exit_status == 0


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"tokens": (0,)}, UsageError, "--tokens: expected numbers from 1 to 8192, got 0"),
        ({"tokens": (64, 9000)}, UsageError, "--tokens: expected numbers from 1 to 8192, got 9000"),
        ({"methods": ("stick",)}, UsageError, "--methods: expected some of stock, stock-.*, got 'stick'"),
        ({"methods": ("dense", GPU_ONLY[0])}, SetupError, "--methods stock-cuequivariance: needs an NV"),
        ({"steps": 0}, UsageError, "--steps: expected a number of at least 1, got 0"),
        ({"alignment": 0}, UsageError, "--alignment: expected a number of at least 1, got 0"),
        ({"alignment": 99999}, UsageError, "--alignment: expected a number up to 16384, got 99999"),
        ({"dtype": "fp8"}, UsageError, "--dtype: expected one of bf16, fp32, got 'fp8'"),
        ({"weights": "none"}, UsageError, "--weights: expected one of auto, real, random, got 'none'"),
        ({"input": Path("x"), "tokens": (9,)}, UsageError, "--tokens: the input's sizes are its own"),
        ({"input": Path("x"), "alignment": 9}, UsageError, "--alignment: the input's alignments are its own"),
        ({"input": Path("no/such")}, InputError, "no/such"),
        ({"plan": Path("x"), "methods": ("dense",)}, UsageError, "--plan: is for the method flashbias"),
        ({"plan": Path("no/such.yaml")}, UsageError, "--plan: no/such.yaml: No such file"),
        ({"model": "protenix_bas"}, UsageError, "--model: unknown model 'protenix_bas'"),
        ({"model": BASE, "weights": "real"}, SetupError, f"no weights of {BASE} at "),
        ({"model": "protenix_mini_esm_v0.5.0"}, UsageError, "--model: .* embeddings: it needs real weights"),
        ({"model": BASE, "tokens": (4000,)}, UsageError, "--tokens: 4000 tokens need about .* GiB of memory"),
        (
            {"weights": "random", "plan": ROOT / "configs" / "plans" / "demo.yaml"},
            UsageError,
            "--plan: .*demo.yaml: its networks are for trained weights, and these are random",
        ),
        ({"out": Path(__file__)}, UsageError, "--out: .* is there and is no folder"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_in_one_line(options, kind, said, monkeypatch):
    monkeypatch.setattr(run, "available_bytes", lambda _: 2**33)
    with pytest.raises(FlashbiasError) as error:
        measured(**options)
    assert type(error.value) is kind
    assert re.match(f"(error: )?{said}", str(error.value)), str(error.value)
    assert "\n" not in str(error.value)


def test_auto_is_the_model_that_it_stands_for():
    result = measured(model="auto", tokens=(9,), repeats=1, layers=False, methods=("dense",))
    assert (result.options.model, result.weights) == ("demo", "real")


def test_the_plan_is_the_shipped_one_if_its_networks_fit():
    def plan(model, **options):
        given = {key: options.pop(key) for key in ("random_weights",)}
        found, _ = methods(
            ModelOptions(methods=("flashbias",), **options),
            model,
            kernels=stock_kernels(CPU),
            device=CPU,
            **given,
        )
        return found[0].plan

    base = Model(BASE, {}, Path("nowhere"))
    assert plan(demo_model(), random_weights=False).name == "demo.yaml"
    assert plan(demo_model(), random_weights=True).name == "lowrank32.yaml"
    assert plan(base, random_weights=True).name == "lowrank32.yaml"
    own = ROOT / "configs" / "plans" / "lowrank32.yaml"
    assert plan(demo_model(), random_weights=False, plan=own).name == str(own)


def test_every_method_is_explained():
    assert list(METHODS) == [*GPU_ONLY, *ABLE]
    assert all(METHODS.values())


def test_stock_stands_for_what_protenix_takes_here():
    asked = ModelOptions(methods=("stock", "stock-torch"))
    able, missing = methods(asked, demo_model(), random_weights=False, kernels=stock_kernels(CPU), device=CPU)
    assert [method.name for method in able] == ["stock-torch"] and not missing
    on_a_gpu = StockKernels("cuequivariance", "cuequivariance", "")
    with pytest.raises(SetupError, match="--methods stock-cuequivariance: needs an NVIDIA GPU"):
        methods(asked, demo_model(), random_weights=False, kernels=on_a_gpu, device=CPU)
