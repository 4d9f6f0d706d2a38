"""The job of an experimental structure is the one that predicts its assembly, and says what it leaves out."""

import gzip
import json

import gemmi
import numpy as np
import pytest
from assemblies import TRUTH
from conftest import ROOT
from test_assembly import COMPLEX, DIMER, domain_codes, domain_lines, hetatm, seqres

from flashbias_fold.accuracy import protein_sequence, read_structure
from flashbias_fold.compare.assembly import read_assembly
from flashbias_fold.compare.from_structure import read_entry
from flashbias_fold.errors import InputError
from flashbias_fold.inputs.job import read_job
from flashbias_fold.inputs.place import Place

COMPLEXES = ROOT / "data" / "complexes"
SEQUENCE = "MTPAVTTYKLVINGKTLKGETTTKAVDAETAEKAFKQYANDNGVDGVWTYDDATKTFTVTE"
NO_ALIGNMENT = "no alignment for this protein chain"


@pytest.fixture
def file(tmp_path):
    def write(lines, name="made.pdb"):
        path = tmp_path / name
        path.write_text("\n".join([*lines, "END"]) + "\n")
        return path

    return write


@pytest.fixture
def cif_file(tmp_path):
    """Write the real complex as mmCIF after a change."""

    def write(change):
        structure = gemmi.read_structure(str(COMPLEX))
        change(structure)
        structure.make_mmcif_document().write_file(str(tmp_path / "changed.cif"))
        return tmp_path / "changed.cif"

    return write


def sequences(job):
    """The entities of a job as pairs of their kind and fields."""
    return [next(iter(entity.items())) for entity in job.document["sequences"]]


def notes(job):
    return [line for line in job.warnings if NO_ALIGNMENT not in line]


def ligands(job):
    return {fields["ligand"]: fields["count"] for kind, fields in sequences(job) if kind == "ligand"}


def with_residue(position, code, lines=None):
    """The domain's lines with one residue called otherwise."""
    renamed = []
    for line in lines or domain_lines():
        here = int(line[22:26]) == position
        renamed.append(f"HETATM{line[6:17]}{code:>3}{line[20:]}" if here else line)
    return renamed


def rename(structure, entity, position, code):
    """Give a residue of the complex another name, in its sequence and where it is resolved."""
    wanted = structure.entities[entity]
    names = list(wanted.full_sequence)
    names[position - 1] = code
    wanted.full_sequence = names
    for chain in structure[0]:
        for residue in chain:
            if residue.subchain in wanted.subchains and residue.label_seq == position:
                residue.name = code


# Real entries


@pytest.mark.parametrize("name", ["7r6r", "7wux"])
def test_the_job_of_a_real_complex_is_the_one_that_ships(components, name):
    structure, shipped = (COMPLEXES / name / f"{name}.{suffix}" for suffix in ("cif.gz", "json"))
    if not structure.is_file():
        pytest.skip(f"{name} is not among the data")
    job = read_entry(structure, components)
    (document,) = json.loads(shipped.read_text())
    for entity in document["sequences"]:
        for fields in entity.values():
            for extra in ("id", "pairedMsaPath", "unpairedMsaPath"):
                fields.pop(extra, None)
    assert job.document == document
    assert job.name == name
    assert job.source == structure
    assert notes(job) == {"7r6r": [], "7wux": ["left out: 1 PGE"]}[name]


def test_a_domain_without_its_sequence_is_predicted_as_resolved(components):
    for path in sorted(TRUTH.glob("*.pdb.gz"))[::9]:
        job = read_entry(path, components)
        alphas = read_structure(path)
        alphas = alphas[alphas.atom_name == "CA"]
        ((kind, fields),) = sequences(job)
        assert kind == "proteinChain"
        assert fields["sequence"] == str(protein_sequence(alphas))
        assert notes(job) == [
            f"the file has no sequence that fits, so what is resolved is predicted, of chain: "
            f"{alphas.chain_id[0]}"
        ]
        assert job.name == path.name.removesuffix(".pdb.gz")


# Polymers


def test_copies_and_residues_that_nobody_saw_are_predicted(components, file):
    codes = ("MET", "SER", *domain_codes(), "HIS", "HIS")
    path = file([*DIMER, *seqres(codes), *domain_lines(), "TER"])
    job = read_entry(path, components)
    assert sequences(job) == [("proteinChain", {"sequence": f"MS{SEQUENCE}HH", "count": 2})]
    assert notes(job) == []
    structure = gemmi.read_pdb(str(path))
    structure.setup_entities()
    structure.assign_label_seq_id()
    structure.make_mmcif_document().write_file(str(path.with_suffix(".cif")))
    assert read_entry(path.with_suffix(".cif"), components).document == job.document


def test_a_sequence_of_another_protein_is_not_believed(components, file):
    job = read_entry(file([*seqres(("TRP",) * 70), *domain_lines(), "TER"]), components)
    assert sequences(job) == [("proteinChain", {"sequence": SEQUENCE, "count": 1})]
    assert notes(job) == ["the file has no sequence that fits, so what is resolved is predicted, of chain: A"]


def test_modified_and_unknown_residues_of_a_protein(components, file):
    lines = with_residue(30, "UNK", with_residue(11, "SEP", with_residue(1, "MSE")))
    job = read_entry(file([*lines, "TER"]), components)
    ((_, fields),) = sequences(job)
    assert fields["sequence"] == "M" + SEQUENCE[1:10] + "S" + SEQUENCE[11:29] + "X" + SEQUENCE[30:]
    assert fields["modifications"] == [
        {"ptmType": "CCD_MSE", "ptmPosition": 1},
        {"ptmType": "CCD_SEP", "ptmPosition": 11},
    ]


def test_a_residue_that_is_no_amino_acid_is_said(components, file):
    codes = list(domain_codes())
    codes[19] = "GOL"
    codes = ["ACE", *codes, "NH2"]
    job = read_entry(file([*seqres(codes), *with_residue(20, "GOL"), "TER"]), components)
    ((_, fields),) = sequences(job)
    assert fields["sequence"] == "X" + SEQUENCE[:19] + "X" + SEQUENCE[20:]
    assert fields["modifications"] == [{"ptmType": "CCD_ACE", "ptmPosition": 1}]
    assert notes(job) == [
        "left out: 1 NH2",
        "modified residues that cannot be predicted as such: 1 GOL",
    ]


def test_two_chains_are_copies_only_with_the_same_modifications(components, file):
    other = [line[:21] + "B" + line[22:] for line in with_residue(11, "SEP")]
    third = [line[:21] + "C" + line[22:] for line in domain_lines()]
    job = read_entry(file([*domain_lines(), "TER", *other, "TER", *third, "TER"]), components)
    assert [fields["count"] for _, fields in sequences(job)] == [2, 1]


def test_modified_bases_and_chains_of_both_dna_and_rna(components, cif_file):
    def change(structure):
        rename(structure, 1, 4, "5CM")
        for position, code in ((1, "C"), (4, "G"), (6, "N")):
            rename(structure, 2, position, code)
        structure.entities[2].polymer_type = gemmi.PolymerType.DnaRnaHybrid

    job = read_entry(cif_file(change), components)
    _, (first, strand), (second, hybrid) = sequences(job)
    assert (first, second) == ("dnaSequence", "dnaSequence")
    assert strand["sequence"] == "TTTCGGTGGCTGTCAAGCGGG"
    assert strand["modifications"] == [{"modificationType": "CCD_5CM", "basePosition": 4}]
    assert hybrid["sequence"] == "CCCGCNTGACAGCCACCGAAA"
    assert hybrid["modifications"] == [
        {"modificationType": f"CCD_{code}", "basePosition": position}
        for position, code in ((1, "C"), (4, "G"), (6, "N"))
    ]
    assert notes(job) == ["both DNA and RNA, the rarer of the two as modifications, in chain: C"]


def test_rna(components, cif_file):
    bases = {"DA": "A", "DC": "C", "DG": "G", "DT": "U"}

    def change(structure):
        for position, code in enumerate(structure.entities[1].full_sequence, start=1):
            rename(structure, 1, position, bases[code])
        rename(structure, 1, 2, "5MU")
        structure.entities[1].polymer_type = gemmi.PolymerType.Rna

    _, (kind, fields), _ = sequences(read_entry(cif_file(change), components))
    assert (kind, fields["sequence"]) == ("rnaSequence", "UUUCGGUGGCUGUCAAGCGGG")
    assert fields["modifications"] == [{"modificationType": "CCD_5MU", "basePosition": 2}]


def test_polymers_that_nothing_predicts_are_left_out_or_refused(components, cif_file):
    def change_one(structure):
        structure.entities[2].polymer_type = gemmi.PolymerType.Pna

    def change_all(structure):
        for entity in structure.entities:
            entity.polymer_type = gemmi.PolymerType.Pna

    job = read_entry(cif_file(change_one), components)
    assert [kind for kind, _ in sequences(job)] == ["proteinChain", "dnaSequence"]
    assert notes(job) == ["left out: 1 chain that is neither protein nor DNA nor RNA"]
    with pytest.raises(InputError, match="expected a chain of protein, DNA or RNA, found none; left out: 3"):
        read_entry(cif_file(change_all), components)


def test_of_alternative_residues_the_first_is_predicted(components, cif_file):
    def change(structure):
        names = list(structure.entities[0].full_sequence)
        names[1] = "GLY,ALA"
        structure.entities[0].full_sequence = names

    expected = read_entry(COMPLEX, components).document["sequences"]
    assert read_entry(cif_file(change), components).document["sequences"] == expected


# Ligands


def test_ligands_and_ions_are_counted_in_the_assembly_and_additives_left_out(components, file):
    extra = [
        hetatm("ZN", "ZN", 101, (1, 2, 3)),
        hetatm("CL", "CL", 102, (1, 2, 9), element="CL"),
        hetatm(" C1", "GOL", 103, (1, 9, 3)),
        hetatm(" C1", "GOL", 104, (9, 9, 3)),
        hetatm(" S", "SO4", 105, (9, 2, 3)),
        hetatm(" C1", "UNL", 106, (9, 2, 30)),
        hetatm(" C1", "UNK", 107, (9, 2, 50)),
        hetatm(" X", "UNX", 108, (9, 2, 60)),
        hetatm("MN", "MN", 109, (9, 5, 60)),
        hetatm(" PG", "ATP", 110, (5, 5, 60)),
        hetatm(" C99", "NAD", 111, (5, 5, 70)),
        hetatm(" O", "HOH", 112, (5, 5, 80)),
    ]
    job = read_entry(file([*DIMER, *domain_lines(), "TER", *extra]), components)
    assert ligands(job) == {"CCD_ZN": 2, "CCD_CL": 2, "CCD_MN": 2, "CCD_ATP": 2}
    assert notes(job)[:2] == [
        "left out: 4 GOL, 2 SO4, 2 UNL, 2 UNK, 2 UNX",
        "left out, as the component of that name has other atoms: 2 NAD",
    ]


def link(first, second):
    """A LINK record between two atoms, each as its name, residue and number."""
    ends = [f"{name:4} {code:>3} A{number:4d} " for name, code, number in (first, second)]
    return f"LINK        {ends[0]}               {ends[1]}"


def test_sugars_that_are_bonded_to_each_other_are_left_out(components, file):
    sugars = [
        hetatm(" C1", "NAG", 101, (1, 2, 3)),
        hetatm(" C1", "NAG", 102, (1, 2, 9)),
        hetatm(" C1", "NAG", 103, (1, 9, 3)),
        hetatm(" C1", "GLC", 104, (1, 9, 30)),
    ]
    links = [
        link((" C1", "NAG", 101), (" C1", "NAG", 102)),
        link((" ND2", "ASN", 40), (" C1", "NAG", 103)),
    ]
    job = read_entry(file([*links, *domain_lines(), "TER", *sugars]), components)
    assert ligands(job) == {"CCD_NAG": 1, "CCD_GLC": 1}
    assert notes(job)[:2] == [
        "left out: 2 NAG of a branched sugar",
        "bonded to something else in the structure, but not in the job: 1 NAG",
    ]


def test_what_an_mmcif_file_calls_branched_is_left_out(components, cif_file):
    def change(structure):
        entity = gemmi.Entity("9")
        entity.entity_type = gemmi.EntityType.Branched
        entity.subchains = ["Z"]
        structure.entities.append(entity)
        chain = gemmi.Chain("Z")
        for number, code in enumerate(("NAG", "MAN"), start=1):
            residue = gemmi.Residue()
            residue.name, residue.seqid = code, gemmi.SeqId(number, " ")
            residue.subchain, residue.entity_id = "Z", "9"
            residue.entity_type, residue.het_flag = gemmi.EntityType.Branched, "H"
            atom = gemmi.Atom()
            atom.name, atom.element = "C1", gemmi.Element("C")
            atom.pos = gemmi.Position(number, 0, 0)
            residue.add_atom(atom)
            chain.add_residue(residue)
        structure[0].add_chain(chain)
        structure.assemblies.clear()

    job = read_entry(cif_file(change), components)
    assert len(sequences(job)) == 3
    assert notes(job) == ["left out: 1 NAG of a branched sugar, 1 MAN of a branched sugar"]


# What Protenix writes

PREDICTED = {
    "name": "predicted",
    "sequences": [
        {
            "proteinChain": {
                "sequence": "GASMKLVX",
                "count": 2,
                "modifications": [{"ptmType": "CCD_SEP", "ptmPosition": 3}],
            }
        },
        {
            "dnaSequence": {
                "sequence": "GATC",
                "count": 1,
                "modifications": [{"modificationType": "CCD_5CM", "basePosition": 4}],
            }
        },
        {"rnaSequence": {"sequence": "GACUN", "count": 1}},
        {"ligand": {"ligand": "CCD_ATP", "count": 2}},
        {"ligand": {"ligand": "CCD_MG", "count": 3}},
    ],
}


def test_the_job_of_a_prediction_is_the_job_that_it_was_predicted_from(components, tmp_path):
    import torch
    from protenix.data.inference.json_to_feature import SampleDictToFeatures
    from protenix.data.utils import save_structure_cif

    components.install_for(PREDICTED)
    np.random.seed(0)
    made = SampleDictToFeatures(PREDICTED)
    _, atoms, _ = made.get_feature_dict()
    path = tmp_path / "predicted.cif"
    types = {entity: kind for entity, kind in made.entity_poly_type.items() if kind != "non-polymer"}
    save_structure_cif(
        atom_array=atoms,
        pred_coordinate=torch.tensor(atoms.coord),
        output_fpath=str(path),
        entity_poly_type=types,
        pdb_id="predicted",
    )
    job = read_entry(path, components)
    expected = read_job(PREDICTED, Place(path, "predicted"), components)
    assert job.document == expected.document
    assert (job.n_token, job.n_atom, job.n_chain) == (expected.n_token, expected.n_atom, expected.n_chain)
    assert notes(job) == []
    assert len(read_assembly(path)) == len(atoms) == job.n_atom


# Names and errors


@pytest.mark.parametrize(
    ("name", "expected"),
    [("1abc.pdb", "1abc"), ("pdb1abc.ENT", "pdb1abc"), ("two words.v2.pdb", "two_words.v2"), ("_.pdb", "_")],
)
def test_the_job_has_the_name_of_the_file(components, file, name, expected):
    assert read_entry(file(domain_lines(), name), components).name == expected


def test_a_file_that_cannot_be_read_says_so(components, tmp_path):
    path = tmp_path / "x.cif.gz"
    path.write_bytes(gzip.compress(b"data_x\n_entry.id x\n"))
    with pytest.raises(InputError, match="expected a structure, found no atoms") as caught:
        read_entry(path, components)
    assert str(caught.value).startswith(str(path))
