"""Everything that can be wrong with an input gives one line that says where, and what was expected."""

import json
import os
import unicodedata

import pytest
from input_jobs import (
    PROTEIN,
    bond,
    chain,
    dna,
    ion,
    job,
    ligand,
    modified,
    old_bond,
    rna,
    write_files,
    write_jobs,
)

from flashbias_fold.campaign import run as campaign
from flashbias_fold.compare import run as compare
from flashbias_fold.errors import InputError
from flashbias_fold.inputs import load_inputs
from flashbias_fold.predict.folder import RUN, SUMMARY

P = "sequences[0].proteinChain"
L = "sequences[0].ligand"
B = "covalent_bonds[0]"
C = "constraint.contact[0]"
CONTACT = {
    "entity1": 1,
    "copy1": 1,
    "position1": 1,
    "entity2": 2,
    "copy2": 1,
    "position2": 1,
    "max_distance": 6,
}
POCKET = {
    "binder_chain": {"entity": 2, "copy": 1},
    "contact_residues": [{"entity": 1, "copy": 1, "position": 2}],
    "max_distance": 6,
}


def bonded(*arguments, **fields):
    return job(chain(), ligand("CCD_NAG"), covalent_bonds=[bond(*arguments, **fields)])


def constrained(**fields):
    return job(chain(), chain("GSHM"), constraint={"contact": [{**CONTACT, **fields}]})


def pocketed(**fields):
    return job(chain(), ligand(), constraint={"pocket": {**POCKET, **fields}})


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


# what is wrong -> the job, the field that the message names, words of what was expected
BAD_JOBS = {
    # the job itself
    "name missing": (
        {"nmae": "bad", "sequences": [chain()]},
        "name",
        "missing; expected the job's name (found 'nmae'",
    ),
    "name empty": (job(name=""), "name", "expected the job's name, a string, found an empty string"),
    "name blank": (job(name="  "), "name", "expected the job's name"),
    "name a number": (job(name=7), "name", "a string, found 7"),
    "name climbs": (job(name="../bad"), "name", "without '/'"),
    "name absolute": (job(name="/bad"), "name", "without '/'"),
    "name with a backslash": (job(name="a\\b"), "name", "without '/' and '\\'"),
    "name is the folder": (job(name="."), "name", "does not begin with '-' or '.'"),
    "name is the parent": (job(name=".."), "name", "does not begin with '-' or '.'"),
    "name hidden": (job(name=".bad"), "name", "does not begin with '-' or '.'"),
    "name an option": (job(name="-bad"), "name", "does not begin with '-' or '.'"),
    "name with NUL": (job(name="a\0b"), "name", "without control characters"),
    "name with an escape": (job(name="a\x1b[31mb"), "name", "without control characters"),
    "name of two lines": (job(name="a\nb"), "name", "without control characters"),
    "name too long": (job(name="ä" * 101), "name", "at most 200 bytes"),
    "name reserved": (job(name="Run.json"), "name", "not one of the output's own files"),
    "name half a character": (job(name="a\ud800"), "name", "unpaired surrogate"),
    "sequences missing": ({"name": "bad"}, "sequences", "missing; expected a list of entities"),
    "sequences empty": (
        {"name": "bad", "sequences": []},
        "sequences",
        "list of entities, found an empty list",
    ),
    "sequences an object": (
        {"name": "bad", "sequences": chain()},
        "sequences",
        "list of entities, found an object",
    ),
    "seeds not a list": (job(modelSeeds=3), "modelSeeds", "list of seeds, found 3"),
    "seed a fraction": (job(modelSeeds=[1, 1.5]), "modelSeeds[1]", "integer from 0 to 4294967295, found 1.5"),
    "seed negative": (job(modelSeeds=[-1]), "modelSeeds[0]", "integer from 0 to 4294967295, found -1"),
    "seed too large": (job(modelSeeds=[2**32]), "modelSeeds[0]", "integer from 0 to 4294967295"),
    "seed true": (job(modelSeeds=[True]), "modelSeeds[0]", "found true"),
    "nested deeply": (job(version=nested(100)), None, "nested more than 32 levels deep"),
    "infinite": (job(version={"a": [1e999]}), "version.a[0]", "finite number, found inf"),
    "not a number": (job(version=float("nan")), "version", "finite number, found nan"),
    # entities
    "entity not an object": (job("MKT"), "sequences[0]", "expected an object, found 'MKT'"),
    "entity empty": (job({}), "sequences[0]", "expected exactly one of proteinChain"),
    "entity twofold": (job({**chain(), **ion()}), "sequences[0]", "exactly one of proteinChain"),
    "entity of AlphaFold 3": (
        job({"protein": {}}),
        "sequences[0]",
        "found 'protein'; did you mean 'proteinChain'?",
    ),
    "entity misspelled": (job({"ligands": {}}), "sequences[0]", "found 'ligands'; did you mean 'ligand'?"),
    "entity unlike any": (job({"water": {}}), "sequences[0]", "expected one of proteinChain, dnaSequence"),
    "entity without fields": (job({"proteinChain": "MKT"}), P, "expected an object, found 'MKT'"),
    "only an ion": (job(ion()), "sequences", "at least one chain or ligand of more than one atom"),
    "sequence misspelled": (
        job({"proteinChain": {"seqence": "MKT", "count": 1}}),
        f"{P}.sequence",
        "missing; expected a protein sequence (found 'seqence' instead)",
    ),
    "sequence empty": (job(chain("")), f"{P}.sequence", "a protein sequence, found an empty string"),
    "sequence a list": (job(chain(["M"])), f"{P}.sequence", "a protein sequence, found a list"),
    "protein letter": (job(chain("MKB")), f"{P}.sequence", "(ACDEFGHIKLMNPQRSTVWXY), found 'B' at 3"),
    "protein letter of no alphabet": (job(chain("MKß")), f"{P}.sequence", "found 'ß' at 3"),
    "protein with a stop": (job(chain("MK*")), f"{P}.sequence", "found '*' at 3"),
    "DNA letter": (
        job(dna("ACGE")),
        "sequences[0].dnaSequence.sequence",
        "DNA letters (ACGINTUX), found 'E' at 4",
    ),
    "RNA letter": (
        job(rna("ACT")),
        "sequences[0].rnaSequence.sequence",
        "RNA letters (ACGINUX), found 'T' at 3",
    ),
    "count zero": (job(chain(count=0)), f"{P}.count", "integer from 1 to 10000, found 0"),
    "count negative": (job(chain(count=-2)), f"{P}.count", "found -2"),
    "count true": (job(chain(count=True)), f"{P}.count", "integer from 1 to 10000, found true"),
    "count a fraction": (job(chain(count=1.0)), f"{P}.count", "found 1.0"),
    "count a string": (job(chain(count="2")), f"{P}.count", "found '2'"),
    "count absurd": (job(chain(count=10**9)), f"{P}.count", "integer from 1 to 10000"),
    "chain names a number": (job(chain(id=5)), f"{P}.id", "list of chain names, found 5"),
    "chain name with a space": (
        job(chain(id=["A B"])),
        f"{P}.id[0]",
        "1 to 16 letters and digits, found 'A B'",
    ),
    "chain name with a quote": (job(chain(id=["A'"])), f"{P}.id[0]", "letters and digits"),
    "chain name a number": (job(chain(id=[1])), f"{P}.id[0]", "letters and digits, found 1"),
    "chain name too long": (job(chain(id=["A" * 17])), f"{P}.id[0]", "1 to 16 letters"),
    "chain names too few": (
        job(chain(count=2, id=["A"])),
        f"{P}.id",
        "as many chain names as copies (2), found 1",
    ),
    "chain name twice": (job(chain(count=2, id=["A", "A"])), f"{P}.id[1]", "once in a job, found 'A' again"),
    "chain name of another": (
        job(chain(id=["A"]), ion(id=["A"])),
        "sequences[1].ion.id[0]",
        "each chain name once in a job",
    ),
    # modifications
    "modifications an object": (
        job(chain(modifications={"a": 1})),
        f"{P}.modifications",
        "list of modifications",
    ),
    "modification outside": (
        job(chain(**modified(9))),
        f"{P}.modifications[0].ptmPosition",
        "integer from 1 to 8, found 9",
    ),
    "modification at a string": (
        job(chain(**modified("1"))),
        f"{P}.modifications[0].ptmPosition",
        "integer from 1 to 8",
    ),
    "modification nowhere": (
        job(chain(modifications=[{"ptmType": "CCD_SEP"}])),
        f"{P}.modifications[0].ptmPosition",
        "missing; expected the position",
    ),
    "modification without prefix": (
        job(chain(**modified(1, "SEP"))),
        f"{P}.modifications[0].ptmType",
        "such as CCD_SEP, found 'SEP'",
    ),
    "modification unknown": (
        job(chain(**modified(1, "CCD_ZZZZZ"))),
        f"{P}.modifications[0].ptmType",
        "code of a chemical component, found 'ZZZZZ'",
    ),
    "modification in lower case": (
        job(chain(**modified(1, "CCD_sep"))),
        f"{P}.modifications[0].ptmType",
        "found 'sep'; did you mean SEP?",
    ),
    "modification of DNA in protein": (
        job(chain(**modified(2, "CCD_6OG"))),
        f"{P}.modifications[0].ptmType",
        "part of protein, but 6OG is a dna one",
    ),
    "cap inside a chain": (
        job(chain(**modified(4, "CCD_ACE"))),
        f"{P}.modifications[0].ptmType",
        "part of protein, but ACE is a ligand one",
    ),
    "modification of protein in DNA": (
        job(dna(modifications=[{"modificationType": "CCD_SEP", "basePosition": 1}])),
        "sequences[0].dnaSequence.modifications[0].modificationType",
        "part of DNA, but SEP is a protein one",
    ),
    "modification twice": (
        job(chain(modifications=[*modified(2)["modifications"], *modified(2)["modifications"]])),
        f"{P}.modifications[1].ptmPosition",
        "one modification of residue 2, found two",
    ),
    # fields that nobody reads, and without which another molecule would be predicted
    "modifications misspelled": (
        job(chain(modification=modified()["modifications"])),
        P,
        "unknown field 'modification': another molecule would be predicted without it; "
        "did you mean 'modifications'?",
    ),
    "glycans": (
        job(chain(glycans=[{"residues": "NAG", "position": 2}])),
        P,
        "unknown field 'glycans': another molecule would be predicted without it; give glycans as ligands",
    ),
    "AlphaFold 3's bonds": (
        job(bondedAtomPairs=[[["A", 1, "CA"], ["B", 1, "C1"]]]),
        None,
        "unknown field 'bondedAtomPairs': another molecule would be predicted without it; "
        "give bonds as covalent_bonds",
    ),
    "AlphaFold 3's components": (job(userCCD="data_X"), None, "give the molecule as a ligand"),
    "bonds misspelled": (
        job(chain(), chain(), covalent_bond=[bond((1, 1, "N"), (2, 8, "C"))]),
        None,
        "did you mean 'covalent_bonds'?",
    ),
    "an unknown field of a ligand": (job(ligand(smiles="CCO")), L, "unknown field 'smiles'"),
    "an unknown field of an ion": (
        job(chain(), ion(charge=2)),
        "sequences[1].ion",
        "unknown field 'charge': another molecule would be predicted without it; expected some of ion, count",
    ),
    "an unknown field of a modification": (
        job(chain(modifications=[{**modified()["modifications"][0], "copy": 2}])),
        f"{P}.modifications[0]",
        "unknown field 'copy'",
    ),
    "an unknown field of a bond": (
        job(chain(), chain(), covalent_bonds=[bond((1, 1, "N"), (2, 8, "C"), copy_1=1)]),
        "covalent_bonds[0]",
        "unknown field 'copy_1': another molecule would be predicted without it; did you mean 'copy1'?",
    ),
    # alignments and templates
    "alignment missing": (
        job(chain(unpairedMsaPath="no.a3m")),
        f"{P}.unpairedMsaPath",
        "found no 'no.a3m' (looked in",
    ),
    "alignment a folder": (job(chain(pairedMsaPath="old")), f"{P}.pairedMsaPath", "expected a file, but"),
    "alignment a loop": (job(chain(pairedMsaPath="loop.a3m")), f"{P}.pairedMsaPath", "existing file"),
    "alignment a number": (job(chain(pairedMsaPath=3)), f"{P}.pairedMsaPath", "path of an a3m file, found 3"),
    "alignment with NUL": (job(chain(pairedMsaPath="a\0")), f"{P}.pairedMsaPath", "existing file"),
    "alignment name too long": (job(chain(pairedMsaPath="a" * 5000)), f"{P}.pairedMsaPath", "existing file"),
    "alignment of another": (
        job(chain(unpairedMsaPath="second.a3m")),
        f"{P}.unpairedMsaPath",
        "expected the chain's own sequence (8 residues), found 'G' where the chain has 'M1'",
    ),
    "alignment too short": (
        job(chain(PROTEIN + "A", unpairedMsaPath="good.a3m")),
        f"{P}.unpairedMsaPath",
        "row 1 ('query'): expected the chain's own sequence (9 residues), found 8",
    ),
    "alignment ragged": (
        job(chain(unpairedMsaPath="ragged.a3m")),
        f"{P}.unpairedMsaPath",
        "row 2 ('short'): expected 8 aligned columns, found 6",
    ),
    "alignment letters": (
        job(chain(pairedMsaPath="letters.a3m")),
        f"{P}.pairedMsaPath",
        "letters, '-' and '.', found '*'",
    ),
    "alignment a table": (
        job(chain(pairedMsaPath="table.txt")),
        f"{P}.pairedMsaPath",
        "a3m or FASTA, but line 1",
    ),
    "alignment with a mark": (
        job(chain(pairedMsaPath="marked.a3m")),
        f"{P}.pairedMsaPath",
        "a3m or FASTA, but line 1",
    ),
    "alignment binary": (
        job(chain(pairedMsaPath="binary.a3m")),
        f"{P}.pairedMsaPath",
        "text in UTF-8, but byte 1",
    ),
    "alignment text": (
        job(chain(unpairedMsa="MKT")),
        f"{P}.unpairedMsa",
        "expected a3m or FASTA, but line 1",
    ),
    "alignment text a list": (
        job(chain(unpairedMsa=["M"])),
        f"{P}.unpairedMsa",
        "alignment in a3m format, found a list",
    ),
    "alignment of RNA": (
        job(rna("ACGU", unpairedMsa=">q\nACGT\n")),
        "sequences[0].rnaSequence.unpairedMsa",
        "found 'T' where the chain has 'U4'",
    ),
    "old alignment folder missing": (
        job(chain(msa={"precomputed_msa_dir": "none"})),
        f"{P}.msa.precomputed_msa_dir",
        "found no 'none'",
    ),
    "old alignment folder empty": (
        job(chain(msa={"precomputed_msa_dir": "nothing"})),
        f"{P}.msa.precomputed_msa_dir",
        "expected pairing.a3m or non_pairing.a3m",
    ),
    "old alignment a string": (job(chain(msa="old")), f"{P}.msa", "expected an object, found 'old'"),
    "template of another kind": (job(chain(templatesPath="table.txt")), f"{P}.templatesPath", ".hhr or .a3m"),
    "template without hits": (
        job(chain(templatesPath="empty.a3m")),
        f"{P}.templatesPath",
        "result in a3m format",
    ),
    # ligands and ions
    "ligand missing": (job({"ligand": {"count": 1}}), f"{L}.ligand", "missing; expected CCD_ and a code"),
    "ligand empty": (job(ligand("")), f"{L}.ligand", "or a SMILES, found an empty string"),
    "ligand a number": (job(ligand(5)), f"{L}.ligand", "or a SMILES, found 5"),
    "ligand unknown": (
        job(ligand("CCD_ZZZZZ")),
        f"{L}.ligand",
        "code of a chemical component, found 'ZZZZZ'",
    ),
    "ligand lower case": (job(ligand("CCD_atp")), f"{L}.ligand", "did you mean ATP?"),
    "ligand without code": (
        job(ligand("CCD_")),
        f"{L}.ligand",
        "code of a chemical component, found an empty string",
    ),
    "ligand with a gap": (job(ligand("CCD_NAG__NAG")), f"{L}.ligand", "found an empty string"),
    "ligand without atoms": (
        job(ligand("CCD_UNL")),
        f"{L}.ligand",
        "atoms other than hydrogen, found UNL",
    ),
    "ligand without elements": (
        job(ligand("CCD_UNX")),
        f"{L}.ligand",
        "atoms other than hydrogen, found UNX",
    ),
    "SMILES broken": (job(ligand("C1CC(")), f"{L}.ligand", "a valid SMILES, found 'C1CC('"),
    "SMILES of hydrogen": (job(ligand("[H][H]")), f"{L}.ligand", "at least one atom other than hydrogen"),
    "SMILES with a placeholder": (job(ligand("CC*")), f"{L}.ligand", "atoms of known elements"),
    "SMILES endless": (job(ligand("C" * 6000)), f"{L}.ligand", "at most 5000 characters, found 6000"),
    "100 SMILES": (
        job(*[ligand("CCO")] * 100),
        "sequences",
        "at most 99 ligands given as SMILES or file, found 100",
    ),
    "ligand file missing": (job(ligand("FILE_no.sdf")), f"{L}.ligand", "found no 'no.sdf'"),
    "ligand file a folder": (job(ligand("FILE_old")), f"{L}.ligand", "expected a file"),
    "ligand file of another kind": (
        job(ligand("FILE_table.txt")),
        f"{L}.ligand",
        ".mol, .mol2, .pdb or .sdf",
    ),
    "ligand file broken": (job(ligand("FILE_broken.sdf")), f"{L}.ligand", "expected a molecule"),
    "ligand mol file broken": (job(ligand("FILE_broken.mol")), f"{L}.ligand", "expected a molecule"),
    "ligand file flat": (job(ligand("FILE_flat.sdf")), f"{L}.ligand", "three-dimensional coordinates"),
    "ion unknown": (job(chain(), ion("ZZZZZ")), "sequences[1].ion.ion", "chemical component, found 'ZZZZZ'"),
    "ion missing": (job(chain(), {"ion": {"count": 1}}), "sequences[1].ion.ion", "such as MG"),
    # bonds
    "bonds an object": (job(covalent_bonds={"a": 1}), "covalent_bonds", "list of bonds, found an object"),
    "bond a list": (job(covalent_bonds=[[1]]), B, "expected an object, found a list"),
    "bond without entity": (
        job(covalent_bonds=[{"entity2": 1}]),
        f"{B}.entity1",
        "missing; expected the number of an entity",
    ),
    "bond to no entity": (bonded((3, 1, "N"), (2, 1, "C1")), f"{B}.entity1", "integer from 1 to 2, found 3"),
    "bond to no residue": (
        bonded((1, 9, "N"), (2, 1, "C1")),
        f"{B}.position1",
        "integer from 1 to 8, found 9",
    ),
    "bond to no copy": (
        bonded((1, 7, "ND2"), (2, 1, "C1"), copy1=2, copy2=1),
        f"{B}.copy1",
        "from 1 to 1, found 2",
    ),
    "bond to no atom": (
        bonded((1, 7, "XX"), (2, 1, "C1")),
        f"{B}.atom1",
        "atoms N, CA, C, O, CB, CG, OD1, ND2, found 'XX'",
    ),
    "bond to hydrogen": (bonded((1, 7, "HD22"), (2, 1, "C1")), f"{B}.atom1", "expected one of the atoms"),
    "bond to an atom that left": (
        bonded((1, 7, "OXT"), (2, 1, "C1")),
        f"{B}.atom1",
        "expected one of the atoms",
    ),
    "bond to an atom's number": (
        bonded((1, 7, 3), (2, 1, "C1")),
        f"{B}.atom1",
        "found 3; numbers are for SMILES",
    ),
    "bond to a number outside": (
        job(chain(), ligand("CCO"), covalent_bonds=[bond((1, 6, "SG"), (2, 1, 3))]),
        f"{B}.atom2",
        "integer from 0 to 2, found 3",
    ),
    "bond to a hydrogen's number": (
        job(chain(), ligand("[2H]C([2H])O"), covalent_bonds=[bond((1, 6, "SG"), (2, 1, 2))]),
        f"{B}.atom2",
        "number of an atom other than hydrogen (1, 3), found 2",
    ),
    "bond of an atom with itself": (bonded((1, 6, "SG"), (1, 6, "SG")), B, "one of an atom with itself"),
    "bond of unequal counts": (
        job(chain(count=2), ligand("CCD_NAG"), covalent_bonds=[bond((1, 7, "ND2"), (2, 1, "C1"))]),
        B,
        "as many copies of both entities, found 2 and 1",
    ),
    "old bond to no atom": (
        job(covalent_bonds=[old_bond((1, 6, "SG"), (1, 1, "Q"))]),
        f"{B}.right_atom",
        "expected one of the atoms",
    ),
    # constraints
    "contact inside a chain": (constrained(entity2=1), C, "two different chains"),
    "contact without copy": (constrained(copy1=None), f"{C}.copy1", "integer from 1 to 1, found null"),
    "contact with no atom": (constrained(atom1="QQ"), f"{C}.atom1", "expected one of the atoms"),
    "contact too far": (constrained(max_distance=float("1e9")), f"{C}.max_distance", "distance in angstroms"),
    "contact inside out": (constrained(min_distance=7), f"{C}.max_distance", "at least 7, found 6"),
    "contact distance a string": (constrained(max_distance="6"), f"{C}.max_distance", "found '6'"),
    "pocket without chain": (
        pocketed(binder_chain=3),
        "constraint.pocket.binder_chain",
        "expected an object",
    ),
    "pocket empty": (pocketed(contact_residues=[]), "constraint.pocket.contact_residues", "list of residues"),
    "pocket in itself": (
        pocketed(contact_residues=[{"entity": 2, "copy": 1, "position": 1}]),
        "constraint.pocket.contact_residues[0]",
        "two different chains",
    ),
    "constraint a list": (job(constraint=[1]), "constraint", "expected an object"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    write_files(folder)
    return folder


def assert_one_line(error):
    text = str(error)
    assert text and "\n" not in text and text == text.strip()


@pytest.mark.parametrize(("document", "field", "expected"), BAD_JOBS.values(), ids=BAD_JOBS.keys())
def test_a_bad_job_is_rejected_with_file_job_field_and_what_was_expected(
    folder, components, document, field, expected
):
    path = write_jobs(folder, document, job(name="next"))
    loaded = load_inputs(path, components)
    assert [other.name for other in loaded.jobs] == ["next"]
    (rejected,) = loaded.rejected
    error = rejected.error
    assert_one_line(error)
    assert str(path) in str(error)
    assert (error.field, error.file) == (field, str(path))
    assert (field or "") in str(error)
    assert expected in str(error)
    name = document.get("name")
    if isinstance(name, str) and name.isalpha() and len(name) < 60:
        assert f"job '{name}'" in str(error)
        assert rejected.name == name
    else:
        assert "job '" in str(error)
        assert rejected.name is None


@pytest.mark.parametrize("document", [3, "bad", None, [job()]], ids=str)
def test_a_job_that_is_no_object_is_named_by_its_number(tmp_path, components, document):
    (rejected,) = load_inputs(write_jobs(tmp_path, job(name="first"), document), components).rejected
    assert "job '#2': expected an object, found" in str(rejected.error)
    assert rejected.name is None


BAD_FILES = {
    "not JSON": ('[{"name": "x",}]', "expected JSON, but line 1, column 15:"),
    "cut short": ('[\n{"name": ', "expected JSON, but line 2, column 10:"),
    "empty": ("", "expected JSON, but line 1, column 1:"),
    "not UTF-8": (b'[{"name": "\xff"}]', "expected text in UTF-8, but byte 11"),
    "a string": ('"job"', "list of jobs or one job object, found 'job'"),
    "a number": ("3", "list of jobs or one job object, found 3"),
    "null": ("null", "list of jobs or one job object, found null"),
    "no jobs": ("[]", "at least one job, found an empty list"),
    "nested without end": ("[" * 200_000, "nested too deeply"),
    "a number without end": (f'[{{"name": {"9" * 6000}}}]', "numbers of ordinary size"),
}


@pytest.mark.parametrize(("content", "expected"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_an_unreadable_file_is_an_error_alone_and_a_rejection_in_a_folder(
    tmp_path, components, content, expected
):
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        load_inputs(path, components)
    assert_one_line(caught.value)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)

    write_jobs(tmp_path, job(name="good"), name="b.json")
    loaded = load_inputs(tmp_path, components)
    assert [good.name for good in loaded.jobs] == ["good"]
    assert [(str(bad.error), bad.name) for bad in loaded.rejected] == [(str(caught.value), None)]


def test_a_repeated_field_is_found_where_it_stands(tmp_path, components):
    path = tmp_path / "jobs.json"
    path.write_text('[{"name": "x", "sequences": [{"ion": {"ion": "MG", "count": 1, "count": 2}}]}]')
    (rejected,) = load_inputs(path, components).rejected
    assert "job 'x': sequences[0].ion: expected each field once, found 'count' repeated" in str(
        rejected.error
    )


def test_paths_that_are_no_input(tmp_path, components):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "loop.json").symlink_to("loop.json")
    os.mkfifo(tmp_path / "pipe.json")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "folder.json").mkdir()
    (empty / ".hidden.json").write_text("[]")
    cases = {
        tmp_path / "none.json": "no such file",
        tmp_path / ("x" * 5000 + ".json"): "no such file",
        tmp_path
        / "notes.txt": "expected a .json file or FASTA (.fasta, .fa, .faa, .fas), found a name that ends",
        tmp_path / "loop.json": "no such file",
        tmp_path / "pipe.json": "no such file",
        empty: "expected a folder with a .json file or FASTA",
    }
    for path, expected in cases.items():
        with pytest.raises(InputError) as caught:
            load_inputs(path, components)
        assert_one_line(caught.value)
        assert str(path) in str(caught.value)
        assert expected in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read(tmp_path, components):
    secret = tmp_path / "secret.a3m"
    secret.write_text(f">q\n{PROTEIN}\n")
    secret.chmod(0)
    path = write_jobs(tmp_path, job(chain(pairedMsaPath="secret.a3m")))
    assert "not permitted" in str(load_inputs(path, components).rejected[0].error)
    path.chmod(0)
    with pytest.raises(InputError, match="readable file"):
        load_inputs(path, components)
    tmp_path.chmod(0)
    try:
        with pytest.raises(InputError, match="readable folder"):
            load_inputs(tmp_path, components)
    finally:
        tmp_path.chmod(0o700)


def test_the_first_job_of_a_name_keeps_it(tmp_path, components):
    write_jobs(tmp_path, job(name="One"), job(name="one"), job(chain("B"), name="ONE"), name="a.json")
    write_jobs(tmp_path, job(name="oNe"), job(name="two"), name="b.json")
    loaded = load_inputs(tmp_path, components)
    assert [good.name for good in loaded.jobs] == ["One", "two"]
    # Nothing about them may be written to the folder that is the first job's.
    assert [bad.name for bad in loaded.rejected] == [None, None, None]
    repeated = [str(bad.error) for bad in loaded.rejected if bad.error.field == "name"]
    assert len(repeated) == 2
    assert (
        "a.json: job 'one': name: expected a name of its own, found 'one' again (first in a.json)"
        in repeated[0]
    )
    assert "b.json: job 'oNe': name: expected a name of its own" in repeated[1]


def test_names_that_only_differ_in_how_a_letter_is_written_are_one(tmp_path, components):
    """A file system may keep them as one folder."""
    composed, apart = unicodedata.normalize("NFC", "müller"), unicodedata.normalize("NFD", "müller")
    assert composed != apart
    loaded = load_inputs(write_jobs(tmp_path, job(name=composed), job(name=apart)), components)
    assert [good.name for good in loaded.jobs] == [composed]
    assert "expected a name of its own" in str(loaded.rejected[0].error)


@pytest.mark.parametrize(
    "name", sorted({RUN, SUMMARY, compare.REPORT, compare.TABLE, compare.PAGE, campaign.PAGE})
)
def test_no_job_takes_the_place_of_a_file_in_the_output_folder(tmp_path, components, name):
    loaded = load_inputs(write_jobs(tmp_path, job(name=name)), components)
    assert "not one of the output's own files" in str(loaded.rejected[0].error)


BAD_FASTA = {
    "empty": ("", InputError, "expected FASTA, found no '>'"),
    "no header": ("MKT\n>a\nMKT\n", InputError, "expected FASTA, found no '>'"),
    "nameless": (">\nMKT\n", "job '#1'", "expected a name after '>'"),
    "no sequence": (">a\n>b\nMKT\n", "job 'a': chain 1", "a protein sequence, found an empty string"),
    "empty chain": (">a\nMKT:\n", "job 'a': chain 2", "a protein sequence, found an empty string"),
    "bad letter": (">a\nMKT:\nMJT\n", "job 'a': chain 2", "found 'J' at 2"),
    "bad DNA": (">a\ndna|ACGE\n", "job 'a': chain 1", "DNA letters (ACGINTUX), found 'E' at 4"),
    "bad prefix": (">a\nxna|ACG\n", "job 'a': chain 1", "one of 'protein|', 'dna|', 'rna|', found 'xna|'"),
    "foreign letter": (">a\nMKé\n", "job 'a': chain 1", "found 'é' at 3"),
}


@pytest.mark.parametrize(("content", "where", "expected"), BAD_FASTA.values(), ids=BAD_FASTA.keys())
def test_bad_fasta(tmp_path, components, content, where, expected):
    path = tmp_path / "jobs.fasta"
    path.write_text(content)
    if where is InputError:
        with pytest.raises(InputError) as caught:
            load_inputs(path, components)
        error, where = caught.value, ""
    else:
        error = load_inputs(path, components).rejected[0].error
    assert_one_line(error)
    assert str(path) in str(error)
    assert where in str(error)
    assert expected in str(error)


def test_a_component_that_protenix_cannot_bond(tmp_path, components):
    """Both have a leaving atom that hangs on two others."""
    documents = [
        job(chain(**modified(2, "CCD_7HA")), name="a"),
        job(chain(), ligand("CCD_C5P"), name="b", covalent_bonds=[bond((1, 6, "SG"), (2, 1, "P"))]),
        job(chain(), ligand("CCD_C5P"), name="c"),
    ]
    loaded = load_inputs(write_jobs(tmp_path, *documents), components)
    messages = [str(bad.error) for bad in loaded.rejected]
    assert "ptmType: expected a component that can be bonded, but Protenix cannot bond 7HA" in messages[0]
    assert "position2: expected a component that can be bonded, but Protenix cannot bond C5P" in messages[1]
    assert [good.name for good in loaded.jobs] == ["c"]


def test_json_is_refused_as_json(tmp_path, components):
    """Python's reader takes NaN; the message then names the field."""
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps([job(constraint={"pocket": {"max_distance": float("nan")}})]))
    (rejected,) = load_inputs(path, components).rejected
    assert "constraint.pocket.max_distance: expected a finite number, found nan" in str(rejected.error)
