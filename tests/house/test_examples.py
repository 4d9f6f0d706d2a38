"""The inputs that come along: small proteins that the demonstration model knows, and one that it does not."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from flashbias_fold.accuracy import read_structure
from flashbias_fold.inputs import Job, load_inputs

DATA = Path(__file__).parents[2] / "data"
FOREIGN = "1a1t"


@pytest.fixture(scope="module")
def jobs(components: object) -> dict[str, Job]:
    """The jobs by name, in the order in which they are predicted."""
    inputs = load_inputs(DATA / "examples", components)
    assert not inputs.rejected
    return {job.name: job for job in inputs.jobs}


@pytest.fixture(scope="module")
def trained() -> dict[str, str]:
    """The sequences that the demonstration model was trained on, by name."""
    with (DATA / "demo" / "entries.csv").open(newline="") as file:
        return {row["name"]: row["sequence"] for row in csv.DictReader(file)}


def protein_of(job: Job) -> str:
    return str(job.document["sequences"][0]["proteinChain"]["sequence"])


def test_the_first_is_a_small_protein_that_the_model_knows(
    jobs: dict[str, Job], trained: dict[str, str]
) -> None:
    first = next(iter(jobs.values()))
    assert first.name in trained
    assert 46 <= first.n_token <= 64


def test_all_but_one_were_trained_under_these_names(jobs: dict[str, Job], trained: dict[str, str]) -> None:
    known = {name: protein_of(job) for name, job in jobs.items() if name != FOREIGN}
    assert len(known) == len(jobs) - 1
    assert known == {name: trained[name] for name in known}
    assert protein_of(jobs[FOREIGN]) not in trained.values()


def test_each_has_an_experimental_structure_to_be_compared_with(jobs: dict[str, Job]) -> None:
    for name, job in jobs.items():
        # Of the complex it is the protein alone, under CATH's name of it.
        file = f"{name}A00" if name == FOREIGN else name
        truth = read_structure(DATA / "truth" / f"{file}.pdb.gz")
        assert (truth.atom_name == "CA").sum() == len(protein_of(job))
