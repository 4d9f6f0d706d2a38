"""The assembly that a file describes is what is read of it, and what is no structure says so in one line."""

import gzip
from functools import cache
from random import Random

import gemmi
import numpy as np
import pytest
from assemblies import TRUTH
from biotite.structure.io import pdbx
from conftest import ROOT

from flashbias_fold.accuracy import read_structure
from flashbias_fold.compare.assembly import is_structure, open_assembly, read_assembly
from flashbias_fold.compare.structures import compared
from flashbias_fold.errors import InputError

COMPLEX = ROOT / "data" / "complexes" / "7r6r" / "7r6r.cif.gz"
FIELDS = ("chain_id", "res_id", "ins_code", "res_name", "hetero", "atom_name", "element")
# A half turn about z, and a shift.
TURN = np.array([[-1.0, 0, 0], [0, -1, 0], [0, 0, 1]])
SHIFT = np.array([40.0, 0, 5])
IDENTITY = np.eye(3)


@cache
def domain_lines(name="1igdA00"):
    """The ATOM records of a real domain."""
    return tuple(gzip.decompress((TRUTH / f"{name}.pdb.gz").read_bytes()).decode().splitlines())


@cache
def domain_codes(name="1igdA00"):
    return tuple(line[17:20] for line in domain_lines(name) if line[12:16] == " CA ")


def remark_350(*moves, chains="A", number=1):
    """One biological assembly of a PDB file."""
    lines = [f"REMARK 350 BIOMOLECULE: {number}", f"REMARK 350 APPLY THE FOLLOWING TO CHAINS: {chains}"]
    for index, (turn, shift) in enumerate(moves, start=1):
        for row, offset, axis in zip(turn, shift, (1, 2, 3), strict=True):
            numbers = "".join(f"{value:10.6f}" for value in row)
            lines.append(f"REMARK 350   BIOMT{axis}{index:4d}{numbers}     {offset:10.5f}")
    return lines


DIMER = remark_350((IDENTITY, np.zeros(3)), (TURN, SHIFT))


def seqres(codes, chain="A"):
    rows = [codes[start : start + 13] for start in range(0, len(codes), 13)]
    return [
        f"SEQRES {number:3d} {chain} {len(codes):4d}  {' '.join(f'{code:>3}' for code in row)}"
        for number, row in enumerate(rows, start=1)
    ]


def hetatm(name, code, number, xyz, chain="A", element="", alternative=" "):
    x, y, z = xyz
    place = f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00"
    return f"HETATM 9000 {name:4}{alternative}{code:>3} {chain}{number:4d}    {place}          {element:>2}"


@pytest.fixture
def file(tmp_path):
    """Write lines, or bytes, as a file."""

    def write(content, name="made.pdb"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else ("\n".join(content) + "\n").encode())
        return path

    return write


def assert_same(found, expected, fields=FIELDS):
    assert len(found) == len(expected)
    for name in fields:
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name
    assert np.array_equal(found.coord, expected.coord)


# What is read


def test_the_atoms_of_a_real_complex_are_biotites():
    found = read_assembly(COMPLEX)
    text = gzip.decompress(COMPLEX.read_bytes()).decode()
    expected = pdbx.get_assembly(pdbx.CIFFile.deserialize(text), "1", model=1, use_author_fields=False)
    expected = expected[expected.res_name != "HOH"]
    assert_same(found, expected)
    assert np.unique(found.chain_id).tolist() == ["A", "B", "C"]


def test_a_real_complex_is_perfectly_like_itself():
    whole = read_assembly(COMPLEX)
    found = compared(whole, whole)
    scores = (found.lddt, found.lddt_all, found.tm_score, found.rmsd, found.interface_lddt)
    assert scores == pytest.approx((1, 1, 1, 0, 1), abs=1e-4)
    assert found.summary == "compared 209 residues of 3 chains and 0 ligands"


def test_domains_without_a_column_of_elements_are_read_as_accuracy_reads_them():
    paths = sorted(TRUTH.glob("*.pdb.gz"))
    assert len(paths) > 70
    for path in paths:
        assert_same(read_assembly(path), read_structure(path))


def test_a_dimer_that_a_remark_makes(file):
    one = read_assembly(TRUTH / "1igdA00.pdb.gz")
    both = read_assembly(file([*DIMER, *domain_lines(), "TER", "END"]))
    first, second = both[: len(one)], both[len(one) :]
    assert_same(first, one)
    assert second.chain_id.tolist() == ["A-2"] * len(one)
    assert second.coord == pytest.approx(one.coord @ TURN.T + SHIFT, abs=1e-3)
    assert second.atom_name.tolist() == one.atom_name.tolist()
    assert [chains[0] for chains in compared(both, both).chains] == ["A", "A-2"]


def test_the_first_assembly_is_read_and_not_what_is_outside_of_it(file):
    two = [line[:21] + "B" + line[22:] for line in domain_lines()]
    other = remark_350((IDENTITY, np.zeros(3)), chains="A, B", number=2)
    only_b = remark_350((IDENTITY, np.zeros(3)), chains="B", number=1)
    lines = [*domain_lines(), "TER", *two, "TER", "END"]
    assert set(read_assembly(file([*only_b, *other, *lines])).chain_id) == {"B"}
    assert set(read_assembly(file([*other, *lines])).chain_id) == {"A", "B"}
    assert set(read_assembly(file(lines)).chain_id) == {"A", "B"}


def test_many_copies_have_names_of_their_own_however_long(file):
    moves = [(IDENTITY, [30.0 * index, 0, 0]) for index in range(120)]
    lines = [line for line in domain_lines() if line[12:16] == " CA "]
    whole = read_assembly(file([*remark_350(*moves), *lines, "TER", "END"]))
    names, counts = np.unique(whole.chain_id, return_counts=True)
    assert len(names) == 120
    assert set(counts) == {len(lines)}
    assert "A-120" in names


def test_mmcif_written_of_a_pdb_file_gives_the_same(file):
    codes = ("MET", "SER", *domain_codes(), "HIS", "HIS")
    ligands = [
        hetatm("ZN", "ZN", 101, (1, 2, 3)),
        hetatm(" O", "HOH", 201, (4, 5, 6)),
    ]
    path = file([*DIMER, *seqres(codes), *domain_lines(), "TER", *ligands, "END"])
    structure = gemmi.read_pdb(str(path))
    structure.setup_entities()
    structure.assign_label_seq_id()
    cif = path.with_suffix(".cif")
    structure.make_mmcif_document().write_file(str(cif))
    of_pdb, of_cif = read_assembly(path), read_assembly(cif)
    by_place = [np.lexsort(np.round(atoms.coord, 3).T) for atoms in (of_pdb, of_cif)]
    assert_same(of_pdb[by_place[0]], of_cif[by_place[1]], [name for name in FIELDS if name != "chain_id"])
    assert sorted(set(of_pdb.chain_id)) == ["A", "A-2"]
    assert len(set(of_cif.chain_id)) == 4
    # Residues have their numbers in the whole sequence, which begins with two that nobody saw.
    assert of_pdb.res_id[0] == 3
    assert sorted(of_pdb.element[of_pdb.hetero]) == ["ZN", "ZN"]
    assert compared(of_pdb, of_cif).lddt_all == pytest.approx(1, abs=1e-6)


def test_mmcif_without_entities_is_sorted_out(file, tmp_path):
    # As biotite writes it: every chain has one label, whatever is in it.
    lines = [*domain_lines(), "TER", hetatm("ZN", "ZN", 101, (1, 2, 3)), hetatm(" O", "HOH", 201, (4, 5, 6))]
    atoms = read_assembly(file([*lines, "END"]))
    written = pdbx.CIFFile()
    pdbx.set_structure(written, atoms)
    written.write(tmp_path / "biotite.cif")
    assembly = open_assembly(tmp_path / "biotite.cif")
    assert [chain.is_polymer for chain in assembly.chains] == [True, False]
    assert_same(assembly.atoms(), atoms)


def test_alternatives_hydrogens_water_and_other_models_are_left_out(file):
    *first, last = domain_lines()
    twice = [f"{last[:16]}A{last[17:]}", f"{last[:16]}B{last[17:30]}{'   1.000   2.000   3.000'}{last[54:]}"]
    extra = [
        hetatm(" H", "HOH", 201, (0, 0, 0)),
        hetatm(" O", "HOH", 201, (0, 0, 1)),
        hetatm(" O", "DOD", 202, (9, 0, 1)),
        hetatm("ZN", "ZN", 203, (0, 0, 9), alternative="A"),
        hetatm("MG", "MG", 203, (0, 0, 9), alternative="B"),
    ]
    hydrogen = f"{last[:12]} HA {last[16:]}"
    model = [*first, *twice, hydrogen, "TER", *extra, "ENDMDL"]
    lines = ["MODEL        1", *model, "MODEL        2", *model, "END"]
    found = read_assembly(file(lines))
    assert found.res_name[-1] == "ZN"
    assert_same(found[:-1], read_structure(TRUTH / "1igdA00.pdb.gz"))


def test_of_two_residues_at_one_place_the_first_is_read(file):
    lines = list(domain_lines())
    number = lines[200][22:26]
    place = [index for index, line in enumerate(lines) if line[22:26] == number]
    block = lines[place[0] : place[-1] + 1]
    either = [
        f"{line[:16]}{letter}{code}{line[20:]}"
        for letter, code in (("A", block[0][17:20]), ("B", "GLY"))
        for line in block
    ]
    mixed = [*lines[: place[0]], *either, *lines[place[-1] + 1 :]]
    assert_same(read_assembly(file([*mixed, "TER", "END"])), read_structure(TRUTH / "1igdA00.pdb.gz"))


@pytest.mark.parametrize("name", ["x.pdb", "x.ENT", "x.Pdb.GZ", "x.ent.gz"])
def test_suffixes_in_any_case(file, name):
    content = ("\n".join([*domain_lines(), "END"]) + "\n").encode()
    path = file(gzip.compress(content) if name.lower().endswith(".gz") else content, name)
    assert is_structure(path)
    assert_same(read_assembly(path), read_structure(TRUTH / "1igdA00.pdb.gz"))


def test_names_of_structures():
    names = {
        "a.cif": True,
        "a.mmCIF.gz": True,
        "a.b.ent": True,
        "a.json": False,
        "cif": False,
        "a.gz": False,
    }
    assert {name: is_structure(TRUTH / name) for name in names} == names


# What is no structure

PDB = ("\n".join([*domain_lines(), "END"]) + "\n").encode()
ATOM_SITE = "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_seq_id"
COLUMNS = "\n".join(f"_atom_site.{name}" for name in [*ATOM_SITE.split(), "Cartn_x", "Cartn_y", "Cartn_z"])


def cif_of(x):
    rows = "\n".join(f"ATOM {i} C CA . GLY A {i} {x} {i}.0 0.5" for i in range(1, 6))
    return f"data_x\nloop_\n{COLUMNS}\n{rows}\n".encode()


def many_chains():
    moves = [(IDENTITY, [30.0 * index, 0, 0]) for index in range(301)]
    return ("\n".join([*remark_350(*moves), *domain_lines(), "TER", "END"]) + "\n").encode()


BROKEN = {
    "cut gzip": ("x.pdb.gz", gzip.compress(PDB)[:-20], "expected a complete gzip file"),
    "damaged gzip": ("x.pdb.gz", gzip.compress(PDB)[:60] + b"x" * 4000, "expected a complete gzip file"),
    "no gzip": ("x.cif.gz", PDB, "expected a complete gzip file"),
    "not text": ("x.pdb", b"ATOM\xff\xfe", "expected text, but byte 4 is none"),
    "empty PDB": ("x.pdb", b"", "expected a structure, found no atoms"),
    "empty mmCIF": ("x.cif", b"", "expected a structure"),
    "words": ("x.ent", b"hello there\n", "expected a structure"),
    "words as mmCIF": ("x.cif", b"hello there\n", "expected a structure in the format .cif: line 1: "),
    "HTML": ("x.cif", b"<html>\nnot found\n</html>\n", "expected a structure in the format .cif"),
    "PDB as mmCIF": ("x.cif", PDB, "expected a structure in the format .cif"),
    "mmCIF as PDB": ("x.pdb", cif_of("1.0"), "expected "),
    "component": (
        "x.cif",
        b"data_ALA\n_chem_comp.id ALA\n_chem_comp.type x\n",
        "found definitions of chemical components",
    ),
    "reflections": ("x.cif", b"data_x\nloop_\n_refln.index_h\n_refln.F_meas\n1 2\n", "found reflections"),
    "no atoms": ("x.cif", b"data_x\n_entry.id x\n", "expected a structure, found no atoms"),
    "header alone": ("x.pdb", b"HEADER    X\nEND\n", "expected a structure, found no atoms"),
    "no polymer": (
        "x.pdb",
        (hetatm("ZN", "ZN", 1, (1, 2, 3)) + "\nEND\n").encode(),
        "expected a structure with a protein or nucleic acid, found none",
    ),
    "nan in mmCIF": ("x.cif", cif_of("nan"), "expected finite coordinates"),
    "unknown in mmCIF": ("x.cif", cif_of("?"), "expected finite coordinates"),
    "nan in PDB": (
        "x.pdb",
        PDB[:30] + b"     nan" + PDB[38:],
        "'nan' in line 1",
    ),
    "words for a coordinate": ("x.pdb", PDB[:30] + b"  left  " + PDB[38:], "'left' in line 1"),
    "cut line": ("x.pdb", PDB[:40], "expected finite coordinates"),
    "far away": ("x.cif", cif_of("1e39"), "expected finite coordinates"),
    "capsid": ("x.pdb", many_chains(), "expected an assembly of at most 300 chains, found one of 301"),
}


@pytest.mark.parametrize(("name", "content", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_structure_is_refused_in_one_line(file, name, content, message):
    path = file(content, name)
    with pytest.raises(InputError) as caught:
        read_assembly(path)
    assert str(caught.value).startswith(f"{path}: expected ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_well_formed_file_as_small_is_read(file):
    # So that what is refused above is refused for what the test says.
    assert len(read_assembly(file(cif_of("1.0"), "x.cif"))) == 5


def test_what_is_no_file_is_refused(tmp_path):
    for path, message in (
        (tmp_path / "none.cif", "no such file"),
        (tmp_path / "none.pdb.gz", "no such file"),
        (tmp_path, "found a folder"),
        (TRUTH.parent / "README.md", "found a name that ends otherwise"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read_assembly(path)
        assert str(caught.value).startswith(f"{path}: expected a structure (.cif, .mmcif, .pdb, .ent, ")


@pytest.mark.parametrize("keep", range(0, 100, 7))
def test_a_real_file_cut_anywhere_is_read_or_refused(file, keep):
    text = gzip.decompress(COMPLEX.read_bytes())
    path = file(text[: len(text) * keep // 100], "cut.cif")
    try:
        assert len(read_assembly(path))
    except InputError as error:
        assert str(error).startswith(f"{path}: expected ")


def mutated(content, random):
    """The same text with some letters changed, lost or repeated."""
    data = bytearray(content)
    for _ in range(random.choice([1, 3, 30])):
        here, there = random.randrange(len(data)), random.randrange(len(data))
        length = random.randrange(1, 60)
        match random.randrange(4):
            case 0:
                data[here] = random.randrange(32, 127)
            case 1:
                del data[here : here + length]
            case 2:
                data[here:here] = data[there : there + length]
            case 3:
                data[here : here + 1] = random.choice([b"?", b".", b"nan", b"\n", b"'", b"-1e30", b"9" * 12])
    return bytes(data)


def test_a_damaged_file_is_read_or_refused(file):
    cif = gzip.decompress(COMPLEX.read_bytes())
    start = cif.index(b"_atom_site.")
    sources = {"x.cif": cif[: cif.index(b"\n", start + 30_000) + 1], "x.pdb": PDB}
    random = Random(3)
    refused = 0
    for number in range(150):
        name = ("x.cif", "x.pdb")[number % 2]
        path = file(mutated(sources[name], random), name)
        try:
            assert np.isfinite(read_assembly(path).coord).all()
        except InputError as error:
            assert str(error).startswith(f"{path}: expected ")
            refused += 1
    assert 10 < refused < 140


@pytest.mark.parametrize(
    "category",
    [
        *("_struct_asym.", "_entity.", "_entity_poly.", "_entity_poly_seq.", "_pdbx_struct_assembly."),
        *("_pdbx_struct_assembly_gen.", "_pdbx_struct_oper_list.", "_cell.", "_chem_comp."),
    ],
)
def test_categories_that_other_programmes_do_not_write(file, category):
    document = gemmi.cif.read_string(gzip.decompress(COMPLEX.read_bytes()).decode())
    document[0].find_mmcif_category(category).erase()
    found = read_assembly(file(document.as_string().encode(), "less.cif"))
    expected = read_assembly(COMPLEX)
    # Without its sequence, residues have the numbers of the author.
    fields = [name for name in FIELDS if name not in ("res_id", "chain_id") or "entity" not in category]
    assert_same(found, expected, fields)
    assert compared(found, expected).lddt_all == pytest.approx(1, abs=1e-6)
