"""Accuracy and geometry have the values that they must have, on real structures and on changed ones."""

import dataclasses
import gzip
import time

import numpy as np
import pytest
from biotite import structure as struc
from biotite.structure.io import pdb, pdbx
from conftest import ROOT

from flashbias_fold.accuracy import Accuracy, accuracy, geometry, read_structure
from flashbias_fold.errors import InputError

TRUTH = ROOT / "data" / "truth"
COMPLEX = ROOT / "data" / "complexes" / "7r6r" / "7r6r.cif.gz"
NAMES = ("1igdA00", "1hz6B00", "1g6xA00")


def truth_of(name):
    return read_structure(TRUTH / f"{name}.pdb.gz")


@pytest.fixture(params=NAMES)
def truth(request):
    return truth_of(request.param)


@pytest.fixture
def protein_g():
    return truth_of("1igdA00")


def moved(structure, change):
    """A copy with other coordinates."""
    copy = structure.copy()
    copy.coord = np.asarray(change(structure.coord), dtype=np.float32)
    return copy


def turned(structure):
    return struc.rotate(struc.translate(structure, [7, -30, 12]), [0.4, 2.0, -1.1])


def mirrored(structure):
    return moved(structure, lambda coord: coord * [1, 1, -1])


def noised(structure, sigma):
    noise = np.random.default_rng(5).normal(size=structure.coord.shape)
    return moved(structure, lambda coord: coord + sigma * noise)


def hinged(structure, residue, degrees):
    """Everything from a residue on turned about its C-alpha."""
    later = structure.res_id >= residue
    (pivot,) = structure.coord[(structure.res_id == residue) & (structure.atom_name == "CA")]
    copy = structure.copy()
    copy.coord[later] = struc.rotate_about_axis(copy.coord[later], [1, 2, 3], np.deg2rad(degrees), pivot)
    return copy


def waved(structure, height):
    """Residues displaced along waves, each as a whole."""
    phase = structure.res_id[:, np.newaxis] * [0.5, 0.3, 0.21]
    return moved(structure, lambda coord: coord + height * np.sin(phase))


def without(structure, residues):
    return structure[~np.isin(structure.res_id, residues)]


def alphas(structure):
    return structure[structure.atom_name == "CA"]


def write_pdb(structure, path):
    file = pdb.PDBFile()
    file.set_structure(structure)
    file.write(path)
    return path


def write_cif(structure, path):
    file = pdbx.CIFFile()
    pdbx.set_structure(file, structure)
    file.write(path)
    return path


def assert_perfect(found, n_residues):
    assert dataclasses.astuple(found) == pytest.approx((1, 1, 1, 0, n_residues), abs=1e-4)


# Reading


@pytest.mark.parametrize(("name", "sequence_length"), zip(NAMES, (61, 63, 58), strict=True))
def test_a_truth_file_without_elements_is_read_whole(name, sequence_length):
    structure = truth_of(name)
    lines = gzip.decompress((TRUTH / f"{name}.pdb.gz").read_bytes()).decode().splitlines()
    assert len(structure) == sum(line.startswith("ATOM") for line in lines)
    assert struc.get_residue_count(structure) == sequence_length
    assert set(structure.element) <= {"C", "N", "O", "S"}


def test_only_the_protein_of_a_complex_is_read():
    structure = read_structure(COMPLEX)
    assert set(structure.chain_id) == {"A"}
    assert all(struc.filter_amino_acids(structure))
    assert_perfect(accuracy(structure, structure), 167)


def test_hydrogens_water_ligands_and_second_alternatives_are_left_out(tmp_path):
    line = (
        "{kind:6}    1 {name}{alt}{residue:>3} A{number:4}    "
        "{x:8.3f}   2.881   4.315  1.00 10.85          {element:>2}  \n"
    )
    atoms = [
        ("ATOM", " N  ", " ", "MET", 1, 1, "N"),
        ("ATOM", " CA ", "A", "MET", 1, 2, "C"),
        ("ATOM", " CA ", "B", "MET", 1, 3, "C"),
        ("ATOM", " HA ", " ", "MET", 1, 4, "H"),
        ("ATOM", " C  ", " ", "MET", 1, 5, "C"),
        ("HETATM", " O  ", " ", "HOH", 2, 6, "O"),
        ("HETATM", "CA  ", " ", "CA", 3, 7, "CA"),
    ]
    names = ("kind", "name", "alt", "residue", "number", "x", "element")
    text = "".join(line.format(**dict(zip(names, atom, strict=True))) for atom in atoms)
    path = tmp_path / "some.pdb"
    path.write_text(f"MODEL        1\n{text}ENDMDL\nMODEL        2\n{text}ENDMDL\n")
    found = read_structure(path)
    assert list(found.atom_name) == ["N", "CA", "C"]
    assert list(found.coord[:, 0]) == [1, 2, 5]


@pytest.mark.parametrize(
    ("write", "name"),
    [(write_cif, "a.cif"), (write_pdb, "a.pdb"), (write_cif, "a.cif.gz"), (write_pdb, "A.PDB.GZ")],
)
def test_what_was_written_is_read_again(tmp_path, truth, write, name):
    path = write(truth, tmp_path / name.lower().removesuffix(".gz"))
    if name.lower().endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(path.read_bytes()))
    again = read_structure(tmp_path / name)
    assert list(again.atom_name) == list(truth.atom_name)
    assert np.abs(again.coord - truth.coord).max() < 0.001
    assert_perfect(accuracy(again, truth), len(alphas(truth)))


WHOLE_PDB = gzip.decompress((TRUTH / "1igdA00.pdb.gz").read_bytes())
WHOLE_CIF = gzip.decompress(COMPLEX.read_bytes())
BAD_FILES = {
    "empty.cif": b"",
    "empty.pdb": b"",
    "empty.pdb.gz": b"",
    "nothing_packed.cif.gz": gzip.compress(b""),
    "garbage.cif": b"no\nstructure",
    "garbage.pdb": b"no\nstructure",
    "binary.pdb": bytes(range(256)),
    "page.cif": b"<html><body>404</body></html>",
    "not_packed.pdb.gz": WHOLE_PDB,
    "half_packed.pdb.gz": gzip.compress(WHOLE_PDB)[:4000],
    "corrupt.pdb.gz": gzip.compress(WHOLE_PDB)[:3000] + bytes(100) + gzip.compress(WHOLE_PDB)[3100:],
    "half.cif": WHOLE_CIF[: WHOLE_CIF.rindex(b"\nATOM ") + 50],
    "half_a_line.pdb": WHOLE_PDB[:-100],
    "without_atoms.cif": b"data_nothing\n_entry.id nothing\n",
    "water.pdb": b"HETATM    6  O   HOH A   2       9.000   2.881   4.315  1.00 10.85           O  \n",
    "exploded.pdb": WHOLE_PDB.replace(b"  1.482 ", b"    nan "),
    "structure.ent": WHOLE_PDB,
    "folder.pdb": None,
    "missing.pdb": ...,
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_read_is_named_in_one_line(tmp_path, name):
    path = tmp_path / name
    content = BAD_FILES[name]
    if content is None:
        path.mkdir()
    elif content is not ...:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"^\S+: expected ") as caught:
        read_structure(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# Accuracy


def test_a_structure_is_perfectly_like_itself(truth):
    assert_perfect(accuracy(truth, truth), len(alphas(truth)))


def test_where_a_structure_lies_does_not_matter(truth):
    model = noised(truth, 1.0)
    expected = dataclasses.astuple(accuracy(model, truth))
    assert dataclasses.astuple(accuracy(turned(model), truth)) == pytest.approx(expected, abs=2e-3)
    assert dataclasses.astuple(accuracy(model, turned(truth))) == pytest.approx(expected, abs=2e-3)


def test_noise_lowers_every_score(truth):
    found = [accuracy(noised(truth, sigma), truth) for sigma in (0, 0.3, 1, 2, 4, 8)]
    for score in ("lddt", "lddt_all", "tm_score"):
        values = [getattr(one, score) for one in found]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == len(values)
        assert values[-1] < 0.35
    deviations = [one.rmsd for one in found]
    assert deviations == sorted(deviations)
    assert 8 < deviations[-1] < 8 * 3**0.5


def test_a_mirror_image_keeps_its_distances_and_nothing_else(truth):
    found = accuracy(mirrored(truth), truth)
    assert (found.lddt, found.lddt_all) == pytest.approx((1, 1), abs=1e-4)
    assert found.tm_score < 0.5
    assert found.rmsd > 5


def test_lddt_is_what_its_definition_says(protein_g):
    model = noised(protein_g, 1.0)
    before, after = (
        np.linalg.norm(coord[:, np.newaxis] - coord, axis=-1)
        for coord in (alphas(protein_g).coord, alphas(model).coord)
    )
    pairs = np.triu(before <= 15, k=1)
    error = abs(before - after)[pairs]
    expected = np.mean([np.mean(error < limit) for limit in (0.5, 1, 2, 4)])
    assert accuracy(model, protein_g).lddt == pytest.approx(expected, abs=1e-4)


# Changes to a structure, and what the reference implementation says of it and of the unchanged one, both as
# `write_pdb` writes them: `TMscore model.pdb truth.pdb`, TMscore.cpp of https://github.com/pylelab/USalign at
# commit fa4376bd99fa17a123d05d7ea47cf6574c80d64f.
CHANGES = {
    "hinged": lambda structure: hinged(structure, 30, 80),
    "waved": lambda structure: waved(structure, 3),
    "waved far": lambda structure: waved(structure, 6),
    "hinged and waved": lambda structure: waved(hinged(structure, 20, 120), 2),
    "mirrored": mirrored,
    "half of it": lambda structure: without(structure, range(31, 100)),
}
REFERENCE = [
    ("1igdA00", "hinged", 0.5684, 5.507),
    ("1igdA00", "waved", 0.4021, 3.592),
    ("1igdA00", "waved far", 0.2051, 7.163),
    ("1igdA00", "hinged and waved", 0.4089, 6.805),
    ("1igdA00", "mirrored", 0.3549, 7.925),
    ("1igdA00", "half of it", 0.4918, 0.0),
    ("1hz6B00", "hinged", 0.6137, 7.756),
    ("1hz6B00", "waved", 0.4364, 3.464),
    ("1hz6B00", "waved far", 0.2034, 6.930),
    ("1hz6B00", "hinged and waved", 0.4588, 9.070),
    ("1hz6B00", "mirrored", 0.3726, 7.714),
    ("1hz6B00", "half of it", 0.4603, 0.0),
    ("1g6xA00", "hinged", 0.5679, 7.565),
    ("1g6xA00", "waved", 0.3971, 3.639),
    ("1g6xA00", "waved far", 0.1868, 7.281),
    ("1g6xA00", "hinged and waved", 0.3948, 10.743),
    ("1g6xA00", "mirrored", 0.3444, 7.846),
    ("1g6xA00", "half of it", 0.5172, 0.0),
]


@pytest.mark.parametrize(("name", "change", "tm_score", "rmsd"), REFERENCE)
def test_tm_score_and_rmsd_are_those_of_the_reference_program(name, change, tm_score, rmsd):
    truth = truth_of(name)
    found = accuracy(CHANGES[change](truth), truth)
    assert found.tm_score == pytest.approx(tm_score, abs=0.006)
    assert found.rmsd == pytest.approx(rmsd, abs=0.001)


def tm_score_as_superposed(model, truth):
    fixed, mobile = alphas(truth), alphas(model)
    fitted, _ = struc.superimpose(fixed, mobile)
    everywhere = np.arange(len(fixed))
    return struc.tm_score(fixed, fitted, everywhere, everywhere)


@pytest.mark.parametrize("change", [name for name in CHANGES if name != "half of it"])
def test_the_search_finds_no_less_than_a_global_superposition(truth, change):
    model = CHANGES[change](truth)
    assert accuracy(model, truth).tm_score >= tm_score_as_superposed(model, truth)


def test_two_halves_hinged_apart_are_still_found(truth):
    model = hinged(truth, 30, 120)
    assert tm_score_as_superposed(model, truth) < 0.3
    assert accuracy(model, truth).tm_score >= 0.5


def test_residues_that_the_truth_lacks_do_not_count(truth):
    missing = [1, 2, 20, 21, 22, 23, 40]
    partial = without(truth, missing)
    assert len(partial) < len(truth)
    assert_perfect(accuracy(truth, partial), len(alphas(partial)))


def test_a_gap_is_found_where_the_files_number_otherwise(truth):
    partial = without(truth, [1, 2, 20, 21, 22, 23])
    _, partial.res_id = np.unique(partial.res_id, return_inverse=True)
    found = accuracy(truth, partial)
    assert found.n_residues == len(alphas(partial))
    # Which of two equal neighbours is missing cannot be told without numbers.
    assert found.tm_score > 0.95
    assert found.lddt > 0.95


def test_numbers_tell_which_of_two_equal_residues_is_missing(protein_g):
    kinds = alphas(protein_g).res_name
    pairs = np.flatnonzero(kinds[:-1] == kinds[1:])
    assert len(pairs), "no two equal neighbours"
    first, second = (protein_g.res_id[protein_g.atom_name == "CA"][pairs[0] + step] for step in (0, 1))
    for missing in (first, second):
        assert_perfect(accuracy(protein_g, without(protein_g, [missing])), len(kinds) - 1)


def test_residues_that_the_model_lacks_count_as_wrong(truth):
    n = len(alphas(truth))
    found = accuracy(without(truth, range(n // 2, n + 1)), truth)
    assert found.tm_score == pytest.approx((n // 2 - 1) / n, abs=1e-3)
    assert found.lddt < 0.5
    assert found.lddt_all == pytest.approx(1)
    assert found.rmsd == pytest.approx(0, abs=1e-3)


def test_an_exchanged_residue_is_compared_by_the_atoms_it_shares(protein_g):
    mutant = protein_g[(protein_g.res_id != 10) | np.isin(protein_g.atom_name, ["N", "CA", "C", "O", "CB"])]
    mutant.res_name[mutant.res_id == 10] = "ALA"
    assert_perfect(accuracy(mutant, protein_g), 61)
    assert_perfect(accuracy(protein_g, mutant), 61)


def test_atoms_in_another_order_are_the_same_atoms(protein_g):
    order = np.lexsort((protein_g.atom_name, protein_g.res_id))
    assert_perfect(accuracy(protein_g[order], protein_g), 61)


def test_only_side_chains_differ(protein_g):
    backbone = np.isin(protein_g.atom_name, ["N", "CA", "C", "O", "CB"])
    model = noised(protein_g, 2.0)
    model.coord[backbone] = protein_g.coord[backbone]
    found = accuracy(model, protein_g)
    assert (found.lddt, found.tm_score) == pytest.approx((1, 1), abs=1e-4)
    assert found.lddt_all < 0.9


@pytest.mark.parametrize("others", [("1igdA00", "1hz6B00"), ("1hz6B00", "1g6xA00"), ("1g6xA00", "1igdA00")])
def test_different_proteins_are_refused(others):
    model, truth = map(truth_of, others)
    with pytest.raises(InputError, match="of one protein") as caught:
        accuracy(model, truth)
    assert "\n" not in str(caught.value)


def test_structures_without_a_residue_in_common_are_refused(protein_g):
    for few in (without(protein_g, range(4, 100)), protein_g[protein_g.atom_name != "CA"]):
        with pytest.raises(InputError, match="of one protein"):
            accuracy(few, protein_g)
        with pytest.raises(InputError, match="of one protein"):
            accuracy(few, few)


def test_a_hundred_residues_take_no_time(truth):
    longer = truth + moved(truth, lambda coord: coord + 30)
    longer.res_id = struc.get_residue_positions(longer, np.arange(len(longer))) + 1
    model = noised(longer, 2.0)
    accuracy(model, longer)  # the first call reads dictionaries
    start = time.process_time()
    found = accuracy(model, longer)
    assert isinstance(found, Accuracy)
    assert time.process_time() - start < 1.0


# Geometry


def test_experimental_structures_are_sane(truth):
    found = geometry(truth)
    n = len(alphas(truth))
    assert found.d_amino_acids == ()
    assert found.backbone_bonds == 4 * n - 1
    assert found.bond_share > 0.99


def test_every_residue_but_glycine_is_d_in_a_mirror_image(truth):
    found = geometry(mirrored(truth))
    residues = alphas(truth)
    chiral = residues[residues.res_name != "GLY"]
    assert found.d_amino_acids == tuple(f"{residue.res_name} {residue.res_id}" for residue in chiral)
    assert found.bond_share == geometry(truth).bond_share


def test_one_turned_residue_is_named(protein_g):
    model = protein_g.copy()
    turn = (model.res_id == 12) & ~np.isin(model.atom_name, ["N", "CA", "C", "O"])
    kind = model.res_name[model.res_id == 12][0]
    n, alpha, c = (
        model.coord[(model.res_id == 12) & (model.atom_name == name)][0] for name in ("N", "CA", "C")
    )
    normal = np.cross(n - alpha, c - alpha)
    normal /= np.linalg.norm(normal)
    model.coord[turn] -= 2 * ((model.coord[turn] - alpha) @ normal)[:, np.newaxis] * normal
    assert geometry(model).d_amino_acids == (f"{kind} 12",)


def test_stretched_bonds_are_counted(protein_g):
    assert geometry(moved(protein_g, lambda coord: coord * 1.2)).bond_share == 0
    assert geometry(moved(protein_g, lambda coord: coord * 1.03)).bond_share == 1
    model = protein_g.copy()
    (oxygen,) = np.flatnonzero((model.res_id == 20) & (model.atom_name == "O"))
    model.coord[oxygen] += 3
    found = geometry(model)
    assert found.backbone_bonds - found.bonds_within == 1


def test_a_broken_chain_is_seen_and_a_gap_is_none(protein_g):
    whole = geometry(protein_g)
    broken = protein_g.copy()
    broken.coord[broken.res_id > 30] += 5
    assert geometry(broken).bonds_within == whole.bonds_within - 1
    assert geometry(broken).backbone_bonds == whole.backbone_bonds
    gap = geometry(without(protein_g, [30]))
    assert gap.bonds_within == gap.backbone_bonds == whole.backbone_bonds - 5


def test_two_chains_are_not_bound_to_each_other(protein_g):
    other = protein_g.copy()
    other.chain_id[:] = "B"
    other.res_id += 61
    assert geometry(protein_g + other).backbone_bonds == 2 * geometry(protein_g).backbone_bonds


def test_without_a_backbone_no_bond_is_right(protein_g):
    found = geometry(alphas(protein_g))
    assert (found.backbone_bonds, found.bond_share, found.d_amino_acids) == (0, 0.0, ())
