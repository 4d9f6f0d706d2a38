"""A real complex, a protein with alignments on a double strand of DNA, from the command line to its CIF."""

import gzip
import json
import math
import string

import gemmi
import numpy as np
import pytest
from biotite.sequence import ProteinSequence
from biotite.structure import get_chains, get_residues
from biotite.structure.io import pdbx
from command_line import TINY, assert_whole, report_of, run
from conftest import ROOT
from lengths import at_length

FOLDER = ROOT / "data" / "complexes" / "7r6r"
(JOB,) = json.loads((FOLDER / "7r6r.json").read_text())
PROTEIN, STRAND, OTHER_STRAND = (next(iter(entity.values()))["sequence"] for entity in JOB["sequences"])
CHAINS = {"A": PROTEIN, "B": STRAND, "D": OTHER_STRAND}
RESIDUES = {
    "A": [ProteinSequence.convert_letter_1to3(letter) for letter in PROTEIN],
    "B": [f"D{letter}" for letter in STRAND],
    "D": [f"D{letter}" for letter in OTHER_STRAND],
}


@pytest.fixture(scope="module", params=at_length(["dense"], ["dense", "stock"]))
def out(request, tmp_path_factory):
    """The output folder of a run, for each way that is Protenix's exact result."""
    folder = tmp_path_factory.mktemp(request.param)
    run("predict", FOLDER / "7r6r.json", "--out", folder, "--bias", request.param, *TINY, check=0)
    return folder


@pytest.fixture
def cif(out):
    return out / "7r6r" / "seed_101" / "predictions" / "7r6r_sample_0.cif"


@pytest.fixture
def predicted(cif):
    """The structure as gemmi reads it."""
    structure = gemmi.read_structure(str(cif))
    assert len(structure) == 1
    return structure


@pytest.fixture(scope="module")
def experiment():
    """The crystal structure; its chains are in the order of the job's entities."""
    text = gzip.decompress((FOLDER / "7r6r.cif.gz").read_bytes()).decode()
    structure = gemmi.make_structure_from_block(gemmi.cif.read_string(text).sole_block())
    structure.remove_alternative_conformations()
    structure.remove_hydrogens()
    structure.remove_waters()
    return structure


def test_the_report_counts_tokens_atoms_and_alignment(out, predicted):
    report = report_of(out, "7r6r")
    assert report["n_token"] == sum(map(len, CHAINS.values())) == 245
    assert report["n_atom"] == predicted[0].count_atom_sites()
    assert report["n_msa"] > 100, "the alignments count, not the query alone"
    assert [text.split()[0] for text in report["warnings"]] == ["--steps", "--cycles"]
    assert_whole(out)


def test_gemmi_reads_the_right_chains_and_entities(predicted):
    assert [chain.name for chain in predicted[0]] == ["A", "B", "D"]
    kinds = {"A": gemmi.PolymerType.PeptideL, "B": gemmi.PolymerType.Dna, "D": gemmi.PolymerType.Dna}
    for entity in predicted.entities:
        (chain,) = entity.subchains
        assert entity.entity_type == gemmi.EntityType.Polymer
        assert entity.polymer_type == kinds[chain]
        assert list(entity.full_sequence) == RESIDUES[chain]
    assert len(predicted.entities) == 3


def test_gemmi_reads_the_sequences_as_residues_in_order(predicted):
    for chain in predicted[0]:
        assert [residue.name for residue in chain] == RESIDUES[chain.name]
        assert [residue.label_seq for residue in chain] == list(range(1, len(chain) + 1))


def test_biotite_reads_the_same(cif):
    atoms = pdbx.get_structure(pdbx.CIFFile.read(cif), model=1, use_author_fields=False)
    assert list(get_chains(atoms)) == ["A", "B", "D"]
    for chain, names in RESIDUES.items():
        numbers, found = get_residues(atoms[atoms.chain_id == chain])
        assert list(found) == names
        assert list(numbers) == list(range(1, len(names) + 1))
    assert np.isfinite(atoms.coord).all()


def test_biopython_reads_the_same(cif):
    from Bio.PDB.MMCIFParser import MMCIFParser

    (model,) = MMCIFParser(QUIET=True).get_structure("7r6r", cif)
    found = {chain.id: [residue.get_resname().strip() for residue in chain] for chain in model}
    assert found == RESIDUES


def test_every_residue_has_the_heavy_atoms_that_the_experiment_saw(predicted, experiment):
    complete = resolved = 0
    for number, chain in enumerate(predicted[0]):
        for seen in experiment[0][number]:
            ours = chain[seen.label_seq - 1]
            assert ours.name == seen.name
            assert {atom.name for atom in seen} <= {atom.name for atom in ours}, (chain.name, seen)
            resolved += 1
            complete += {atom.name for atom in seen} == {atom.name for atom in ours}
    # The rest are side chains that the experiment did not see, and the ends of the strands.
    assert resolved > 200
    assert complete > 0.9 * resolved


def test_numbers_are_numbers(predicted):
    for site in predicted[0].all():
        assert all(math.isfinite(value) for value in site.atom.pos.tolist())
        assert 0.0 <= site.atom.b_iso <= 100.0
        assert 0.0 <= site.atom.occ <= 1.0
        assert not site.atom.is_hydrogen()
        assert not site.atom.name.strip(string.ascii_uppercase + string.digits + "'")
