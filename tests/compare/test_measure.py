"""What an entry's predictions come to, by hand."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from assemblies import component, named, noised, protein, protein_with_dna, traces, turned
from biotite import structure as struc
from hypothesis import given
from hypothesis import strategies as st

from flashbias_fold.compare.measure import (
    CONFIDENCES,
    STAGES,
    Runs,
    Structure,
    chains_amiss,
    change,
    closeness,
    layers_of,
    structure_of,
)
from flashbias_fold.compare.structures import compared
from flashbias_fold.errors import InputError
from flashbias_fold.protenix_adapter.engine import Prediction
from flashbias_fold.protenix_adapter.features import Features
from flashbias_fold.protenix_adapter.origin import Origin

TIMED = STAGES[:-1]


def two_chains():
    return traces([(4.0 * i, 0, 0) for i in range(4)], [(0, 4.0 * i, 9) for i in range(4)])


def a_prediction(rankings=(0.5,), atoms=None, seconds=(1.0, 2.0, 3.0, 4.0), memory=1000):
    """As the engine gives it: of each structure another place, another PAE, other confidences."""
    atoms = two_chains() if atoms is None else atoms
    n = len(atoms)
    output = {
        "coordinate": torch.arange(len(rankings)).float()[:, None, None].expand(-1, n, 3),
        "summary_confidence": [
            {
                "ptm": torch.tensor(0.25 + number),
                "iptm": torch.tensor(0.5 + number),
                "plddt": torch.tensor(75.0 + number),
                "ranking_score": torch.tensor(float(ranking)),
                "has_clash": torch.tensor(0.0),
            }
            for number, ranking in enumerate(rankings)
        ],
        "full_data": [
            {"token_pair_pae": torch.full((n, n), 10.0 + number, dtype=torch.bfloat16)}
            for number in range(len(rankings))
        ],
    }
    stages = dict(zip(TIMED, seconds, strict=True))
    peaks = dict.fromkeys(stages, memory)
    origin = Origin("demo", True, "stock", None, "fp32", steps=1, cycles=1, seed=1)
    atoms = atoms.copy()
    atoms.set_annotation("ref_pos", np.zeros((n, 3), dtype=np.float32))
    atoms.set_annotation("ref_mask", np.zeros(n, dtype=int))
    features = Features({"N_asym": torch.tensor([len(set(atoms.chain_id))])}, atoms)
    return Prediction(features, output, stages, peaks, memory, memory, origin)


# Runs


def test_seconds_are_medians_of_those_that_count():
    runs = Runs(write_s=0.5)
    for seconds, memory in (((1, 20, 3, 4), 100), ((2, 10, 5, 4), 300), ((9, 30, 4, 5), 200)):
        runs.add(a_prediction(seconds=tuple(map(float, seconds)), memory=memory))
    assert runs.as_dict() == {
        "stages_s": {"featurize": 2.0, "trunk": 20.0, "diffusion": 4.0, "confidence": 4.0, "write": 0.5},
        "wall_s": 28.5,  # of whole predictions: 28.5, 21.5 and 48.5
        "runs_s": [28.5, 21.5, 48.5],
        "peak_memory_bytes": 200,
    }


def test_of_an_even_number_the_median_is_between_the_two_in_the_middle():
    runs = Runs()
    for trunk, memory in ((1.0, 1), (2.0, 2), (10.0, 5), (4.0, 4)):
        runs.add(a_prediction(seconds=(0.0, trunk, 0.0, 0.0), memory=memory))
    found = runs.as_dict()
    assert found["stages_s"]["trunk"] == found["wall_s"] == 3.0
    assert found["peak_memory_bytes"] == 3 and isinstance(found["peak_memory_bytes"], int)


@given(st.lists(st.tuples(*[st.floats(0, 1e4)] * 4), min_size=1, max_size=6), st.floats(0, 10))
def test_a_median_is_among_the_runs_and_writing_is_part_of_all(seconds, written):
    runs = Runs(write_s=written)
    for one in seconds:
        runs.add(a_prediction(seconds=one))
    found = runs.as_dict()
    assert list(found["stages_s"]) == list(STAGES)
    assert found["runs_s"] == [pytest.approx(sum(one) + written) for one in seconds]
    assert min(found["runs_s"]) <= found["wall_s"] <= max(found["runs_s"])
    for index, stage in enumerate(TIMED):
        times = [one[index] for one in seconds]
        assert min(times) <= found["stages_s"][stage] <= max(times)


# A structure of a prediction


@pytest.mark.parametrize(
    ("rankings", "best", "ranks"),
    [((0.5,), 0, [0]), ((0.2, 0.9, 0.5), 1, [2, 0, 1]), ((0.9, -3.0, 0.1, 0.8), 0, [0, 3, 2, 1])],
)
def test_the_structure_is_that_of_the_noise_asked_for_or_the_best(rankings, best, ranks):
    prediction = a_prediction(rankings)
    assert structure_of(prediction).drawn == best
    assert structure_of(prediction).rank == 0
    for drawn, rank in enumerate(ranks):
        found = structure_of(prediction, drawn)
        assert (found.drawn, found.rank) == (drawn, rank)
        assert (found.atoms.coord == drawn).all()
        assert found.pae.shape == (8, 8) and (found.pae == 10 + drawn).all()
        assert found.confidences == {
            "ptm": 0.25 + drawn, "iptm": 0.5 + drawn, "plddt": 75.0 + drawn,
            "ranking_score": pytest.approx(rankings[drawn]),
        }  # fmt: skip


def test_a_structure_is_plain_numbers_and_its_own():
    prediction = a_prediction((0.5, 0.6))
    before = prediction.features.atom_array.coord.copy()
    one, other = structure_of(prediction, 0), structure_of(prediction, 1)
    assert (prediction.features.atom_array.coord == before).all()
    assert (one.atoms.coord != other.atoms.coord).all()
    assert {type(value) for value in one.confidences.values()} == {float}
    assert one.pae.dtype == one.atoms.coord.dtype == np.float32


def test_a_single_chain_has_no_interface():
    atoms = traces([(4.0 * i, 0, 0) for i in range(4)])
    assert structure_of(a_prediction(atoms=atoms)).confidences["iptm"] is None
    assert structure_of(a_prediction()).confidences["iptm"] is not None


def test_a_structure_says_why_no_molecule_can_have_it():
    near = a_prediction()  # all its atoms in one place
    assert "clash" in structure_of(near).problems[0]
    apart = a_prediction()
    apart.output["coordinate"] = torch.tensor(two_chains().coord)[None]
    assert structure_of(apart).problems == []


# Changes


def a_structure(ptm=0.5, iptm=0.4, plddt=70.0, ranking=0.3, pae=0.0):
    values = dict(zip(CONFIDENCES, (ptm, iptm, plddt, ranking), strict=True))
    errors = np.full((3, 3), pae, dtype=np.float32)
    return Structure(0, 0, struc.AtomArray(0), errors, values, [])


def test_a_change_is_what_is_more_than_the_baselines():
    better, worse = a_structure(0.75, 0.5, 80.0, 0.9), a_structure(0.5, 0.25, 90.0, 0.1)
    assert change(better, worse) == {
        "ptm": 0.25, "iptm": 0.25, "plddt": -10.0, "ranking_score": pytest.approx(0.8), "pae": 0.0,
    }  # fmt: skip
    back = change(worse, better)
    assert all(back[name] == -value for name, value in change(better, worse).items())


def test_a_change_of_pae_is_without_sign():
    ours, theirs = a_structure(), a_structure()
    ours.pae[0, 1], ours.pae[2, 0] = 4.5, -4.5  # as much more in one place as less in another
    assert change(ours, theirs)["pae"] == change(theirs, ours)["pae"] == pytest.approx(1.0)


def test_what_one_of_two_has_not_has_not_changed():
    none, some = a_structure(iptm=None), a_structure(iptm=0.4)
    for pair in ((none, some), (some, none), (none, none)):
        found = change(*pair)
        assert found["iptm"] is None and found["ptm"] == 0.0


# Closeness


def test_closeness_is_what_the_comparison_found():
    whole = protein_with_dna()
    structure = dataclasses.replace(a_structure(), atoms=turned(noised(whole, 0.5)))
    numbers, found = closeness(structure, whole)
    assert found == compared(structure.atoms, whole)
    assert numbers == {
        "lddt_ca": found.lddt, "lddt_all": found.lddt_all, "tm_score": found.tm_score, "rmsd": found.rmsd,
        "interface": {"kind": "interface_lddt", "value": found.interface_lddt},
    }  # fmt: skip
    assert 0.3 < numbers["interface"]["value"] < 1


def test_a_single_chain_has_no_interface_to_be_close_in():
    domain = protein("1igdA00")
    assert closeness(dataclasses.replace(a_structure(), atoms=domain), domain)[0]["interface"] is None


def test_a_score_of_residues_that_are_nowhere_near_each_other_is_none():
    apart = traces([(40.0 * i, 3.0 * i * i, 0) for i in range(6)])
    structure = dataclasses.replace(a_structure(), atoms=apart)
    assert not np.isfinite(compared(apart, apart).lddt)
    numbers, _ = closeness(structure, apart)
    assert (numbers["lddt_ca"], numbers["lddt_all"], numbers["interface"]) == (None, None, None)
    assert numbers["rmsd"] == pytest.approx(0, abs=1e-3)
    json.dumps(numbers, allow_nan=False)


def test_structures_without_a_chain_in_common_are_refused():
    structure = dataclasses.replace(a_structure(), atoms=protein("1igdA00"))
    with pytest.raises(InputError, match="chain in common"):
        closeness(structure, protein("1g6xA00"))


# Layers


def test_layers_are_told_by_the_same_names_whatever_they_say():
    said = {
        "name": "b.0", "way": "lowrank", "rank": 8, "reach": 16, "certified_error": 0.1, "fallbacks": 2,
        "seconds": 3.0,
    }  # fmt: skip
    full, short = layers_of([said, {"name": "b.1", "way": "stock"}])
    assert full == {key: value for key, value in said.items() if key != "seconds"}
    assert list(short) == list(full)
    assert short == {**dict.fromkeys(full), "name": "b.1", "way": "stock"}
    assert layers_of([]) == []


# What is amiss


def amiss(model, reference, most=0.1):
    return list(chains_amiss(compared(model, reference), most))


def without(structure, chain):
    return structure[structure.chain_id != chain]


def mutated(structure, count):
    """Every other residue from the tenth on, so many of them."""
    copy = structure.copy()
    for residue in np.unique(copy.res_id)[10 : 10 + 2 * count : 2]:
        copy.res_name[copy.res_id == residue] = "TRP"
    return copy


def test_nothing_is_amiss_with_the_same():
    whole = protein_with_dna()
    assert amiss(whole, turned(whole)) == []


def test_chains_without_a_partner_are_said():
    whole = protein_with_dna()
    assert amiss(whole, without(whole, "B")) == [
        "the prediction has DNA B (21 residues) that the experimental structure has not"
    ]
    assert amiss(without(whole, "A"), whole) == [
        "the experimental structure has protein A (167 residues) that the prediction has not"
    ]
    other = struc.concatenate([without(whole, "C"), named(protein("1g6xA00"), "X")])
    assert [line.split(" that ")[0] for line in amiss(other, without(whole, "B"))] == [
        "the experimental structure has DNA C (21 residues)",
        "the prediction has DNA B (21 residues)",
        "the prediction has protein X (58 residues)",
    ]


def test_ligands_that_one_lacks_are_nothing_amiss():
    whole = protein_with_dna()
    ion = component("MG", "M", {"MG": (1.0, 2.0, 3.0)})
    more = struc.concatenate([whole, ion])
    assert compared(whole, more).only_in_reference and compared(more, whole).only_in_model
    assert amiss(whole, more) == amiss(more, whole) == []


def test_a_few_residues_of_another_kind_are_a_construct_and_many_another_protein():
    domain = protein("1igdA00")  # of 61 residues
    found = compared(domain, mutated(domain, 8))
    assert len(found.exchanged) == 8
    assert list(chains_amiss(found, 0.14)) == []
    (line,) = chains_amiss(found, 0.13)
    assert line == (
        "8 of 61 residues of the experimental structure are of another kind than predicted, such as "
        f"{found.exchanged[0]}"
    )
    assert list(chains_amiss(compared(domain, domain), 0.0)) == []


def test_a_plausible_structure_comes_before_those_that_are_not():
    atoms = two_chains()
    prediction = a_prediction((0.9, 0.3, 0.5), atoms=atoms)
    assert structure_of(prediction).drawn == 0, "none is: all atoms are in one place"
    prediction.output["coordinate"] = torch.zeros(3, len(atoms), 3)
    prediction.output["coordinate"][1] = torch.from_numpy(atoms.coord)
    best = structure_of(prediction)
    assert (best.drawn, best.rank, best.problems) == (1, 2, [])
