"""What a prediction is said to need, against what was measured: here on a CPU, and on an H200 in records."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lengths import at_length, only_in_full
from processes import output_of

from flashbias_fold.protenix_adapter.memory_model import LARGEST_TOKENS, Need
from flashbias_fold.protenix_adapter.models import Model, build_config, checkpoint_path, find_model
from flashbias_fold.protenix_adapter.recording import SWITCH
from flashbias_fold.protenix_adapter.trunk_graph import FEWEST_CYCLES, MOST_TOKENS

RECORDS = Path(__file__).parents[2] / "docs" / "benchmarks"
# The first was measured before the transition of pairs was cut in pieces, so its rows of ours are history.
MEASURED = {
    "model-h200-memory": "stock-cuequivariance",
    "model-h200-512": "dense",
    "model-h200-memory-1024": "dense",
    "model-h200-2048": "dense",
}
ALLOWED = 0.15
GIB = 2**30
# Of a prediction whose recorded trunk is kept, on an H200: docs/method.md, cycles of the trunk.
RECORDED = {
    64: {"trunk": 1.77, "diffusion": 1.84, "confidence": 1.80},
    256: {"trunk": 2.28, "diffusion": 2.33, "confidence": 2.57},
    512: {"trunk": 3.91, "diffusion": 3.71, "confidence": 4.79},
}

MEASURE = """
    import logging, sys
    import torch
    from flashbias_fold.pairformer import Plan
    from flashbias_fold.protenix_adapter.components import open_components
    from flashbias_fold.protenix_adapter.engine import Engine
    from flashbias_fold.protenix_adapter.models import find_model

    bias, n_token, samples = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    sequence = ("ACDEFGHIKLMNPQRSTVWY" * n_token)[:n_token]
    job = {"name": "x", "sequences": [{"proteinChain": {"sequence": sequence, "count": 1}}]}
    logging.disable(logging.CRITICAL)
    engine = Engine(
        find_model("demo"), Plan.for_bias(bias),
        device=torch.device("cpu"), dtype="fp32", samples=samples, steps=1, cycles=1,
    )
    open_components().install_for(job)
    print(engine.predict(job, 1).peak_memory_bytes)
"""


def official_config(name, dtype="bf16"):
    from configs.configs_model_type import model_configs

    config = build_config(Model(name, model_configs[name], checkpoint_path(name)))
    config.dtype = dtype
    return config


def a_need(
    name="protenix_base_default_v1.0.0",
    *,
    bias="dense",
    on_gpu=True,
    samples=5,
    attention="torch",
    recorded=True,
):
    device = torch.device("cuda" if on_gpu else "cpu")
    config = official_config(name, "bf16" if on_gpu else "fp32")
    return Need.of(config, 1_400_000_000, samples, device, bias=bias, attention=attention, recorded=recorded)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bias", "n_token", "samples"),
    [
        ("dense", 96, 1),
        pytest.param("stock", 180, 1, marks=only_in_full),
        pytest.param("dense", 300, 5, marks=only_in_full),
    ],
)
def test_a_run_on_a_cpu_takes_what_it_was_said_to_need(bias, n_token, samples):
    measured = int(output_of(MEASURE, bias, n_token, samples))
    model = find_model("demo")
    config = build_config(model)
    config.dtype = "fp32"
    weights = model.checkpoint.stat().st_size
    need = Need.of(config, weights, samples, torch.device("cpu"), bias=bias, attention="torch")
    assert abs(need.bytes_of(n_token) / measured - 1) < ALLOWED


@pytest.mark.parametrize("name", MEASURED)
def test_a_run_on_a_gpu_took_what_it_is_said_to_need(name):
    record = json.loads((RECORDS / f"{name}.json").read_text())
    options = record["options"]
    rows = [row for row in record["rows"] if row["method"] == MEASURED[name]]
    assert rows
    need = Need.of(
        official_config(options["model"], options["dtype"]),
        4 * record["parameters"],
        options["samples"],
        torch.device("cuda"),
        bias="stock" if MEASURED[name].startswith("stock") else "dense",
        attention=record["kernels"][MEASURED[name]]["attention"],
        recorded=False,  # before any was
    )
    for row in rows:
        assert abs(need.bytes_of(row["tokens"]) / row["peak_memory_bytes"] - 1) < ALLOWED
        for stage, said in need.stages(row["tokens"]).items():
            assert abs(said / row["parts"][stage]["peak_memory_bytes"] - 1) < ALLOWED


@pytest.mark.parametrize("n_token", RECORDED)
def test_a_recorded_run_on_a_gpu_took_what_it_is_said_to_need(n_token):
    weights = 4 * json.loads((RECORDS / "model-h200-512.json").read_text())["parameters"]
    said = dataclasses.replace(a_need(), weights=weights).stages(n_token)
    for stage, measured in RECORDED[n_token].items():
        assert abs(said[stage] / GIB / measured - 1) < ALLOWED


def test_a_recording_is_reckoned_with_where_there_is_one(monkeypatch):
    def surplus(n_token=512, **options):
        return a_need(**options).bytes_of(n_token) - a_need(recorded=False, **options).bytes_of(n_token)

    said, without = a_need().stages(512), a_need(recorded=False).stages(512)
    assert all(said[stage] > without[stage] for stage in without)
    assert surplus(MOST_TOKENS) > surplus(512) > surplus(64) > 0
    assert surplus(MOST_TOKENS + 1) == surplus(bias="stock") == surplus(on_gpu=False) == 0
    need = a_need()
    need.config.model.N_cycle = FEWEST_CYCLES - 1
    assert need.bytes_of(512) == a_need(recorded=False).bytes_of(512)
    monkeypatch.setenv(SWITCH, "0")
    assert surplus() == 0


@pytest.mark.parametrize("on_gpu", [True, False])
@pytest.mark.parametrize("bias", ["dense", "stock"])
def test_more_tokens_and_more_samples_need_more(bias, on_gpu):
    need = a_need(bias=bias, on_gpu=on_gpu, recorded=False)  # where recording ends less is needed
    by_token = [need.bytes_of(n) for n in range(10, 1024, 50)]
    assert by_token == sorted(set(by_token))
    # Of few samples the peak is in the trunk, which knows nothing of them.
    by_sample = [dataclasses.replace(need, samples=n).bytes_of(900) for n in range(1, 20)]
    assert by_sample == sorted(by_sample) and by_sample[-1] > by_sample[8] > by_sample[0]


@pytest.mark.parametrize("on_gpu", [True, False])
def test_a_wider_model_needs_more(on_gpu):
    names = ("protenix_base_default_v1.0.0", "protenix-v2")
    needs = [a_need(name, on_gpu=on_gpu).bytes_of(3000) for name in names]
    assert needs == sorted(set(needs))


@given(tokens=st.integers(1, 6000), samples=st.integers(1, 20), dtype=st.sampled_from(["bf16", "fp32"]))
def test_ours_run_as_ever_never_needs_more_than_stock(tokens, samples, dtype):
    config = official_config("protenix_base_default_v1.0.0", dtype)
    ours, stock = (
        Need.of(
            config,
            1_400_000_000,
            samples,
            torch.device("cuda"),
            bias=bias,
            attention="cuequivariance",
            recorded=False,
        )
        for bias in ("dense", "stock")
    )
    assert ours.bytes_of(tokens) <= stock.bytes_of(tokens)


def test_scores_that_are_kept_need_more():
    kept, fused = (a_need(bias="stock", attention=kernel) for kernel in ("torch", "cuequivariance"))
    assert kept.bytes_of(900) > 1.2 * fused.bytes_of(900)
    assert not a_need(bias="dense").scores_kept, "ours keeps none, whatever stock would run"


@settings(max_examples=at_length(20, 100))
@given(room=st.integers(0, 400 * GIB))
def test_the_largest_input_fits_and_no_larger_one(room):
    need = a_need()
    found = need.largest(room)
    assert 0 <= found <= LARGEST_TOKENS
    assert found == 0 or need.bytes_of(found) <= room
    assert found == LARGEST_TOKENS or need.bytes_of(found + 8) > room


def test_more_room_lets_larger_inputs_in():
    need = a_need(bias="stock", attention="cuequivariance")
    found = [need.largest(size * GIB) for size in (2, 8, 24, 48, 80, 141)]
    assert found == sorted(set(found)) and found[0] > 64
