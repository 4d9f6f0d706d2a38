"""Memory: what a run takes, what there is, and a retry that begins with all."""

import gc
import os
import weakref
from pathlib import Path

import pytest
import torch
from conftest import protein

from flashbias_fold.pairformer import Plan
from flashbias_fold.protenix_adapter import engine as engine_module
from flashbias_fold.protenix_adapter.engine import Engine
from flashbias_fold.protenix_adapter.memory import (
    DeviceMemory,
    available_bytes,
    chunk_rows,
    free_bytes,
)
from flashbias_fold.protenix_adapter.models import build_config, find_model

CPU = torch.device("cpu")
MB = 10**6


def demo_config():
    return build_config(find_model("demo"))


@pytest.mark.parametrize(
    ("n_token", "rows"),
    [(50, None), (1024, None), (1025, 512), (1536, 512), (2000, 256), (2560, 128), (4000, 32)],
)
def test_the_chunks_are_those_that_protenix_chooses(n_token, rows):
    from protenix.model.protenix import Protenix

    class Stub:
        configs = demo_config()

    assert Protenix._get_dynamic_chunk_size(Stub, n_token) == rows
    assert chunk_rows(Stub.configs, n_token) == rows


@pytest.fixture
def machine(tmp_path):
    """The files in which Linux describes memory and its limits, for a machine of 8 GiB."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:        8388608 kB\nMemFree:         1000 kB\n")

    def available(groups, **limits):
        (tmp_path / "proc" / "self" / "cgroup").write_text(groups)
        for path, limit in limits.items():
            file = tmp_path / "cgroup" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{limit}\n")
        return available_bytes(CPU, proc=tmp_path / "proc", cgroups=tmp_path / "cgroup")

    return available


def test_without_a_limit_there_is_the_memory_of_the_machine(machine):
    assert machine("0::/\n") == 8 * 2**30
    assert machine("0::/user.slice\n", **{"user.slice/memory.max": "max"}) == 8 * 2**30


def test_a_container_has_what_its_limit_leaves(machine):
    assert machine("0::/\n", **{"memory.max": 3 * 2**30}) == 3 * 2**30


def test_a_batch_job_has_what_the_tightest_limit_above_it_leaves(machine):
    limits = {
        "slurm/job_7/step_0/memory.max": "max",
        "slurm/job_7/memory.max": 2 * 2**30,
        "slurm/memory.max": 6 * 2**30,
        "other/memory.max": 2**20,
    }
    assert machine("0::/slurm/job_7/step_0\n", **limits) == 2 * 2**30


def test_limits_of_the_first_version_of_cgroups_count_too(machine):
    groups = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n"
    no_limit = 9223372036854771712
    assert machine(groups, **{"memory/docker/abc/memory.limit_in_bytes": no_limit}) == 8 * 2**30
    # Inside the container its own group is at the top.
    assert machine(groups, **{"memory/memory.limit_in_bytes": 2**30}) == 2**30


def test_where_nothing_is_known_nothing_is_refused(tmp_path):
    assert available_bytes(CPU, proc=tmp_path, cgroups=tmp_path) > 2**60


@pytest.mark.parametrize(("free_kb", "expected"), [(1000, 1000 * 1024), (2**30, 8 * 2**30)])
def test_free_is_what_nobody_uses_within_the_limits(machine, tmp_path, free_kb, expected):
    machine("0::/\n")
    with (tmp_path / "proc" / "meminfo").open("a") as file:
        file.write(f"MemAvailable:   {free_kb} kB\n")
    assert free_bytes(CPU, proc=tmp_path / "proc") == expected


def test_this_machine_has_memory():
    assert 2**28 < available_bytes(CPU) < 2**50


def test_a_lap_has_its_own_peak_and_the_whole_that_of_the_largest():
    memory = DeviceMemory(CPU)
    block = bytearray(b"\1") * (300 * MB)
    first = memory.lap()
    del block
    memory.lap()  # which began when the block was still there
    second = memory.lap()
    assert memory.peak() >= first
    if second > first - 250 * MB:
        pytest.skip("the right to reset the peak is not given here")
    assert memory.peak() == memory.process_peak() == first


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_peak_is_that_of_one_measurement():
    first = DeviceMemory(CPU)
    before = first.process_peak()
    # Where the peak cannot be reset, it is that of all tests before.
    block = bytearray(b"\1") * (300 * MB + max(0, before - resident_bytes()))
    held = first.process_peak()
    assert held - before > 250 * MB
    assert first.peak() == held
    del block
    assert first.process_peak() > held - MB  # Linux counts roughly
    after = DeviceMemory(CPU).process_peak()
    if after >= held:
        pytest.skip("the right to reset the peak is not given here")
    assert held - after > 250 * MB


@pytest.fixture(scope="module")
def engine(random_model, components):
    components.install_for(protein())
    return Engine(
        random_model, Plan.for_bias("dense"), device=CPU, dtype="fp32", samples=2, steps=1, cycles=1
    )


@pytest.mark.parametrize("where", ["pairformer_stack.blocks.2", "diffusion_module", "confidence_head"])
def test_a_retry_begins_when_nothing_of_the_failed_attempt_is_held(engine, monkeypatch, where):
    """An exception's traceback holds the frames, and they the tensors, for as long as it is held itself."""
    layer = engine.network.get_submodule(where)
    real, held, alive = layer.forward, [], []

    def forward(*arguments, **options):
        if not held:
            local = torch.zeros(1000)
            tensors = [each for each in (local, *arguments, *options.values()) if torch.is_tensor(each)]
            held.extend(weakref.ref(tensor) for tensor in tensors)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        if not alive:
            alive.append([reference() is not None for reference in held])
        return real(*arguments, **options)

    monkeypatch.setattr(layer, "forward", forward)
    gc.collect()
    gc.disable()
    try:
        assert engine.predict(protein(), 1).chunk_size == 128
    finally:
        gc.enable()
    assert len(alive[0]) >= 3 and not any(alive[0])


@pytest.mark.parametrize(("own", "tried"), [(512, [None, 128, 32]), (64, [None, 32]), (32, [None, 32])])
def test_a_retry_never_takes_larger_chunks(engine, monkeypatch, own, tried):
    """Protenix makes chunks of its own from 1024 tokens on; a job of that size is not needed here."""
    monkeypatch.setattr(engine_module, "chunk_rows", lambda config, n_token: own)
    attempts, real = [], engine._attempt

    def attempt(document, seed, observer, chunk_size):
        attempts.append(chunk_size)
        return real(document, seed, observer, chunk_size)

    def forward(features):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(engine, "_attempt", attempt)
    monkeypatch.setattr(engine, "_forward", forward)
    with pytest.raises(engine_module.DeviceMemoryError, match="also with chunks of 32 rows"):
        engine.predict(protein(), 1)
    assert attempts == tried


@pytest.mark.parametrize(
    "message", ["mat1 and mat2 shapes cannot be multiplied", "CUDA error: invalid argument"]
)
def test_another_error_is_not_retried(engine, monkeypatch, message):
    def forward(features):
        raise RuntimeError(message)

    monkeypatch.setattr(engine, "_forward", forward)
    with pytest.raises(RuntimeError, match=message):
        engine.predict(protein(), 1)
