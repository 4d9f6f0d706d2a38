"""What a good input becomes: complete jobs in Protenix's form, and the remarks about them."""

import json
import subprocess
import sys

import pytest
from input_jobs import (
    PROTEIN,
    RNA,
    SECOND,
    bond,
    chain,
    dna,
    ion,
    job,
    ligand,
    load_job,
    modified,
    old_bond,
    rna,
    write_files,
    write_jobs,
)

from flashbias_fold.inputs import load_inputs


@pytest.fixture
def folder(tmp_path):
    write_files(tmp_path)
    return tmp_path


def without_alignment(number):
    return (
        f"sequences[{number}].proteinChain: no alignment for this protein chain: "
        "predicted from its sequence alone"
    )


def test_a_list_of_jobs_and_one_job(tmp_path, components):
    path = write_jobs(tmp_path, job(name="one"), job(chain(count=2), ligand(), name="Test Job 2"))
    one, two = load_inputs(path, components).jobs
    assert (one.name, one.n_token, one.n_atom, one.n_chain, one.seeds) == ("one", 8, 70, 1, ())
    assert (two.name, two.n_token, two.n_atom, two.n_chain, two.source) == ("Test Job 2", 47, 171, 3, path)
    assert one.warnings == (without_alignment(0),)
    path.write_text(json.dumps(job(name="one")))
    assert load_inputs(path, components).jobs == (one,)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_inputs(path, components).jobs == (one,)


def test_the_document_is_complete(tmp_path, components):
    document = {
        "name": " spaces ",
        "modelSeeds": ["7", 8, 7],
        "sequences": [
            {"proteinChain": {"sequence": " mkt\nAYC ", "id": "H"}},
            {"dnaSequence": {"sequence": "ACGT", "id": ["D", "E"], "modifications": []}},
            {"ligand": {"ligand": "CCD_ATP", "count": None}},
        ],
        "covalent_bonds": [],
        "constraint": None,
    }
    loaded = load_job(tmp_path, document, components)
    assert loaded.document == {
        "name": "spaces",
        "modelSeeds": [7, 8],
        "sequences": [
            {"proteinChain": {"sequence": "MKTAYC", "count": 1, "id": ["H"]}},
            {"dnaSequence": {"sequence": "ACGT", "count": 2, "id": ["D", "E"]}},
            {"ligand": {"ligand": "CCD_ATP", "count": 1}},
        ],
    }
    assert (loaded.seeds, loaded.n_chain) == ((7, 8), 4)
    assert loaded.warnings == (
        "name: spaces at the ends of the name are dropped",
        "modelSeeds: a seed that is given twice is used once",
        "sequences[0].proteinChain.sequence: lower-case letters are read as upper case",
        without_alignment(0),
    )


def test_every_letter_of_protenix(tmp_path, components):
    from protenix.data.inference.json_parser import DNA_1to3, PROTEIN_1to3, RNA_1to3

    from flashbias_fold.inputs.sequences import COMPONENTS

    theirs = {"proteinChain": PROTEIN_1to3, "dnaSequence": DNA_1to3, "rnaSequence": RNA_1to3}
    assert theirs == COMPONENTS
    everything = [chain("".join(PROTEIN_1to3)), dna("".join(DNA_1to3)), rna("".join(RNA_1to3))]
    assert load_job(tmp_path, job(*everything), components).n_chain == 3


def test_every_standard_residue_of_protenix():
    from protenix.data.constants import STD_RESIDUES

    from flashbias_fold.inputs.residues import _STANDARD

    assert {*STD_RESIDUES, "MSE"} == _STANDARD


def test_alignments_beside_the_json_and_in_the_working_directory(folder, components, monkeypatch):
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    document = job(
        chain(pairedMsaPath="old/pairing.a3m", unpairedMsaPath="good.a3m", templatesPath="hits.hhr"),
        chain(SECOND, unpairedMsaPath=str(folder / "second.a3m"), templatesPath="second.a3m"),
        rna(unpairedMsaPath="rna.a3m"),
    )
    expected = [
        {
            "pairedMsaPath": str(folder / "old" / "pairing.a3m"),
            "unpairedMsaPath": str(folder / "good.a3m"),
            "templatesPath": str(folder / "hits.hhr"),
        },
        {"unpairedMsaPath": str(folder / "second.a3m"), "templatesPath": str(folder / "second.a3m")},
        {"unpairedMsaPath": str(folder / "rna.a3m")},
    ]

    def paths(loaded):
        return [
            {field: value for field, value in next(iter(entity.values())).items() if field.endswith("Path")}
            for entity in loaded.document["sequences"]
        ]

    beside = load_job(folder, document, components)
    assert (paths(beside), beside.warnings) == (expected, ())
    monkeypatch.chdir(folder)
    assert paths(load_job(elsewhere, document, components)) == expected


def test_a_working_directory_that_is_gone(folder, components, monkeypatch):
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert load_job(folder, job(chain(unpairedMsaPath="good.a3m")), components).warnings == ()


def test_alignments_as_text(folder, components):
    text = f"# comment\n\n>query\n{PROTEIN}\n>hit\nMKT--.CNW\n>wrapped\nMKTA\nYCNW\n\0"
    document = job(
        chain(pairedMsa=text, pairedMsaPath="no such file"),
        chain(SECOND, unpairedMsa=""),
        rna(unpairedMsa=f">query\n{RNA}"),
        # What was crystallised and what is predicted may differ where either is unknown.
        chain("MXT", unpairedMsa=">query\nMKX\n"),
    )
    loaded = load_job(folder, document, components)
    first, second, third, fourth = (next(iter(entity.values())) for entity in loaded.document["sequences"])
    assert first == {"sequence": PROTEIN, "count": 1, "pairedMsa": text.strip()}
    assert second == {"sequence": SECOND, "count": 1, "unpairedMsa": ""}
    assert third["unpairedMsa"] == f">query\n{RNA}"
    assert fourth["unpairedMsa"] == ">query\nMKX"
    assert loaded.warnings == ("sequences[0].proteinChain: pairedMsaPath is ignored, as pairedMsa is given",)


def test_the_old_form_of_alignments(folder, components):
    old = {"precomputed_msa_dir": "old", "pairing_db": "uniref100"}
    document = job(chain(msa=old), chain(msa={}), chain(msa=None), chain(msa=old, unpairedMsaPath="good.a3m"))
    loaded = load_job(folder, document, components)
    first, second, third, fourth = (entity["proteinChain"] for entity in loaded.document["sequences"])
    assert first["pairedMsaPath"] == str(folder / "old" / "pairing.a3m")
    assert first["unpairedMsaPath"] == str(folder / "old" / "non_pairing.a3m")
    assert second == third == {"sequence": PROTEIN, "count": 1}
    assert fourth["unpairedMsaPath"] == str(folder / "good.a3m")
    assert not any("msa" in chain for chain in (first, second, third, fourth))
    assert loaded.warnings == (
        without_alignment(1),
        without_alignment(2),
        "sequences[3].proteinChain.msa: ignored, as the chain's alignments are given in the present form too",
    )


def test_an_empty_alignment_is_no_alignment(folder, components):
    loaded = load_job(folder, job(chain(unpairedMsaPath="empty.a3m")), components)
    assert loaded.warnings == (
        f"sequences[0].proteinChain.unpairedMsaPath: {folder}/empty.a3m is empty: nothing is taken from it",
    )


def test_modifications(tmp_path, components):
    caps = [{"ptmType": "CCD_ACE", "ptmPosition": 1}, {"ptmType": "CCD_NH2", "ptmPosition": 8}]
    bases = [
        {"modificationType": "CCD_6OG", "basePosition": 1},
        {"modificationType": "CCD_G", "basePosition": 2},
    ]
    document = job(chain(modifications=[*caps, *modified(4)["modifications"]]), dna(modifications=bases))
    loaded = load_job(tmp_path, document, components)
    protein, strand = (next(iter(entity.values())) for entity in loaded.document["sequences"])
    assert protein["modifications"] == [*caps, *modified(4)["modifications"]]
    assert strand["modifications"] == bases
    assert loaded.warnings[0] == (
        "sequences[0].proteinChain.modifications[1].ptmType: NH2 is no residue of protein: "
        "Protenix does not bond it to its neighbour"
    )


def test_ligands_of_every_kind(folder, components):
    document = job(
        ligand("CCD_NAG_BMA"),
        ligand("CC(=O)O ", count=2),
        ligand("[Na+].[Cl-]"),
        ligand("FILE_solid.sdf"),
        ligand("FILE_two.sdf"),
    )
    loaded = load_job(folder, document, components)
    texts = [entity["ligand"]["ligand"] for entity in loaded.document["sequences"]]
    assert texts == [
        "CCD_NAG_BMA",
        "CC(=O)O",
        "[Na+].[Cl-]",
        f"FILE_{folder}/solid.sdf",
        f"FILE_{folder}/two.sdf",
    ]
    assert loaded.n_token == loaded.n_atom == 15 + 12 + 2 * 4 + 2 + 11 + 11
    assert loaded.warnings == (
        f"sequences[4].ligand.ligand: only the first molecule of {folder}/two.sdf is used",
    )


def test_bonds_in_both_spellings(tmp_path, components):
    old = old_bond(("1", "7", "ND2"), (2, "1", "C1"), copy1=1, copy2="1")
    new = bond((1, 7, "ND2"), (2, 1, "C1"))
    expected = {key: int(value) if str(value).isdigit() else value for key, value in new.items()}
    document = job(chain(), ligand("CCD_NAG"), covalent_bonds=[old])
    assert load_job(tmp_path, document, components).document["covalent_bonds"] == [
        {**expected, "copy1": 1, "copy2": 1}
    ]
    document["covalent_bonds"] = [new, dict(new)]
    loaded = load_job(tmp_path, document, components)
    assert loaded.document["covalent_bonds"] == [expected]
    assert loaded.warnings[-1] == "covalent_bonds[1]: the same bond was given before"


def test_numbers_of_atoms_become_their_names(folder, components):
    document = job(
        chain(),
        ligand("CC(=O)[C:7]"),
        ligand("CC(=O)N"),
        ligand("FILE_solid.sdf"),
        covalent_bonds=[
            bond((1, 6, "SG"), (2, 1, 7)),
            bond((1, 6, "SG"), (3, 1, "3")),
            bond((1, 1, "SD"), (4, 1, 3)),
        ],
    )
    bonds = load_job(folder, document, components).document["covalent_bonds"]
    assert [bond["atom2"] for bond in bonds] == ["C3", "N1", "N1"]


def test_constraints(tmp_path, components):
    near = {"entity1": 1, "copy1": 1, "position1": 3, "entity2": 2, "copy2": "1", "position2": 1}
    pocket = {
        "binder_chain": {"entity": 2, "copy": 1},
        "contact_residues": [{"entity": 1, "copy": 1, "position": 8}],
        "max_distance": 6,
    }
    contacts = [
        {**near, "max_distance": 6},
        {**near, "atom1": "CA", "atom2": 1, "max_distance": 8, "min_distance": 2},
    ]
    document = job(chain(), ligand("CCO"), constraint={"contact": contacts, "pocket": pocket})
    constraint = load_job(tmp_path, document, components).document["constraint"]
    assert constraint["pocket"] == pocket
    whole = {**near, "copy2": 1}
    assert constraint["contact"] == [
        {**whole, "max_distance": 6, "min_distance": 0},
        {**whole, "atom1": "CA", "atom2": "C2", "max_distance": 8, "min_distance": 2},
    ]


def test_unknown_fields_that_change_no_molecule_are_named_and_dropped(tmp_path, components):
    document = job(
        chain(modification=[], glycans=[], templates=[{"mmcif": "x"}], Comment="mine", _note="mine"),
        dialect="protenix",
        version=1,
        assembly_id="1",
        covalent_bond=[],
    )
    loaded = load_job(tmp_path, document, components)
    assert loaded.document == job()
    assert loaded.warnings == (
        "unknown field 'covalent_bond' is ignored; did you mean 'covalent_bonds'?",
        "sequences[0].proteinChain: unknown field 'modification' is ignored; did you mean 'modifications'?",
        "sequences[0].proteinChain: unknown field 'glycans' is ignored",
        "sequences[0].proteinChain: unknown field 'templates' is ignored; did you mean 'templatesPath'?",
        without_alignment(0),
    )
    many = load_job(tmp_path, job(**{f"x{n}": n for n in range(9)}), components).warnings
    assert len(many) == 7
    assert "4 more unknown fields are ignored" in many


def test_fasta(tmp_path, components):
    path = tmp_path / "jobs.fa"
    path.write_text(
        ">sp|P1/2 a protein\nMKTA\nYC:gshm:MKTAYC\n"
        ">mixed\nprotein|MKT:DNA|ACGT:rna|ACGU:dna|ACGT\n"
        ">bad\nMZ\n>run.json\nM1\n"
    )
    loaded = load_inputs(path, components)
    first, second = loaded.jobs
    assert first.document == {"name": "sp_P1_2", "sequences": [chain("MKTAYC", 2), chain("GSHM")]}
    assert first.warnings == (
        "chain 2: lower-case letters are read as upper case",
        without_alignment(0),
        without_alignment(1),
    )
    assert second.document == {
        "name": "mixed",
        "sequences": [chain("MKT"), dna("ACGT", 2), rna("ACGU")],
    }
    assert (first.n_token, second.n_token) == (16, 15)
    assert [bad.name for bad in loaded.rejected] == ["bad", None]


def test_a_folder_is_read_by_name_and_not_into_its_folders(tmp_path, components):
    (tmp_path / "b.fasta").write_text(">from_fasta\nMKT\n")
    write_jobs(tmp_path, job(name="from_json"), name="a.json")
    (tmp_path / "readme.txt").write_text("not an input")
    (tmp_path / ".hidden.json").write_text("not an input")
    (tmp_path / "inner").mkdir()
    write_jobs(tmp_path / "inner", job(name="inner"))
    loaded = load_inputs(tmp_path, components)
    assert [good.name for good in loaded.jobs] == ["from_json", "from_fasta"]
    assert not loaded.rejected


def test_a_complex_with_everything(folder, components):
    """The shape of the benchmark's entries: several chains in copies, alignments, ligands and ions."""
    document = job(
        chain(PROTEIN, 2, pairedMsaPath="old/pairing.a3m", unpairedMsaPath="good.a3m"),
        chain(SECOND, 2, unpairedMsaPath="second.a3m"),
        ligand("CCD_ATP"),
        ion("MG", 3),
        name="7wux",
    )
    loaded = load_job(folder, document, components)
    assert (loaded.n_token, loaded.n_chain, loaded.warnings) == (2 * 8 + 2 * 8 + 31 + 3, 8, ())


def test_importing_is_cheap():
    code = (
        "import sys; import flashbias_fold.inputs; "
        "print({'torch', 'rdkit', 'Bio', 'biotite', 'numpy', 'protenix'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
