"""Runs of thousands of jobs: what is the same for all of them is asked once, and the record costs little."""

import pytest
import torch
from command_line import write_jobs
from conftest import SEQUENCE, protein

from flashbias_fold.inputs import load_inputs
from flashbias_fold.predict import prepare, run
from flashbias_fold.predict.settings import Settings
from flashbias_fold.protenix_adapter import memory
from flashbias_fold.protenix_adapter.memory_model import Need
from flashbias_fold.protenix_adapter.models import demo_model

CPU = torch.device("cpu")


def test_memory_is_asked_once_and_each_size_reckoned_once(monkeypatch, tmp_path, components):
    asked, reckoned = [], []
    stages, available = Need.stages, memory.available_bytes
    monkeypatch.setattr(Need, "stages", lambda need, n: reckoned.append(n) or stages(need, n))
    monkeypatch.setattr(memory, "available_bytes", lambda *a, **k: asked.append(a) or available(*a, **k))
    jobs = [protein(f"job{number}", SEQUENCE[: 8 + number % 2]) for number in range(40)]
    file = write_jobs(tmp_path / "jobs.json", *jobs)
    model = demo_model()
    settings, device = prepare.decided(
        Settings(input=file, out=tmp_path / "out", device="cpu", samples=1), model
    )
    fitting = prepare.that_fit(load_inputs(file, components), settings, model, device)
    assert len(fitting.jobs) == 40
    assert sorted(reckoned) == [8, 9]
    assert len(asked) <= 2, "of all of the machine, and of what is free"


@pytest.mark.parametrize(("seconds", "share"), [(0.01, 1.0), (0.5, 0.05)])
def test_the_summary_takes_a_small_part_of_the_time_however_long_it_is(monkeypatch, seconds, share):
    """The mock: a clock, jobs of a second, and a record that takes so long to write."""
    now, written = [0.0], []

    def write_run(self, status):
        now[0] += seconds
        written.append(now[0])

    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(run._Run, "write_run", write_run)
    state = object.__new__(run._Run)
    state.next_write = 0.0
    for _ in range(400):
        now[0] += 1.0
        state.write_now_and_then()
    assert len(written) == (400 if share == 1.0 else pytest.approx(400 * 0.02 / seconds, rel=0.1))
    assert written[-1] > 350
