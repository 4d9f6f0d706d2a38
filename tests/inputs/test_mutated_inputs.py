"""Whatever is done to an input, it is read, rejected or refused, each with one line; nothing else escapes."""

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from input_jobs import bond, chain, dna, ion, job, ligand, modified, rna, write_files

from flashbias_fold.errors import InputError
from flashbias_fold.inputs import InputSet, load_inputs

NEAR = {"entity1": 1, "copy1": 1, "position1": 3, "entity2": 2, "copy2": 1, "position2": 1, "max_distance": 6}
JOBS = [
    job(
        chain(
            count=2, id=["A", "B"], pairedMsaPath="old/pairing.a3m", unpairedMsaPath="good.a3m", **modified(4)
        ),
        chain(msa={"precomputed_msa_dir": "old"}, templatesPath="hits.hhr"),
        ligand("CCD_NAG_NAG"),
        ion("MG", 2),
        name="first",
        modelSeeds=[1, 2],
        covalent_bonds=[
            bond((2, 7, "ND2"), (3, 1, "C1")),
            bond((3, 1, "O4"), (3, 2, "C1"), copy1=1, copy2=1),
        ],
    ),
    job(
        chain(unpairedMsa=">q\nMKTAYCNW\n"),
        ligand("CC[C:3](=O)O"),
        rna(unpairedMsaPath="rna.a3m"),
        dna(modifications=[{"modificationType": "CCD_6OG", "basePosition": 1}]),
        ligand("FILE_solid.sdf"),
        name="second",
        covalent_bonds=[bond((1, 6, "SG"), (2, 1, 3))],
        constraint={
            "contact": [{**NEAR, "atom1": "CA", "atom2": 3}],
            "pocket": {
                "binder_chain": {"entity": 2, "copy": 1},
                "contact_residues": [{"entity": 1, "copy": 1, "position": 2}],
                "max_distance": 6,
            },
        },
    ),
]
FASTA = b">one a protein\nMKTAYC:GSHM:dna|ACGT\n>two\nrna|ACGU\n"

VALUES = st.one_of(
    st.sampled_from(
        [
            "",
            "CCD_",
            "CCD_NAG",
            "FILE_",
            "FILE_.",
            "FILE_good.a3m",
            "good.a3m",
            ".",
            "/",
            "../x",
            "1",
            "-1",
            "MKT",
        ]
    ),
    st.sampled_from([0, 1, 2, -1, 10**30, 1.5, -0.0, True, False, None, [], {}, [[]], {"": {}}]),
    st.text(max_size=6),
    st.text(alphabet="CNOcn()[]=#123+-@H*.:%\\/", max_size=12),
    st.integers(),
    st.floats(),
    st.sampled_from([chain(), ligand(), ion(), bond((1, 1, "N"), (2, 1, "C1"))]),
)
ACTIONS = st.sampled_from(["replace", "replace", "delete", "duplicate", "insert", "rename"])


class KnownComponents:
    """Few components, so that no mutation finds one that must first be made."""

    codes = frozenset(["NAG", "MG", "SEP", "6OG", "ATP", "ACE", "MSE", "A", "G", "DA", "DG"])

    def __init__(self, components):
        self.kind = components.kind
        self.heavy_atoms = components.heavy_atoms
        self.leaving_atoms = components.leaving_atoms
        self.leaving_groups = components.leaving_groups
        self.can_be_built = components.can_be_built

    def __contains__(self, code):
        return code in self.codes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutated")
    write_files(folder)
    return folder


@pytest.fixture(scope="module")
def catalog(components):
    return KnownComponents(components)


def places_in(value, path=()):
    """All (container, key) pairs of a JSON value."""
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, member in members:
        yield value, key
        yield from places_in(member, (*path, key))


def mutate(document, draw):
    container, key = draw(st.sampled_from(list(places_in(document))))
    action = draw(ACTIONS)
    if action == "replace":
        container[key] = copy.deepcopy(draw(VALUES))
    elif action == "delete":
        del container[key]
    elif isinstance(container, list):
        extra = container[key] if action == "duplicate" else draw(VALUES)
        container.insert(key, copy.deepcopy(extra))
    elif action == "rename":
        container[draw(st.text(max_size=5))] = container.pop(key)
    else:
        container[draw(st.sampled_from(["id", "count", "ion", "msa", "x"]))] = copy.deepcopy(draw(VALUES))


def check(path, catalog):
    try:
        loaded = load_inputs(path, catalog)
    except InputError as error:
        errors = [error]
    else:
        assert isinstance(loaded, InputSet)
        errors = [rejected.error for rejected in loaded.rejected]
        for good in loaded.jobs:
            assert good.n_token > 0 and good.n_atom >= good.n_token and good.n_chain > 0
            assert json.loads(json.dumps(good.document, allow_nan=False)) == good.document
            assert not any("\n" in warning for warning in good.warnings)
    for error in errors:
        assert isinstance(error, InputError)
        assert len(str(error).splitlines()) == 1
        assert str(path) in str(error)


def test_the_jobs_are_good_before_they_are_mutated(folder, catalog):
    path = folder / "good.json"
    path.write_text(json.dumps(JOBS))
    loaded = load_inputs(path, catalog)
    assert not loaded.rejected
    assert len(loaded.jobs) == 2


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_mutated_jobs(folder, catalog, data):
    documents = copy.deepcopy(JOBS)
    for _ in range(data.draw(st.integers(1, 4))):
        if list(places_in(documents)):
            mutate(documents, data.draw)
    path = folder / "mutated.json"
    path.write_text(json.dumps(documents))
    check(path, catalog)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_mutated_bytes(folder, catalog, data):
    suffix, content = data.draw(st.sampled_from([(".json", json.dumps(JOBS).encode()), (".fasta", FASTA)]))
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        stop = start + data.draw(st.integers(0, 5))
        content[start:stop] = data.draw(st.binary(max_size=5))
    path = folder / f"bytes{suffix}"
    path.write_bytes(content)
    check(path, catalog)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=40))
def test_mutated_alignments(folder, catalog, content):
    (folder / "random.a3m").write_bytes(content)
    path = folder / "aligned.json"
    path.write_text(json.dumps([job(chain(unpairedMsaPath="random.a3m"))]))
    check(path, catalog)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["mol", "mol2", "pdb", "sdf"]), st.data())
def test_mutated_ligand_files(folder, catalog, suffix, data):
    content = bytearray((folder / "solid.sdf").read_bytes())
    start = data.draw(st.integers(0, len(content)))
    content[start : start + data.draw(st.integers(0, 60))] = data.draw(st.binary(max_size=60))
    (folder / f"random.{suffix}").write_bytes(content)
    path = folder / "ligands.json"
    path.write_text(json.dumps([job(ligand(f"FILE_random.{suffix}"))]))
    check(path, catalog)
