"""Jobs and files that the tests of this folder are made of."""

import json

from flashbias_fold.inputs import load_inputs

PROTEIN = "MKTAYCNW"
SECOND = "GSHMLEDK"
RNA = "GGCUAC"


PDB = """\
HETATM    1  C1  LIG A   1      -0.748   0.015   0.024  1.00  0.00           C
HETATM    2  O1  LIG A   1       0.558   0.420  -0.278  1.00  0.00           O
HETATM    3  N1  LIG A   1      -1.600   1.100   0.500  1.00  0.00           N
CONECT    1    2    3
END
"""
MOL2 = """\
@<TRIPOS>MOLECULE
methanol
2 1 0 0 0
SMALL
NO_CHARGES
@<TRIPOS>ATOM
1 C1 -0.748 0.015 0.024 C.3 1 LIG 0.0
2 O1 0.558 0.420 -0.278 O.3 1 LIG 0.0
@<TRIPOS>BOND
1 1 2 1
"""


def chain(sequence=PROTEIN, count=1, **fields):
    return {"proteinChain": {"sequence": sequence, "count": count, **fields}}


def dna(sequence="GATTACA", count=1, **fields):
    return {"dnaSequence": {"sequence": sequence, "count": count, **fields}}


def rna(sequence=RNA, count=1, **fields):
    return {"rnaSequence": {"sequence": sequence, "count": count, **fields}}


def ligand(text="CCD_ATP", count=1, **fields):
    return {"ligand": {"ligand": text, "count": count, **fields}}


def ion(code="MG", count=1, **fields):
    return {"ion": {"ion": code, "count": count, **fields}}


def job(*sequences, name="bad", **fields):
    return {"name": name, "sequences": list(sequences) or [chain()], **fields}


def bond(left, right, **fields):
    """A bond between two atoms, each given as (entity, position, atom)."""
    ends = {}
    for side, end in ((1, left), (2, right)):
        for part, value in zip(("entity", "position", "atom"), end, strict=True):
            ends[f"{part}{side}"] = value
    return {**ends, **fields}


def old_bond(left, right, **fields):
    """The same in the old spelling."""
    names = {"1": "left", "2": "right"}
    return {f"{names[name[-1]]}_{name[:-1]}": value for name, value in bond(left, right, **fields).items()}


def modified(position=1, code="CCD_SEP"):
    return {"modifications": [{"ptmType": code, "ptmPosition": position}]}


def write_jobs(folder, *jobs, name="jobs.json"):
    path = folder / name
    path.write_text(json.dumps(list(jobs)))
    return path


def load_job(folder, document, catalog):
    """The one job that a document gives."""
    loaded = load_inputs(write_jobs(folder, document), catalog)
    assert not loaded.rejected, loaded.rejected[0].error
    (only,) = loaded.jobs
    return only


def write_files(folder):
    """Alignments, templates and ligands, good and bad."""
    (folder / "good.a3m").write_text(f">query\n{PROTEIN}\n>hit\nMKTaaA-CNW\n")
    (folder / "second.a3m").write_text(f"# of the second chain\n>query\n{SECOND}\n")
    (folder / "rna.a3m").write_text(f">query\n{RNA}\n>hit\nGG-UAC\n")
    (folder / "ragged.a3m").write_text(f">query\n{PROTEIN}\n>short\nMKTAYC\n")
    (folder / "letters.a3m").write_text(f">query\n{PROTEIN}\n>odd\nMKT*YCNW\n")
    (folder / "table.txt").write_text("chain\tscore\nA\t1\n")
    (folder / "marked.a3m").write_text(f"\ufeff>query\n{PROTEIN}\n")
    (folder / "empty.a3m").write_text("")
    (folder / "binary.a3m").write_bytes(b"\x1f\x8b\x08\x00\xff\xfe")
    (folder / "hits.hhr").write_text("Query         chain_A\nMatch_columns 8\n")
    (folder / "old").mkdir()
    (folder / "old" / "pairing.a3m").write_text(f">query\n{PROTEIN}\n")
    (folder / "old" / "non_pairing.a3m").write_text(f">query\n{PROTEIN}\n")
    (folder / "nothing").mkdir()
    (folder / "flat.sdf").write_text(_molecule(three_d=False))
    (folder / "solid.sdf").write_text(_molecule(three_d=True))
    (folder / "two.sdf").write_text(_molecule(three_d=True) * 2)
    (folder / "solid.mol").write_text(_molecule(three_d=True))
    (folder / "solid.pdb").write_text(PDB)
    (folder / "solid.mol2").write_text(MOL2)
    (folder / "broken.sdf").write_text("no molecule\n")
    (folder / "broken.mol").write_text("no molecule\n")
    (folder / "loop.a3m").symlink_to("loop.a3m")


def _molecule(*, three_d):
    from rdkit import Chem
    from rdkit.Chem import AllChem

    molecule = Chem.AddHs(Chem.MolFromSmiles("CC(=O)Nc1ccc(O)cc1"))
    if three_d:
        AllChem.EmbedMolecule(molecule, randomSeed=1)
    else:
        AllChem.Compute2DCoords(molecule)
    return Chem.MolToMolBlock(molecule) + "$$$$\n"
