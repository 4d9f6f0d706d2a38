"""`calibrate`: networks for every layer, judged on what they have not seen, and what interrupts it."""

import dataclasses
import signal
import time

import pytest
import torch
from command_line import call, errors_in, report_of, run, start
from command_line import write_jobs as write
from conftest import SEQUENCE, protein

from flashbias_fold.errors import UsageError
from flashbias_fold.factorize.store import FactorFile

SMALL = ("--model", "demo", "--steps", 2, "--cycles", 1, "--rank", 8)
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # more add up in any order
JOBS = [protein(name, SEQUENCE[start : start + 20]) for name, start in (("one", 0), ("two", 5), ("three", 9))]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write(tmp_path_factory.mktemp("inputs") / "jobs.json", *JOBS)


@pytest.fixture(scope="module")
def made(tmp_path_factory, inputs):
    """A calibration that nobody disturbed."""
    out = tmp_path_factory.mktemp("calibrate") / "f.safetensors"
    command = ("calibrate", "--inputs", inputs, "--out", out, "--passes", 2, *SMALL)
    return out, run(*command, check=0, env=ONE_THREAD, umask=0o026)


def test_every_layer_is_trained_and_judged_on_what_was_kept_aside(made):
    out, done = made
    file = FactorFile.load(out)
    assert len(file.networks) == 12
    assert file.about["inputs"] == ["one", "three"] and file.about["kept_aside"] == ["two"]
    assert set(file.about["looks"].values()) == {4}
    for errors in file.errors.values():
        assert set(errors) == {"neural", "lowrank"}
        for by_rank in errors.values():
            assert list(by_rank) == ["4", "8"]
            assert all(0 <= error["mean"] <= error["largest"] < 2 for error in by_rank.values())
    assert "pairformer_stack.blocks.0.tri_att_start" in done.stdout
    assert "12 layers of demo; 2 inputs to learn from, 2 times each, 1 kept aside" in done.stderr


def test_a_picture_and_nothing_else_lies_beside_it(made):
    out, _ = made
    assert sorted(path.name for path in out.parent.iterdir()) == ["f.safetensors", "f.svg"]
    assert "<svg" in out.with_suffix(".svg").read_text()


def test_who_may_read_them_is_for_the_umask_to_say(made):
    modes = {path.name: path.stat().st_mode & 0o777 for path in made[0].parent.iterdir()}
    assert modes == {"f.safetensors": 0o640, "f.svg": 0o640}


def test_training_changed_the_networks(made):
    from flashbias_fold.factorize import SketchNetwork

    found = FactorFile.load(made[0]).networks["pairformer_stack.blocks.3.tri_att_end"]
    untrained = SketchNetwork(
        **FactorFile.load(made[0]).sizes["pairformer_stack.blocks.3.tri_att_end"], rank=8
    )
    assert not torch.equal(found.share, untrained.share)
    assert not torch.equal(found.of_keys.weight, untrained.of_keys.weight)


def test_interrupted_and_resumed_it_is_the_same(tmp_path, made, inputs):
    out = tmp_path / "f.safetensors"
    command = ["calibrate", "--inputs", inputs, "--out", out, "--passes", 2, *SMALL]
    process = start(*command, env=ONE_THREAD)
    part = out.with_name("f.safetensors.part")
    while not part.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; --resume continues" in said and "Traceback" not in said
    assert not out.exists() and part.exists()
    refused = call(*command, check=2)
    assert "holds an interrupted calibration" in errors_in(refused.stderr)[0]
    other = call(*command, "--resume", "--seed", 7, check=2)
    assert "is of another model, other inputs or other options" in errors_in(other.stderr)[0]
    done = run(*command, "--resume", check=0, env=ONE_THREAD)
    assert "going on after" in done.stderr
    again, whole = FactorFile.load(out), FactorFile.load(made[0])
    assert again.errors == whole.errors and again.about == whole.about
    for name, network in whole.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(again.networks[name].state_dict()[key], value), (name, key)


def test_it_predicts(tmp_path, made, inputs):
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"- {{layers: '*.tri_att_*', way: neural, rank: 8, tolerance: 1.0, factors: {made[0]}}}\n"
    )
    call("predict", inputs, "--out", tmp_path / "out", *SMALL[:-2], "--plan", plan, check=0)
    layers = [layer for layer in report_of(tmp_path / "out", "two")["layers"] if "tri_att" in layer["name"]]
    assert len(layers) == 12
    measured = {layer["name"]: layer for layer in layers}
    for name, errors in FactorFile.load(made[0]).errors.items():
        assert (measured[name]["way"], measured[name]["rank"], measured[name]["fallbacks"]) == (
            "neural",
            8,
            0,
        )
        # Of eight rows instead of sixteen, and of another seed.
        assert measured[name]["certified_error"] < 3 * errors["neural"]["8"]["largest"] + 0.01


def test_networks_for_other_weights_are_refused(tmp_path, made, inputs):
    file, path = FactorFile.load(made[0]), tmp_path / "f.safetensors"
    cases = [
        (dataclasses.replace(file, weights="sha256 of others"), "trained for other weights of demo"),
        (dataclasses.replace(file, model="protenix-v2"), "trained for the model protenix-v2, not for demo"),
        (dataclasses.replace(file, networks={}, sizes={}), "has no network for msa_module"),
    ]
    plan = tmp_path / "plan.yaml"
    plan.write_text("- {layers: '*', way: neural, rank: 8, tolerance: 1.0, factors: f.safetensors}\n")
    for changed, why in cases:
        changed.save(path)
        done = call("predict", inputs, "--out", tmp_path / "out", *SMALL[:-2], "--plan", plan, check=2)
        assert why in errors_in(done.stderr)[-1]
    file.save(path)
    plan.write_text("- {layers: '*', way: neural, rank: 9, tolerance: 1.0, factors: f.safetensors}\n")
    done = call("predict", inputs, "--out", tmp_path / "out", *SMALL[:-2], "--plan", plan, check=2)
    assert "asks for rank 9" in errors_in(done.stderr)[-1]


def test_one_input_is_learnt_from_and_measured_on(tmp_path):
    inputs = write(tmp_path / "jobs.json", JOBS[0])
    out = tmp_path / "f.safetensors"
    done = call(
        "calibrate", "--inputs", inputs, "--out", out, "--passes", 1, "--network", "means", *SMALL, check=0
    )
    assert "(the same: there are no others)" in done.stderr
    file = FactorFile.load(out)
    assert file.kind == "means" and file.about["kept_aside"] == ["one"]
    assert list(next(iter(file.errors.values()))["neural"]) == ["8"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--rank", 97), "--rank: expected a number up to 96, got 97"),
        (("--rank", 3), "--rank: expected a number of at least 4, got 3"),
        (("--out", "f.pt"), "--out: expected a name that ends in .safetensors"),
        (("--network", "wish"), "--network"),
        (("--passes", 0), "--passes"),
        (("--inputs", "nowhere"), "nowhere"),
        (("--model", "protenix-v9"), "unknown model 'protenix-v9'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, inputs, arguments, why):
    given = {"--inputs": inputs, "--out": tmp_path / "f.safetensors", arguments[0]: arguments[1]}
    done = call("calibrate", *(part for pair in given.items() for part in pair), check=2)
    assert len(errors_in(done.stderr)) == 1 and why in errors_in(done.stderr)[0]
    assert list(tmp_path.iterdir()) == []


def test_an_input_that_fails_is_named_and_the_others_are_learnt_from(tmp_path, monkeypatch, inputs):
    from flashbias_fold.errors import JobError
    from flashbias_fold.protenix_adapter.engine import Engine

    real = Engine.predict

    def some(self, document, seed, observer=None):
        if document["name"] == "one":
            raise JobError("no room for it")
        return real(self, document, seed, observer)

    monkeypatch.setattr(Engine, "predict", some)
    out = tmp_path / "f.safetensors"
    done = call("calibrate", "--inputs", inputs, "--out", out, "--passes", 1, *SMALL, check=1)
    assert "error: job 'one': no room for it" in done.stderr
    assert FactorFile.load(out).about["failed"] == {"one": "no room for it"}


def test_settings_refuse_what_the_command_line_does():
    from pathlib import Path

    from flashbias_fold.calibrate import Settings

    with pytest.raises(UsageError, match="--seed"):
        Settings(inputs=Path("i"), out=Path("f.safetensors"), seed=-1)
