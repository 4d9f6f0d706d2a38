"""Counts of tokens and atoms, and the way ions are written, against Protenix's own featurizer."""

import pytest
from input_jobs import PROTEIN, SECOND, bond, chain, dna, ion, job, ligand, load_job, rna, write_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    write_files(folder)
    return folder


def featurize(document):
    import numpy as np
    from protenix.data.inference.json_to_feature import SampleDictToFeatures

    np.random.seed(0)  # It turns each reference conformer at random.
    return SampleDictToFeatures(document).get_feature_dict()


def msa_of(document, atoms):
    from protenix.data.msa.msa_featurizer import InferenceMSAFeaturizer

    return InferenceMSAFeaturizer.make_msa_feature(document["sequences"], atoms)


def ptm(*modifications):
    return [{"ptmType": f"CCD_{code}", "ptmPosition": position} for position, code in modifications]


def bases(*modifications):
    return [{"modificationType": f"CCD_{code}", "basePosition": position} for position, code in modifications]


CONTACT = bond((1, 8, "CA"), (2, 1, "OP1"), copy1=2, copy2=1, max_distance=9)
JOBS = {
    "protein in copies": job(chain(count=2), chain("AXXA")),
    "single residues": job(chain("A"), dna("A"), rna("U")),
    "modified protein": job(chain("AMASAGA", modifications=ptm((2, "MSE"), (4, "SEP"), (7, "NH2")))),
    "capped protein": job(chain("AMAG", modifications=ptm((1, "ACE"), (4, "NME")))),
    "modified DNA": job(dna("GATNXIUA", modifications=bases((1, "6OG"), (3, "5CM")))),
    "modified RNA": job(rna("GUACINX", 2, modifications=bases((1, "2MG"), (4, "5MC")))),
    "RNA in DNA": job(dna("AGCT", modifications=bases((2, "G")))),
    "ligands": job(chain("AG"), ligand("CCD_ATP", 2), ligand("CCD_NAG_BMA"), ligand("CCD_HEM")),
    "residues as ligands": job(ligand("CCD_ALA"), ligand("CCD_MSE"), ligand("CCD_G"), ligand("CCD_SEP")),
    "ions": job(ion("MG", 2), chain(), ion("ZN"), ion("SO4")),
    "SMILES": job(
        chain("AG"), ligand("CC(=O)Nc1ccc(O)cc1", 2), ligand("[2H]C([2H])O"), ligand("[Na+].[Cl-]")
    ),
    "files": job(chain("AG"), *[ligand(f"FILE_solid.{kind}") for kind in ("sdf", "mol", "pdb", "mol2")]),
    "glycan": job(
        chain("ANASNA", 2),
        ligand("CCD_NAG_NAG_BMA", 2),
        covalent_bonds=[
            bond((1, 2, "ND2"), (2, 1, "C1")),
            bond((2, 1, "O4"), (2, 2, "C1")),
            bond((2, 2, "O4"), (2, 3, "C1"), copy1=1, copy2=1),
        ],
    ),
    "cyclic peptide": job(
        chain("GACGC"), covalent_bonds=[bond((1, 1, "N"), (1, 5, "C")), bond((1, 3, "SG"), (1, 5, "SG"))]
    ),
    "bonded SMILES": job(
        chain("ACA"), ligand("[CH2:3](C=O)Br"), covalent_bonds=[bond((1, 2, "SG"), (2, 1, 3))]
    ),
    "leaving atoms of many": job(
        chain("ANA"), ligand("CCD_04F"), covalent_bonds=[bond((1, 2, "ND2"), (2, 1, "C21"))]
    ),
    "contact of atoms": job(chain(count=2), dna("GAT"), constraint={"contact": [CONTACT]}),
}


@pytest.mark.parametrize("document", JOBS.values(), ids=JOBS.keys())
def test_tokens_and_atoms_are_those_of_the_featurizer(folder, components, document):
    components.install()
    loaded = load_job(folder, document, components)
    _, atoms, tokens = featurize(loaded.document)
    assert (loaded.n_token, loaded.n_atom) == (len(tokens), len(atoms))
    assert loaded.n_chain == len(set(atoms.chain_id))


FIRST_ALIGNED = chain(PROTEIN, unpairedMsa=f">query\n{PROTEIN}\n>hit\nMKT--CNW\n")
SECOND_ALIGNED = chain(SECOND, unpairedMsa=f">query\n{SECOND}\n>hit\nGSHMLEDD\n")
ENTRIES = {
    "first": [ion("MG", 2), FIRST_ALIGNED, SECOND_ALIGNED],
    "between": [FIRST_ALIGNED, ion("MG", 2), SECOND_ALIGNED],
    "last": [FIRST_ALIGNED, SECOND_ALIGNED, ion("MG", 2)],
}


@pytest.mark.parametrize("entries", ENTRIES.values(), ids=ENTRIES.keys())
def test_an_ion_shifts_no_alignment(folder, components, entries):
    import torch

    components.install()
    given = job(*entries)
    loaded = load_job(folder, given, components).document
    assert ligand("CCD_MG", 2) in loaded["sequences"]
    features, atoms, _ = featurize(loaded)
    features_as_given, atoms_as_given, _ = featurize(given)

    # As a ligand the ion gives the same atoms, tokens and everything that is made of them.
    assert features.keys() == features_as_given.keys()
    for name, value in features.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, features_as_given[name]), name
    for annotation in atoms.get_annotation_categories():
        assert (atoms.get_annotation(annotation) == atoms_as_given.get_annotation(annotation)).all(), (
            annotation
        )

    # Only the alignment differs. Its first row is the sequence of each chain, with X for an ion.
    def first_row(document, atoms):
        return msa_of(document, atoms)["msa"][0].tolist()

    is_ion = atoms.is_ligand[atoms.centre_atom_mask == 1].astype(bool)
    residues = features["restype"].argmax(-1)
    expected = [20 if ion else int(residue) for ion, residue in zip(is_ion, residues, strict=True)]
    assert first_row(loaded, atoms) == expected
    assert first_row(given, atoms_as_given) != expected
