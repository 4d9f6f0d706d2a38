"""Whatever is given to the command line, it answers with one of its statuses and in its own words.

The mock: `flashbias_fold.predict.run._Run.go`, what happens once everything is checked, calls every job done.
All before it, and what is printed after it, is real.
"""

import copy
import json

import pytest
from command_line import DEMO_BANNER, call
from conftest import SEQUENCE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashbias_fold.predict.run import _Run

JOBS = [
    {
        "name": "first",
        "modelSeeds": [1, 2],
        "sequences": [
            {"proteinChain": {"sequence": SEQUENCE[:8], "count": 2, "id": ["A", "B"]}},
            {"dnaSequence": {"sequence": "ACGT", "count": 1}},
            {"ligand": {"ligand": "CCD_GOL", "count": 1}},
        ],
    },
    {
        "name": "second",
        "sequences": [
            {"rnaSequence": {"sequence": "ACGU", "count": 1}},
            {"ligand": {"ligand": "CCO", "count": 1}},
            {"ion": {"ion": "MG", "count": 1}},
        ],
    },
]
FASTA = b">one a protein\nMKTAYC:GSHM:dna|ACGT\n>two\nrna|ACGU\n"

# What an argument can be: no zero byte, any other byte, the ones that are no text as Python shows them.
WORDS = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0/")
    | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF),
    max_size=8,
)
VALUES = st.one_of(
    st.sampled_from(["", "-", "--", "-1", "0", "1", "00", "101,102", "1,1", "1e3", "9" * 40, "o" * 300]),
    st.sampled_from(["auto", "cpu", "cuda", "demo", "protenix-v2", "stock", "none", "pdb", "bf16"]),
    st.sampled_from(["colabfold", "file", ".", ".."]),
    st.integers().map(str),
    WORDS,
)
OPTIONS = st.one_of(
    st.sampled_from(
        ["--model", "--bias", "--seeds", "--samples", "--steps", "--cycles", "--device", "--out"]
    ),
    st.sampled_from(["--dtype", "--msa-server", "--format", "--overwrite", "--write-pae", "--quiet"]),
    st.sampled_from(["--rna-msa", "--trust-checkpoint", "--json", "--version", "-h", "--help", "--seed"]),
)
ARGUMENTS = st.one_of(
    VALUES.map(lambda value: [value]),
    OPTIONS.map(lambda option: [option]),
    st.tuples(OPTIONS, VALUES).map(list),
    st.tuples(OPTIONS, VALUES).map(lambda pair: ["=".join(pair)]),
)
MEMBERS = st.one_of(
    st.sampled_from(
        ["", "CCD_", "CCD_GOL", "FILE_", "FILE_good.json", ".", "MKT", "A", "-1", "C1CC", "../x"]
    ),
    st.sampled_from([0, 1, -1, 10**30, 1.5, True, None, [], {}, [[]], {"": {}}]),
    st.text(max_size=6),
    st.integers(),
    st.floats(),
)
SETTINGS = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("anything")
    (folder / "good.json").write_text(json.dumps(JOBS))
    (folder / "good.fasta").write_bytes(FASTA)
    (folder / "file").write_text("a file\n")
    return folder


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch, folder):
    def go(self):
        self.result.jobs.update({job.name: "done" for job in self.inputs.jobs})
        return self.result

    monkeypatch.setattr(_Run, "go", go)
    monkeypatch.chdir(folder)


def check(*arguments):
    done = call(*arguments)
    lines = done.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert done.returncode in (0, 1, 2)
    assert bool(errors) == bool(done.returncode)
    said = ("reading ", DEMO_BANNER, "warning: --steps ", "warning: --cycles ")
    assert not [line for line in lines if line not in errors and not line.startswith(said)]
    assert not [line for line in errors if "unexpected" in line or "Traceback" in line]
    return done


def places_in(value):
    """All (container, key) pairs of a JSON value."""
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, member in members:
        yield value, key
        yield from places_in(member)


def mutate(document, draw):
    container, key = draw(st.sampled_from(list(places_in(document))))
    action = draw(st.sampled_from(["replace", "replace", "delete", "insert"]))
    if action == "replace":
        container[key] = draw(MEMBERS)
    elif action == "delete":
        del container[key]
    elif isinstance(container, list):
        container.insert(key, copy.deepcopy(draw(st.sampled_from([container[key], 0, {}]))))
    else:
        container[draw(st.sampled_from(["id", "count", "modifications", "x"]))] = draw(MEMBERS)


@pytest.mark.parametrize("name", ["good.json", "good.fasta"])
def test_the_inputs_are_good_before_they_are_changed(name):
    done = check("predict", name, "--out", "out", "--model", "demo")
    assert (done.returncode, done.stdout.splitlines()[-1][:7]) == (0, "2 done;")


@settings(SETTINGS, max_examples=70)
@given(st.data())
def test_changed_jobs(folder, data):
    documents = copy.deepcopy(JOBS)
    for _ in range(data.draw(st.integers(1, 3))):
        if list(places_in(documents)):
            mutate(documents, data.draw)
    (folder / "changed.json").write_text(json.dumps(documents))
    check("predict", "changed.json", "--out", "out", "--model", "demo")


@settings(SETTINGS, max_examples=50)
@given(st.data())
def test_changed_bytes(folder, data):
    suffix, content = data.draw(st.sampled_from([(".json", json.dumps(JOBS).encode()), (".fasta", FASTA)]))
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=5))
    (folder / f"bytes{suffix}").write_bytes(content)
    check("predict", f"bytes{suffix}", "--out", "out", "--model", "demo")


@settings(SETTINGS, max_examples=120)
@given(st.lists(ARGUMENTS, max_size=4), st.integers(0, 12))
def test_any_options(extra, position):
    """A good command line with anything put in somewhere."""
    arguments = ["predict", "good.json", "--out", "out", "--model", "demo"]
    position = min(position, len(arguments))
    check(*arguments[:position], *(word for words in extra for word in words), *arguments[position:])


@settings(SETTINGS, max_examples=60)
@given(st.sampled_from(["predict", "doctor", "fetch", None]), st.lists(ARGUMENTS, max_size=5))
def test_any_arguments(command, extra):
    # Nothing is fetched here, nor said to be shipped.
    arguments = [word for words in extra for word in words if word not in ("protenix-v2", "demo")]
    if command == "doctor":  # alone it would test this machine, which others do
        arguments.append("--nonsense")
    check(*([command] if command else []), *arguments)
