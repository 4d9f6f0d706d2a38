"""What is drawn of an entry: lines that lie over each other wherever the structures were, and maps."""

import base64

import numpy as np
import pytest
from assemblies import (
    component,
    copies,
    named,
    noised,
    protein,
    protein_with_dna,
    relabelled,
    turned,
)
from assemblies import traces as alphas_at
from biotite import structure as struc

from flashbias_fold.compare.drawings import maps, traces
from flashbias_fold.compare.measure import Structure
from flashbias_fold.errors import InputError

DOMAIN = "1igdA00"
N = 61  # its residues


def drawn_of(atoms, pae=None):
    pae = np.zeros((2, 2), dtype=np.float32) if pae is None else pae
    return Structure(drawn=0, rank=0, atoms=atoms, pae=pae, confidences={}, problems=[])


def lines(truth=None, **structures):
    """The lines of each structure, by chain, the first one being the baseline."""
    found = traces({key: drawn_of(atoms) for key, atoms in structures.items()}, next(iter(structures)), truth)
    return {
        one["of"]: {chain["id"]: [np.array(line) for line in chain["segments"]] for chain in one["chains"]}
        for one in found
    }


def whole(chains):
    """All points of a structure's lines."""
    return np.concatenate([line for segments in chains.values() for line in segments])


def distances(points):
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


# Lines


def test_the_baseline_is_drawn_as_it_is_about_its_middle():
    domain = protein(DOMAIN)
    alphas = domain.coord[domain.atom_name == "CA"]
    found = lines(stock=domain)
    assert list(found) == ["stock"] and list(found["stock"]) == ["A"]
    (line,) = found["stock"]["A"]
    assert line.shape == (N, 3)
    assert line == pytest.approx(alphas - alphas.mean(axis=0), abs=0.01)


def test_a_turned_copy_is_the_same_lines():
    domain = protein(DOMAIN)
    found = lines(stock=domain, dense=turned(domain), truth=turned(turned(domain)))
    assert list(found) == ["stock", "dense", "experiment"]
    for chains in found.values():
        assert whole(chains) == pytest.approx(whole(found["stock"]), abs=0.02)
        assert whole(chains).mean(axis=0) == pytest.approx([0, 0, 0], abs=0.01)


def test_a_mirror_image_is_not_laid_over_it():
    domain = protein(DOMAIN)
    mirrored = domain.copy()
    mirrored.coord[:, 2] *= -1
    found = lines(stock=domain, none=mirrored)
    assert np.linalg.norm(whole(found["none"]) - whole(found["stock"]), axis=1).max() > 5
    assert distances(whole(found["none"])) == pytest.approx(distances(whole(found["stock"])), abs=0.03)


def test_another_structure_keeps_its_own_shape_and_lies_as_near_as_it_can():
    domain = protein(DOMAIN)
    other = turned(noised(domain, 1.0))
    found = lines(stock=domain, none=other)
    alphas = other.coord[other.atom_name == "CA"]
    assert distances(whole(found["none"])) == pytest.approx(distances(alphas), abs=0.03)
    off = np.sqrt(((whole(found["none"]) - whole(found["stock"])) ** 2).sum(axis=1).mean())
    fitted, _ = struc.superimpose(domain.coord[domain.atom_name == "CA"], alphas)
    assert off == pytest.approx(struc.rmsd(domain.coord[domain.atom_name == "CA"], fitted), abs=0.01)


def test_methods_keep_their_order_whichever_is_the_baseline():
    domain = protein(DOMAIN)
    structures = {key: drawn_of(turned(domain)) for key in ("none", "stock", "dense")}
    found = traces(structures, "stock", domain)
    assert [one["of"] for one in found] == ["none", "stock", "dense", "experiment"]


def test_the_truth_lies_over_the_model_whatever_its_chains_are_called():
    model = copies(protein("1g6xA00"), 3)
    truth = turned(relabelled(model, [2, 0, 1]))
    found = lines(stock=model, truth=truth)
    ours, theirs = found["stock"], found["experiment"]
    assert set(theirs) == {"A", "B", "C"}, "its own names"
    # Chains A, B and C of the truth are the third, the first and the second.
    for chain, partner in zip("ABC", "CAB", strict=True):
        for line, other in zip(theirs[chain], ours[partner], strict=True):
            assert line == pytest.approx(other, abs=0.05)
    assert np.linalg.norm(theirs["A"][0][0] - ours["A"][0][0]) > 5


def test_what_the_truth_lacks_is_not_drawn_and_moves_nothing():
    domain = protein(DOMAIN)
    found = lines(stock=domain, truth=turned(domain[(domain.res_id < 20) | (domain.res_id > 30)]))
    residues = np.unique(domain.res_id)
    kept = (residues < 20) | (residues > 30)
    assert whole(found["experiment"]) == pytest.approx(whole(found["stock"])[kept], abs=0.02)
    assert len(found["experiment"]["A"]) == 2 and len(found["stock"]["A"]) == 1


def test_a_truth_of_another_protein_is_refused():
    with pytest.raises(InputError, match="expected a chain in common"):
        lines(stock=protein(DOMAIN), truth=protein("1g6xA00"))


def test_nucleic_acids_are_drawn_by_their_phosphates():
    atoms = protein_with_dna()
    found = lines(stock=atoms, truth=turned(atoms))
    for chains in found.values():
        assert list(chains) == ["A", "B", "C"]
        assert sum(map(len, chains["A"])) == 167
        for strand in "BC":
            mine = atoms[(atoms.chain_id == strand) & (atoms.atom_name == "P")]
            assert [len(line) for line in chains[strand]] == [len(mine)], "unbroken"
            assert 19 < len(mine) < 22
    for chain, segments in found["experiment"].items():
        for line, other in zip(segments, found["stock"][chain], strict=True):
            assert line == pytest.approx(other, abs=0.02)


def test_lines_break_where_neighbours_are_too_far_apart():
    steps = [3.8, 3.8, 4.4, 4.6, 3.8, 30.0, 3.8]
    places = np.zeros((8, 3))
    places[1:, 0] = np.cumsum(steps)
    found = lines(stock=alphas_at(places.tolist()))
    assert [len(line) for line in found["stock"]["A"]] == [4, 2, 2]


def test_lines_of_nucleotides_may_have_longer_steps():
    atoms = alphas_at([[x, 0, 0] for x in np.cumsum([0, 6.0, 7.0, 8.9, 9.1, 6.0])])
    atoms.res_name[:], atoms.atom_name[:], atoms.element[:] = "DA", "P", "P"
    assert [len(line) for line in lines(stock=atoms)["stock"]["A"]] == [4, 2]


def test_lines_break_between_amino_acids_and_nucleotides_of_one_chain():
    atoms = alphas_at([[4.0 * i, 0, 0] for i in range(8)])
    atoms.res_name[4:], atoms.atom_name[4:], atoms.element[4:] = "DA", "P", "P"
    assert [len(line) for line in lines(stock=atoms)["stock"]["A"]] == [4, 4]


def test_chains_near_each_other_are_lines_of_their_own():
    found = lines(stock=alphas_at(*([[3.8 * i, 3.0 * chain, 0] for i in range(4)] for chain in range(3))))
    assert {name: [len(line) for line in segments] for name, segments in found["stock"].items()} == {
        "A": [4], "B": [4], "C": [4],
    }  # fmt: skip


def test_ligands_and_ions_are_no_lines():
    domain = protein(DOMAIN)
    calcium = component("CA", "B", {"CA": (1.0, 2.0, 3.0)})
    phosphate = component("PO4", "C", {"P": (9.0, 2.0, 3.0), "O1": (9.0, 3.5, 3.0)})
    found = lines(stock=struc.concatenate([domain, calcium, phosphate]))
    assert list(found["stock"]) == ["A"] and len(whole(found["stock"])) == N


def test_too_few_atoms_are_not_drawn():
    domain = protein(DOMAIN)
    first = np.unique(domain.res_id)[:3]
    assert lines(stock=domain[np.isin(domain.res_id, first[:2])]) == {}
    assert lines(stock=component("HEM", "A", {"FE": (0.0, 0.0, 0.0)})) == {}
    three = lines(stock=domain[np.isin(domain.res_id, first)])
    assert len(whole(three["stock"])) == 3


def test_what_is_drawn_is_left_as_it_was():
    domain, other = protein(DOMAIN), turned(protein(DOMAIN))
    before = domain.coord.copy(), other.coord.copy()
    lines(stock=domain, dense=other, truth=named(other, "Z"))
    assert (domain.coord == before[0]).all() and (other.coord == before[1]).all()


# Maps


def test_every_structure_has_a_map_of_its_errors():
    domain = protein(DOMAIN)
    rng = np.random.default_rng(0)
    errors = {key: rng.uniform(0, 30, size=(7, 7)).astype(np.float32) for key in ("stock", "none")}
    found = maps({key: drawn_of(domain, pae) for key, pae in errors.items()})
    assert [one["of"] for one in found] == ["stock", "none"]
    for one in found:
        values = np.frombuffer(base64.b64decode(one["values"]), dtype=np.uint8)
        assert one["size"] == 7 and len(values) == 49
        shown = values.reshape(7, 7) * one["most"] / 255
        assert shown == pytest.approx(errors[one["of"]], abs=one["most"] / 255)
    assert found[0]["values"] != found[1]["values"]
    assert maps({}) == []
