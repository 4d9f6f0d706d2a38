"""Assemblies have the scores that they must have, whatever their files call their chains."""

import dataclasses
from itertools import pairwise, permutations

import numpy as np
import pytest
from assemblies import (
    TRUTH,
    component,
    copies,
    named,
    noised,
    protein,
    protein_with_dna,
    relabelled,
    traces,
    turned,
)
from biotite import structure as struc
from lengths import at_length

from flashbias_fold.accuracy import accuracy
from flashbias_fold.compare import matching
from flashbias_fold.compare.structures import compared
from flashbias_fold.errors import InputError

SCORES = ("lddt", "lddt_all", "tm_score", "rmsd", "interface_lddt")
EVERY_FOURTH = [path.name.removesuffix(".pdb.gz") for path in sorted(TRUTH.glob("*A00.pdb.gz"))][::4]


def scores(found):
    return [getattr(found, name) for name in SCORES]


def assert_perfect(found, n_residues):
    assert scores(found)[:4] == pytest.approx([1, 1, 1, 0], abs=1e-4)
    assert found.interface_lddt in (None, pytest.approx(1, abs=1e-4))
    assert found.n_residues == n_residues


def stand_ins(structure):
    return structure[np.isin(structure.atom_name, ("CA", "C1'"))]


# The whole


def test_a_complex_is_perfectly_like_itself_and_like_a_moved_copy():
    whole = protein_with_dna()
    for model in (whole, turned(whole)):
        found = compared(model, whole)
        assert_perfect(found, 209)
        assert found.interface_lddt == pytest.approx(1, abs=1e-4)
        assert found.chains == (("A", "A"), ("B", "B"), ("C", "C"))
        assert found.summary == "compared 209 residues of 3 chains and 0 ligands"


def test_noise_lowers_every_score_wherever_the_model_lies():
    whole = protein_with_dna()
    found = [compared(noised(whole, sigma), whole) for sigma in (0.3, 1, 3)]
    for name in ("lddt", "lddt_all", "tm_score", "interface_lddt"):
        values = [1, *(getattr(one, name) for one in found)]
        assert all(before > after + 0.001 for before, after in pairwise(values)), name
    for sigma, one in zip((0.3, 1, 3), found, strict=True):
        assert one.rmsd == pytest.approx(sigma * 3**0.5, rel=0.07)
    assert scores(compared(turned(noised(whole, 1)), whole)) == pytest.approx(scores(found[1]), abs=1e-3)


def test_scores_of_a_complex_are_biotites():
    whole = protein_with_dna()
    model = noised(whole, 1.0)
    found = compared(model, whole)
    assert found.lddt == pytest.approx(struc.lddt(stand_ins(whole), stand_ins(model)), abs=1e-6)
    assert found.lddt_all == pytest.approx(struc.lddt(whole, model), abs=1e-6)
    between = struc.lddt(whole, model, exclude_same_chain=True)
    assert found.interface_lddt == pytest.approx(between, abs=1e-6)
    fitted, _ = struc.superimpose(stand_ins(whole), stand_ins(model))
    assert found.rmsd == pytest.approx(struc.rmsd(stand_ins(whole), fitted), abs=1e-5)


@pytest.mark.parametrize("name", EVERY_FOURTH)
@pytest.mark.parametrize("sigma", [0.4, 2.0])
def test_a_single_chain_has_the_scores_of_biotite_and_of_accuracy(name, sigma):
    truth = protein(name)
    model = turned(noised(truth, sigma))
    found, expected = compared(named(model, "X"), truth), accuracy(model, truth)
    for score in dataclasses.asdict(expected):
        assert getattr(found, score) == pytest.approx(getattr(expected, score), abs=1e-4), score
    assert found.lddt == pytest.approx(struc.lddt(stand_ins(truth), stand_ins(model)), abs=1e-4)
    assert found.lddt_all == pytest.approx(struc.lddt(truth, model), abs=1e-4)
    assert found.interface_lddt is None
    assert found.chains == (("A", "X"),)


def test_there_are_ten_real_chains_to_compare():
    assert len(EVERY_FOURTH) >= 10


# Small enough to count by hand

LINE = [(0, 0, 0), (4, 0, 0), (8, 0, 0), (12, 0, 0)]
BESIDE = [(0, 5, 0), (4, 5, 0), (8, 5, 0), (12, 5, 0)]


def test_one_residue_moved_along_a_line():
    # Of six distances the three to the last change, by 1.5: within 2 and 4, not within 0.5 and 1.
    found = compared(traces([*LINE[:3], (13.5, 0, 0)]), traces(LINE))
    assert found.lddt == pytest.approx((3 + 3 * 0.5) / 6)
    assert found.lddt_all == pytest.approx(found.lddt)
    # Superposed on the line, the residues are off by 0.375 three times and by 1.125.
    assert found.rmsd == pytest.approx((np.var([0, 0, 0, 1.5])) ** 0.5, abs=1e-5)


def test_one_chain_moved_off_another():
    # All 16 pairs lie within 15. Moved from 5 apart to 6.2, pairs that are 0 along the line change by 1.2; 4
    # along it, by 0.975; 8 and 12 along it, by 0.687 and 0.507. That is 2, 3, 3 and 3 limits of four.
    found = compared(traces(LINE, [(x, 6.2, 0) for x, _, _ in BESIDE]), traces(LINE, BESIDE))
    assert found.interface_lddt == pytest.approx((4 * 2 + 12 * 3) / (16 * 4))
    assert found.lddt == pytest.approx((12 + 16 * found.interface_lddt) / 28)


def test_chains_too_far_apart_have_no_interface():
    far = [(x, 15.1, 0) for x, _, _ in LINE]
    assert compared(traces(LINE, far), traces(LINE, far)).interface_lddt is None


def test_a_residue_that_the_model_lacks_takes_its_pairs_with_it():
    bases = traces(LINE)
    bases.res_name[:] = ["GLY", "ALA", "TRP", "SER"]
    reference = struc.concatenate([bases, traces(LINE, BESIDE)[4:]])
    model = reference[np.arange(8) != 0]
    found = compared(model, reference)
    assert found.missing == ("1 residue of protein A (4 residues)",)
    assert found.lddt == pytest.approx((28 - 7) / 28)
    assert found.lddt_all == pytest.approx(found.lddt)
    assert found.interface_lddt == pytest.approx((16 - 4) / 16)


# Chains that are alike


@pytest.mark.parametrize(("sigma", "apart"), at_length([(1.0, 25.0)], [(0.0, 0.0), (2.0, 0.0), (1.0, 25.0)]))
def test_permuted_identical_chains_change_no_score(sigma, apart):
    reference = copies(protein("1g6xA00"), 3)
    model = noised(reference, sigma, seed=9)
    for name, way in (("B", [1, -1, 0]), ("C", [-1, 0, 1])):
        model.coord[model.chain_id == name] += apart * np.array(way, dtype=np.float32)
    expected = scores(compared(model, reference))
    for order in permutations(range(3)):
        for found in (
            compared(relabelled(model, order), reference),
            compared(model, relabelled(reference, order)),
        ):
            assert scores(found) == pytest.approx(expected, abs=1e-6)
    if not sigma:
        assert expected == pytest.approx([1, 1, 1, 0, 1], abs=1e-4)


@pytest.mark.parametrize("n", [2, 4, 7])
def test_every_chain_finds_its_partner(n):
    """Up to five chains every pairing is tried, of seven those that superposing one chain suggests."""
    reference = copies(protein("1fexA00"), n)
    model = turned(noised(reference, 0.7, seed=3))
    expected = compared(model, reference)
    assert expected.chains == tuple((name, name) for name in "ABCDEFG"[:n])
    order = np.random.default_rng(n).permutation(n)
    found = compared(relabelled(model, order), reference)
    assert scores(found) == pytest.approx(scores(expected), abs=1e-6)
    assert {("ABCDEFG"[order["ABCDEFG".index(ours)]], theirs) for theirs, ours in found.chains} == {
        (name, name) for name in "ABCDEFG"[:n]
    }


def test_the_best_of_all_pairings_is_taken():
    reference = copies(protein("1g6xA00"), 3)
    model = noised(reference, 2.5, seed=8)
    # A chain put where it does not belong: no pairing is right, and some are better than others.
    moved = model.chain_id == "C"
    model.coord[moved] += [-20, 25, 5]
    found = compared(relabelled(model, (2, 0, 1)), reference)
    lddts, tm_scores = [], []
    for order in permutations(range(3)):
        paired = stand_ins(relabelled(model, order))
        lddts.append(struc.lddt(stand_ins(reference), paired))
        fitted, _ = struc.superimpose(stand_ins(reference), paired)
        everywhere = np.arange(len(paired))
        tm_scores.append(struc.tm_score(stand_ins(reference), fitted, everywhere, everywhere))
    agreement = np.add(lddts, tm_scores)
    assert found.lddt == pytest.approx(lddts[np.argmax(agreement)], abs=1e-4)
    *_, second, first = sorted(agreement)
    assert first > second + 0.01


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_superposing_single_chains_finds_what_trying_every_pairing_finds(monkeypatch, sigma):
    others = copies(protein("1fexA00"), 3)
    others.chain_id = np.array([{"A": "D", "B": "E", "C": "F"}[name] for name in others.chain_id])
    others.coord += [5, 40, 10]
    reference = struc.concatenate([copies(protein("1g6xA00"), 2), others])
    model = relabelled(noised(reference, sigma, seed=2), (4, 1, 3, 0, 2))
    expected = compared(model, reference)
    monkeypatch.setattr(matching, "_MOST_PAIRINGS", 0)
    assert compared(model, reference) == expected
    assert expected.chains == (("A", "E"), ("B", "B"), ("D", "F"), ("E", "D"), ("F", "A"))


def test_a_chain_of_its_own_says_where_the_others_belong(monkeypatch):
    """It is superposed on first, and the others are then paired with the nearest."""
    others = copies(protein("1fexA00"), 4)
    unique = struc.translate(protein("1g6xA00", "X"), [10, 35, 5])
    reference = struc.concatenate([others, unique])
    half_a_turn = struc.rotate(noised(reference, 1.0), [0, 0, np.pi])
    monkeypatch.setattr(matching, "_MOST_PAIRINGS", 0)
    monkeypatch.setattr(matching, "_MOST_ANCHORS", 1)
    found = compared(half_a_turn, reference)
    assert found.chains == tuple((name, name) for name in "ABCDX")


def test_chains_too_short_to_be_superposed_on_are_still_paired(monkeypatch):
    monkeypatch.setattr(matching, "_MOST_PAIRINGS", 0)
    assert_perfect(compared(traces(LINE[:2], BESIDE[:2]), traces(LINE[:2], BESIDE[:2])), 4)


def test_chains_that_do_not_touch_are_told_apart_by_where_they_lie():
    single = protein("1g6xA00")
    places = {"A": [0, 0, 0], "B": [90, 0, 0], "C": [0, 150, 0]}
    reference = struc.concatenate([named(struc.translate(single, to), name) for name, to in places.items()])
    model = relabelled(turned(noised(reference, 1.0)), (2, 0, 1))
    found = compared(model, reference)
    assert found.chains == (("A", "B"), ("B", "C"), ("C", "A"))
    assert found.rmsd == pytest.approx(3**0.5, rel=0.1)


def test_strands_are_told_apart_by_sequence():
    whole = protein_with_dna()
    swapped = whole.copy()
    swapped.chain_id = np.array([{"A": "C", "B": "A", "C": "B"}[name] for name in whole.chain_id])
    found = compared(swapped[np.argsort(swapped.chain_id, kind="stable")], whole)
    assert_perfect(found, 209)
    assert found.chains == (("A", "C"), ("B", "A"), ("C", "B"))


def test_subunits_of_one_family_keep_their_own_partners():
    pair = copies(protein("1g6xA00"), 2)
    changed = (pair.chain_id == "B") & (pair.res_id % 3 == 0) & np.isin(pair.atom_name, ("N", "CA", "C", "O"))
    pair = pair[(pair.chain_id == "A") | (pair.res_id % 3 != 0) | changed]
    pair.res_name[(pair.chain_id == "B") & (pair.res_id % 3 == 0)] = "GLY"
    assert_perfect(compared(relabelled(pair, (1, 0)), pair), 116)
    twice = copies(protein("1g6xA00"), 2)
    found = compared(twice, pair)
    assert found.chains == (("A", "A"),)
    assert found.only_in_model == found.only_in_reference == ("protein B (58 residues)",)


# What one of the two lacks


def test_a_chain_that_the_model_lacks_counts_as_wrong():
    whole = protein_with_dna()
    model = whole[whole.chain_id != "B"]
    found = compared(model, whole)
    nowhere = whole.copy()
    nowhere.coord[whole.chain_id == "B"] = np.nan
    assert found.lddt == pytest.approx(struc.lddt(stand_ins(whole), stand_ins(nowhere)), abs=1e-6)
    assert found.lddt_all == pytest.approx(struc.lddt(whole, nowhere), abs=1e-6)
    between = struc.lddt(whole, nowhere, exclude_same_chain=True)
    assert found.interface_lddt == pytest.approx(between, abs=1e-6)
    assert found.tm_score == pytest.approx(188 / 209, abs=1e-4)
    assert found.rmsd == pytest.approx(0, abs=1e-4)
    assert found.only_in_reference == ("DNA B (21 residues)",)
    assert found.summary.endswith("; only in the reference: DNA B (21 residues)")


def test_a_chain_that_the_reference_lacks_is_named_and_counts_for_nothing():
    whole = protein_with_dna()
    found = compared(whole, whole[whole.chain_id != "A"])
    assert_perfect(found, 42)
    assert found.only_in_model == ("protein A (167 residues)",)


def test_one_of_three_identical_chains_is_missing():
    reference = copies(protein("1g6xA00"), 3)
    for missing, others in (("A", "BC"), ("B", "AC"), ("C", "AB")):
        model = relabelled(reference[reference.chain_id != missing], (1, 0))
        found = compared(turned(model), reference)
        assert found.tm_score == pytest.approx(2 / 3, abs=1e-4)
        assert found.rmsd == pytest.approx(0, abs=1e-3)
        assert found.only_in_reference == (f"protein {missing} (58 residues)",)
        assert_perfect(compared(reference, model), 116)
        assert "".join(theirs for theirs, _ in found.chains) == others


def test_residues_missing_on_either_side():
    truth = protein("1hz6B00")
    residues = stand_ins(truth)
    kinds = residues.res_name
    # Six in a row, at neither end of which the sequence leaves open which residue is missing.
    start = next(k for k in range(15, 40) if kinds[k - 1] != kinds[k + 5] and kinds[k] != kinds[k + 6])
    inside = np.isin(truth.res_id, residues.res_id[start : start + 6])
    ends = np.isin(truth.res_id, residues.res_id[[0, 1, 2, -2, -1]])
    lacking = truth[~inside].copy()
    _, lacking.res_id = np.unique(lacking.res_id, return_inverse=True)  # numbered otherwise
    nowhere = truth.copy()
    nowhere.coord[inside] = np.nan
    found = compared(lacking, truth)
    assert found.missing == ("6 residues of protein A (63 residues)",)
    assert found.tm_score == pytest.approx(57 / 63, abs=1e-4)
    assert found.lddt == pytest.approx(struc.lddt(stand_ins(truth), stand_ins(nowhere)), abs=1e-4)
    assert found.lddt_all == pytest.approx(struc.lddt(truth, nowhere), abs=1e-4)
    assert_perfect(compared(truth, truth[~ends]), 58)
    both = compared(lacking, truth[~ends])
    assert both.n_residues == 52
    assert both.rmsd == pytest.approx(0, abs=1e-3)


def test_numbers_tell_which_of_two_equal_residues_is_missing():
    truth = protein("1igdA00")
    residues = stand_ins(truth)
    (first, *_) = np.flatnonzero(residues.res_name[:-1] == residues.res_name[1:])
    for missing in residues.res_id[[first, first + 1]]:
        assert_perfect(compared(truth, truth[truth.res_id != missing]), 60)


def test_a_base_missing_within_a_strand():
    whole = protein_with_dna()
    strand = whole[whole.chain_id == "B"]
    model = strand[strand.res_id != 8]
    nowhere = strand.copy()
    nowhere.coord[strand.res_id == 8] = np.nan
    found = compared(model, strand)
    assert found.missing == ("1 residue of DNA B (21 residues)",)
    assert found.lddt == pytest.approx(struc.lddt(stand_ins(strand), stand_ins(nowhere)), abs=1e-6)


def test_an_exchanged_residue_is_named_and_compared_by_the_atoms_it_shares():
    truth = protein("1igdA00")
    mutant = truth[(truth.res_id != 10) | np.isin(truth.atom_name, ("N", "CA", "C", "O", "CB"))]
    before = str(truth.res_name[truth.res_id == 10][0])
    mutant.res_name[mutant.res_id == 10] = "TRP"
    found = compared(mutant, truth)
    assert_perfect(found, 61)
    assert found.exchanged == (f"A {before} 10: TRP",)


# Ligands, ions, and what is ignored

ZINCS = {"A": (1.0, 2.0, 3.0), "B": (9.0, -4.0, 6.0), "C": (-7.0, 5.0, -8.0)}
PHOSPHATE = {"P": (0.0, 0.0, 0.0), "O1": (1.5, 0, 0), "O2": (-0.5, 1.4, 0), "O3": (-0.5, -0.7, 1.2)}


def with_components(structure, zincs, phosphate_at=None):
    centre = structure.coord.mean(axis=0)
    parts = [structure]
    parts += [component("ZN", chain, {"ZN": centre + place}) for chain, place in zincs.items()]
    if phosphate_at is not None:
        atoms = {name: centre + phosphate_at + np.array(place) for name, place in PHOSPHATE.items()}
        parts.append(component("PO4", "P", atoms))
    return struc.concatenate(parts)


def test_ligands_and_ions_count_and_ions_of_one_name_may_be_permuted():
    truth = protein("1igdA00")
    reference = with_components(truth, ZINCS, phosphate_at=(5, 5, 5))
    others = dict(zip("XYZ", reversed(ZINCS.values()), strict=True))
    model = with_components(truth, others, phosphate_at=(5, 5, 5))
    found = compared(turned(model), reference)
    assert_perfect(found, 61)
    assert found.n_ligands == 4
    assert (found.only_in_model, found.only_in_reference) == ((), ())
    displaced = compared(with_components(truth, others, phosphate_at=(8, 5, 5)), reference)
    assert displaced.lddt == pytest.approx(1, abs=1e-6)
    assert displaced.lddt_all < 1 - 1e-3
    assert displaced.interface_lddt < 0.9
    first = with_components(truth, {"X": ZINCS["A"]}, phosphate_at=(8, 5, 5))
    alone = with_components(truth, {"X": ZINCS["A"]}, phosphate_at=(5, 5, 5))
    assert compared(first, alone).interface_lddt == pytest.approx(
        struc.lddt(renumbered(alone), renumbered(first), exclude_same_chain=True), abs=1e-6
    )


def renumbered(structure):
    """biotite takes a smaller residue number for a new chain, and equal ones for one residue."""
    copy = structure.copy()
    ligands = copy.hetero
    copy.chain_id[ligands] = copy.res_name[ligands]
    return copy


def test_ligands_without_a_partner_are_named_and_take_nothing_from_the_scores():
    truth = protein("1igdA00")
    reference = with_components(truth, ZINCS, phosphate_at=(5, 5, 5))
    found = compared(with_components(truth, {"B": ZINCS["B"]}), reference)
    assert_perfect(found, 61)
    assert found.n_ligands == 1
    assert found.only_in_reference == ("ion ZN in A", "ion ZN in C", "ligand PO4 in P")
    assert compared(reference, truth).only_in_model == (
        "ion ZN in A",
        "ion ZN in B",
        "ion ZN in C",
        "ligand PO4 in P",
    )


def test_ligands_may_have_the_chain_of_their_protein():
    truth = protein("1igdA00")
    reference = with_components(truth, ZINCS, phosphate_at=(5, 5, 5))
    of_a_pdb_file = reference.copy()
    of_a_pdb_file.chain_id[:] = "A"
    of_a_pdb_file.res_id[of_a_pdb_file.hetero] = [101, 102, 103, *[104] * 4]
    for model, other in ((of_a_pdb_file, reference), (reference, of_a_pdb_file)):
        found = compared(model, other)
        assert_perfect(found, 61)
        assert found.n_ligands == 4


def test_an_amino_acid_by_itself_is_a_ligand():
    truth = protein("1igdA00")
    centre = truth.coord.mean(axis=0)
    bound = component("GLU", "L", {"N": centre + 9, "CA": centre + 10, "C": centre + 11})
    whole = struc.concatenate([truth, bound])
    assert_perfect(compared(whole, whole), 61)
    assert compared(whole, whole).n_ligands == 1
    assert compared(whole, truth).only_in_model == ("ligand GLU in L",)


def test_components_with_one_number_are_told_apart_by_their_atoms():
    truth = protein("1igdA00")
    centre = truth.coord.mean(axis=0)
    sugars = [
        component("NAG", "S", {name: centre + shift + place for name, place in (("C1", 0), ("O4", 1.4))})
        for shift in (2, 7)
    ]
    found = compared(*[struc.concatenate([truth, *order]) for order in (sugars, sugars[::-1])])
    assert_perfect(found, 61)
    assert found.n_ligands == 2


def test_hydrogens_water_and_second_alternatives_are_ignored():
    truth = protein("1igdA00")
    water = component("HOH", "W", {"O": truth.coord.mean(axis=0)})
    hydrogen = truth[truth.res_id == 5][:1].copy()
    hydrogen.element[:], hydrogen.atom_name[:] = "H", "H"
    second = truth[truth.res_id == 7].copy()
    second.coord += 3
    parts = []
    for atoms, name in ((truth, "."), (second, "B"), (hydrogen, "."), (water, ".")):
        atoms.set_annotation("altloc_id", np.full(len(atoms), name))
        parts.append(atoms)
    parts[0].altloc_id[truth.res_id == 7] = "A"
    before, after = parts[0][truth.res_id < 8], parts[0][truth.res_id >= 8]
    crowded = struc.concatenate([before, parts[1], parts[2], after, parts[3]])
    crowded = crowded[np.lexsort((crowded.res_id, crowded.chain_id))]
    for found in (compared(crowded, truth), compared(truth, crowded)):
        assert_perfect(found, 61)
        assert (found.only_in_model, found.only_in_reference, found.missing) == ((), (), ())


def test_the_order_of_atoms_does_not_matter():
    truth = protein("1igdA00")
    order = np.lexsort((truth.atom_name, truth.res_id))
    assert_perfect(compared(truth[order], truth), 61)


# What cannot be compared


def refusal(model, reference):
    with pytest.raises(InputError) as caught:
        compared(model, reference)
    return str(caught.value)


def test_another_protein_is_refused_by_name():
    message = refusal(protein("1igdA00", "Q"), protein("1hz6B00", "R"))
    assert message.startswith("expected a chain in common, but in those most alike, protein Q (61 residues)")
    assert "of the model and protein R (63 residues) of the reference" in message


def test_a_protein_and_a_nucleic_acid_have_nothing_in_common():
    whole = protein_with_dna()
    message = refusal(whole[whole.chain_id == "A"], whole[whole.chain_id == "B"])
    assert message == (
        "expected a chain in common, but the model has protein A (167 residues) "
        "and the reference DNA B (21 residues)"
    )
    strands = [whole[whole.chain_id == name] for name in "BC"]
    assert "DNA B (21 residues) of the model and DNA C" in refusal(*strands)
    shuffled = np.random.default_rng(0).permutation(stand_ins(strands[0]).res_name)
    other = strands[0].copy()
    other.res_name = struc.spread_residue_wise(other, shuffled)
    assert "residues agree" in refusal(other, strands[0])


def test_dna_is_not_rna_of_the_same_bases():
    whole = protein_with_dna()
    dna = whole[whole.chain_id == "B"]
    rna = rna_of(dna)
    assert "RNA B (21 residues)" in refusal(rna, dna)
    assert_perfect(compared(turned(rna), rna), 21)
    assert compared(rna, rna).chains == (("B", "B"),)


def rna_of(dna):
    oxygens = dna[dna.atom_name == "C2'"]
    oxygens.atom_name[:], oxygens.element[:] = "O2'", "O"
    oxygens.coord += 0.8
    rna = struc.concatenate([dna, oxygens])
    rna.res_name = np.array([{"DT": "U"}.get(name, name[1:]) for name in rna.res_name])
    return rna[np.argsort(rna.res_id, kind="stable")]


def test_a_structure_without_chains_is_refused():
    truth = protein("1igdA00")
    zinc = component("ZN", "A", {"ZN": (0.0, 0.0, 0.0)})
    assert refusal(zinc, truth) == "expected a protein or a nucleic acid in the model, found none"
    assert refusal(truth, truth[:0]) == "expected a protein or a nucleic acid in the reference, found none"


def test_too_few_residues_are_refused():
    assert refusal(traces(LINE[:3]), traces(LINE)) == "expected at least 4 residues in common"
