"""What a run says beforehand of a job that may not fit what is free."""

import pytest
from command_line import write_jobs
from conftest import protein

from flashbias_fold.inputs import load_inputs
from flashbias_fold.predict import prepare
from flashbias_fold.predict.settings import Settings
from flashbias_fold.protenix_adapter import environment, memory
from flashbias_fold.protenix_adapter.models import demo_model

GIB = 2**30


@pytest.fixture
def checked(tmp_path, components, monkeypatch):
    """The jobs of an input, checked on a machine where so much memory is free."""
    environment.prepare()

    def check(free, available=None, **options):
        jobs = (protein("small", "ACDEFGHIKL" * 2), protein("long", "ACDEFGHIKL" * 90))
        file = write_jobs(tmp_path / "jobs.json", *jobs)
        monkeypatch.setattr(memory, "free_bytes", lambda device: free)
        monkeypatch.setattr(memory, "available_bytes", lambda device: available or 1000 * GIB)
        model = demo_model()
        settings, device = prepare.decided(
            Settings(input=file, out=tmp_path / "out", model="demo", device="cpu", **options), model
        )
        found = prepare.that_fit(load_inputs(file, components), settings, model, device)
        warned = {job.name: [text for text in job.warnings if "GiB" in text] for job in found.jobs}
        return warned, [str(rejected.error) for rejected in found.rejected]

    return check


def test_a_job_that_fits_is_not_warned_of(checked):
    assert checked(100 * GIB) == ({"small": [], "long": []}, [])


def test_a_job_that_may_not_fit_is_warned_of_and_told_what_would(checked):
    warned, rejected = checked(2 * GIB)
    assert not rejected and warned["small"] == []
    (line,) = warned["long"]
    assert "900 tokens need about" in line and "2.0 GiB are free" in line
    fits = int(line.split("up to about ")[1].split()[0].replace(",", ""))
    assert 100 < fits < 900
    # What is said to fit is not warned of.
    need = prepare.need_of(*_decided())
    assert need.bytes_of(fits) <= 2 * GIB < need.bytes_of(fits + 16)


def test_more_samples_are_counted(checked):
    assert checked(6 * GIB, samples=1)[0]["long"] == []
    assert checked(6 * GIB, samples=20)[0]["long"] != []


def test_a_job_that_cannot_fit_is_refused(checked):
    warned, rejected = checked(2 * GIB, available=3 * GIB)
    assert list(warned) == ["small"]
    assert len(rejected) == 1 and "'long'" in rejected[0] and "there are 3.0 GiB" in rejected[0]


def _decided():
    model = demo_model()
    settings, device = prepare.decided(
        Settings(input="jobs.json", out="out", model="demo", device="cpu"), model
    )
    return settings, model, device, "torch"
