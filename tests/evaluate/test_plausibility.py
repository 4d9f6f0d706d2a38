"""Experimental structures are plausible, whatever is done that changes nothing; damaged ones are not."""

import functools
import gzip
import io
import warnings

import numpy as np
import pytest
from biotite import structure as struc
from biotite.structure.io import pdb, pdbx
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbias_fold.evaluate.plausibility import find_problems
from flashbias_fold.inputs.sequences import PROTEIN
from flashbias_fold.protenix_adapter.components.dictionary import read_tables

DOMAINS = sorted(path.name.removesuffix(".pdb.gz") for path in (ROOT / "data" / "truth").glob("*.pdb.gz"))
COMPLEXES = ("7r6r", "7wux")
DOMAIN = "1igdA00"
BY_THEMSELVES = ("ATP", "HEM", "SO4", "MG", "NAG", "GLY", "DAL")


@functools.cache
def definitions():
    """The components that are met here, from the dictionary; read at once, as each reading takes long."""
    amino_acids = {code for code in PROTEIN.values() if code != "UNK"}
    nucleotides = {"DA", "DC", "DG", "DT", "A", "C", "G", "U"}
    assemblies = {code for name in COMPLEXES for code in read_assembly(name).res_name.tolist()}
    return read_tables(amino_acids | nucleotides | assemblies | set(BY_THEMSELVES) | {"ZN"})


def with_reference(atoms):
    """Heavy atoms with their bonds, and where the dictionary has them."""
    atoms = atoms[~np.isin(atoms.element, ("H", "D")) & ~struc.filter_solvent(atoms)]
    bonds, ideal = {}, {}
    for code in set(atoms.res_name.tolist()):
        tables = definitions()[code]
        rows = tables["chem_comp_atom"]
        axes = (rows[f"pdbx_model_Cartn_{axis}_ideal"] for axis in "xyz")
        places = [[np.nan if text == "?" else float(text) for text in at] for at in zip(*axes, strict=True)]
        ideal |= {(code, name): place for name, place in zip(rows["atom_id"], places, strict=True)}
        ends = (tables.get("chem_comp_bond", {}).get(f"atom_id_{end}", []) for end in (1, 2))
        bonds[code] = dict.fromkeys(zip(*ends, strict=True), struc.BondType.ANY)
    atoms.bonds = struc.connect_via_residue_names(atoms, custom_bond_dict=bonds)
    nowhere = [np.nan] * 3
    keys = zip(atoms.res_name.tolist(), atoms.atom_name.tolist(), strict=True)
    return atoms, np.array([ideal.get(key, nowhere) for key in keys])


@functools.cache
def domain(name=DOMAIN):
    warnings.simplefilter("ignore")  # elements are guessed from the atoms' names
    text = gzip.decompress((ROOT / "data" / "truth" / f"{name}.pdb.gz").read_bytes()).decode()
    return with_reference(pdb.PDBFile.read(io.StringIO(text)).get_structure(model=1))


@functools.cache
def read_assembly(name):
    text = gzip.decompress((ROOT / "data" / "complexes" / name / f"{name}.cif.gz").read_bytes()).decode()
    return pdbx.get_structure(pdbx.CIFFile.deserialize(text), model=1, use_author_fields=False)


@functools.cache
def assembly(name):
    return with_reference(read_assembly(name))


def moved(atoms, coord, chain=None):
    copy = atoms.copy()
    copy.coord = coord.astype(np.float32)
    if chain is not None:
        copy.chain_id[:] = chain
    return copy


def component(code, place=(0, 0, 0), chain="Z", number=1):
    """A component by itself, where the dictionary has it."""
    rows = definitions()[code]["chem_comp_atom"]
    heavy = [index for index, element in enumerate(rows["type_symbol"]) if element != "H"]
    atoms = struc.AtomArray(len(heavy))
    atoms.coord = np.array(
        [[float(rows[f"pdbx_model_Cartn_{axis}_ideal"][i]) for axis in "xyz"] for i in heavy]
    )
    atoms.atom_name = np.array([rows["atom_id"][index] for index in heavy])
    atoms.element = np.array([rows["type_symbol"][index] for index in heavy])
    atoms.res_name[:], atoms.res_id[:], atoms.chain_id[:] = code, number, chain
    atoms, reference = with_reference(atoms)
    return moved(atoms, atoms.coord + np.array(place)), reference


def together(*parts):
    return struc.concatenate([atoms for atoms, _ in parts]), np.concatenate(
        [reference for _, reference in parts]
    )


# What is sound


@pytest.mark.parametrize("name", DOMAINS)
def test_an_experimental_domain_is_plausible(name):
    assert find_problems(*domain(name)) == []


@pytest.mark.parametrize("name", COMPLEXES)
def test_a_complex_of_proteins_dna_ligands_and_ions_is_plausible(name):
    assert find_problems(*assembly(name)) == []


def test_residues_may_be_missing_and_numbers_may_begin_late():
    atoms, reference = domain()
    there = (atoms.res_id < 20) | (atoms.res_id > 30)
    late = atoms[there].copy()
    late.res_id += 400
    assert find_problems(late, reference[there]) == []


@pytest.mark.parametrize("code", BY_THEMSELVES)
def test_a_component_by_itself_is_plausible(code):
    assert find_problems(*component(code)) == []


def test_nothing_and_a_single_atom_without_bonds_are_plausible():
    atoms, reference = component("ZN")
    atoms.bonds = None
    assert find_problems(atoms, reference) == []
    assert find_problems(atoms[:0], reference[:0]) == []


@given(st.integers(0, 2**32 - 1), st.floats(-500, 500))
@settings(max_examples=10, deadline=None)
def test_a_motion_and_the_order_of_chains_change_nothing(seed, shift):
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation[:, 0] *= np.linalg.det(rotation)
    atoms, reference = assembly("7r6r")
    order = np.concatenate(
        [np.flatnonzero(atoms.chain_id == chain) for chain in rng.permutation(["A", "B", "C"])]
    )
    turned = moved(atoms, atoms.coord @ rotation + shift)[order]
    assert find_problems(turned, reference[order]) == []
    broken = moved(
        turned, np.where((turned.res_id > 100)[:, None], turned.coord + 9 * rotation[0], turned.coord)
    )
    problem = find_problems(broken, reference[order])[0]
    assert problem.startswith("chain A: 1 break of the backbone, the longest")
    assert problem.endswith("between residues 100 and 101")


# What is not


def test_a_broken_peptide_is_named_with_its_place():
    atoms, reference = domain()
    coord = np.where((atoms.res_id > 30)[:, None], atoms.coord + np.array([0, 1000.0, 0]), atoms.coord)
    problems = find_problems(moved(atoms, coord), reference)
    assert problems[0].startswith("chain A: 1 break of the backbone, the longest 1,0")
    assert problems[0].endswith(" A between residues 30 and 31")


def test_a_broken_strand_of_dna_is_named():
    atoms, reference = assembly("7r6r")
    chain = atoms.chain_id[atoms.atom_name == "P"][0]
    beyond = (atoms.chain_id == chain) & (atoms.res_id > 10)
    axis = np.array([0, 0, 12.0])
    problems = find_problems(
        moved(atoms, np.where(beyond[:, None], atoms.coord + axis, atoms.coord)), reference
    )
    assert any(problem.startswith(f"chain {chain}: 1 break of the backbone") for problem in problems)


def test_a_mirror_image_is_of_the_wrong_hand_alone():
    for atoms, reference in (domain(), assembly("7r6r")):
        problems = find_problems(moved(atoms, -atoms.coord), reference)
        assert len(problems) == len(set(atoms.chain_id.tolist()))
        assert all("chiral centres are mirrored, such as" in problem for problem in problems)


def test_a_few_residues_of_the_wrong_hand_are_let_pass():
    atoms, reference = domain()
    inverted = reference.copy()
    inverted[np.isin(atoms.res_id, (10, 11))] *= -1
    assert find_problems(atoms, inverted) == []
    inverted[np.isin(atoms.res_id, range(12, 20))] *= -1
    assert "mirrored" in find_problems(atoms, inverted)[0]


@pytest.mark.parametrize("scale", [0.01, 0.8, 0.9, 1.1, 1.25, 100.0])
@pytest.mark.parametrize("chain_of", [domain, lambda: component("ATP")], ids=["domain", "ligand"])
def test_a_scaled_structure_has_bonds_of_the_wrong_length(scale, chain_of):
    atoms, reference = chain_of()
    problems = find_problems(moved(atoms, atoms.coord * scale), reference)
    (said,) = (one for one in problems if "times their ideal length" in one)
    assert float(said.split()[4].replace(",", "")) == pytest.approx(scale, rel=0.05, abs=0.01)


def test_noise_leaves_no_bond_as_it_was():
    atoms, reference = component("ATP")
    coord = atoms.coord + np.random.default_rng(0).normal(size=atoms.coord.shape, scale=0.5)
    problems = " ".join(find_problems(moved(atoms, coord), reference))
    assert "bonds are more than 20% off" in problems or "times their ideal length" in problems


@pytest.mark.parametrize("shift", [0.0, 0.5, 5.0])
def test_two_chains_in_one_place_clash(shift):
    atoms, reference = domain()
    other = moved(atoms, atoms.coord[:, [1, 2, 0]] - atoms.coord.mean(axis=0)[[1, 2, 0]], "B")
    other.coord += atoms.coord.mean(axis=0) + np.float32(shift)
    problems = find_problems(*together((atoms, reference), (other, reference)))
    assert len(problems) == 2 and all(" atoms clash, the nearest" in problem for problem in problems)


def test_an_ion_within_another_atom_clashes_and_one_that_is_coordinated_does_not():
    atoms, reference = domain()
    oxygen = atoms.coord[atoms.atom_name == "OE1"][0]
    beside = (
        oxygen + (oxygen - atoms.coord.mean(axis=0)) / np.linalg.norm(oxygen - atoms.coord.mean(axis=0)) * 2.0
    )
    assert find_problems(*together((atoms, reference), component("MG", beside))) == []
    (problem,) = find_problems(*together((atoms, reference), component("MG", oxygen + 0.3)))
    assert problem.startswith("chain Z: 1 of 1 atom clash, the nearest 0.5 A between Z MG 1 MG and A G")


def test_what_is_bonded_does_not_clash():
    atoms, reference = domain()
    carbon = int(np.flatnonzero(atoms.atom_name == "CB")[5])
    whole, known = together((atoms, reference), component("ZN", atoms.coord[carbon] + np.array([0.8, 0, 0])))
    assert find_problems(whole, known)
    whole.bonds.add_bond(carbon, len(whole) - 1)
    assert find_problems(whole, known) == []


def test_chains_far_from_each_other_are_out_of_proportion():
    atoms, reference = domain()
    beside = moved(atoms, atoms.coord + np.array([90.0, 0, 0]), "B")
    assert find_problems(*together((atoms, reference), (beside, reference))) == []
    far = moved(atoms, atoms.coord + np.array([5000.0, 0, 0]), "B")
    problems = find_problems(*together((atoms, reference), (far, reference)))
    assert len(problems) == 2
    assert problems[0].startswith("radius of gyration 2,500 A, of 122 residues stretched into a line")
    assert problems[1].startswith("1 chain apart from the rest, the farthest B, 4,9")


def test_coordinates_that_are_no_numbers_are_counted():
    atoms, reference = domain()
    coord = atoms.coord.copy()
    coord[3, 1], coord[7, 0] = np.nan, np.inf
    assert find_problems(moved(atoms, coord), reference) == [
        f"2 of {len(atoms)} atoms have no finite coordinates"
    ]


def test_everything_in_one_place_is_answered_soon():
    atoms, reference = assembly("7wux")
    problems = find_problems(moved(atoms, np.zeros_like(atoms.coord)), reference)
    assert "too short, the shortest 0.0 A" in problems[0]
    assert len(problems) == 11 and problems[-1].endswith(" more problems")
    crowd = struc.concatenate([component("HEM")[0]] * 7)
    nowhere = np.zeros_like(crowd.coord)
    problems = find_problems(moved(crowd, nowhere), np.full_like(nowhere, np.nan))
    assert problems == [f"{len(crowd)} atoms within a cube of 3 A"]
