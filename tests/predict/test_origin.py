"""Files that travel say what they are: the model, the method, versions, seed and sample, in every format."""

import hashlib
import json
import socket

import gemmi
import numpy as np
import pytest
from biotite.structure.io import pdb, pdbx
from command_line import FULL, ORIGIN_FIELDS, call, predictions, report_of, without_origin, write_jobs
from conftest import ROOT, SEQUENCE, protein

from flashbias_fold.protenix_adapter.origin import Origin

NOTICE = "DEMONSTRATION MODEL - NOT FOR SCIENCE"
# A name that CIF has to quote, a ligand, and a plan of the user's own.
JOB = protein("it's one", SEQUENCE[:8])
JOB["sequences"].append({"ligand": {"ligand": "CCD_GOL", "count": 1}})


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("origin")
    (folder / "mine.yaml").write_text('- {layers: "*", way: dense}\n')
    jobs = write_jobs(folder / "jobs.json", JOB)
    call("predict", jobs, "--out", folder / "out", *FULL, "--plan", folder / "mine.yaml", check=0)
    return folder / "out"


@pytest.fixture(scope="module")
def files(out):
    """The paths of every kind of file, by sample."""
    return {
        sample["sample"]: {
            "cif": (out / JOB["name"] / sample["cif"]),
            "pdb": (out / JOB["name"] / sample["cif"]).with_suffix(".pdb"),
            "json": next(out.rglob(f"*_summary_confidence_sample_{sample['sample']}.json")),
            "npz": next(out.rglob(f"*_pae_sample_{sample['sample']}.npz")),
        }
        for sample in report_of(out, JOB["name"])["samples"]
    }


@pytest.fixture(scope="module")
def expected(out):
    """What every file of a sample has to say, from the job's report."""
    report = report_of(out, JOB["name"])
    plan = hashlib.sha256((out.parent / "mine.yaml").read_bytes()).hexdigest()
    assert report["settings"]["plan"] == plan
    return lambda sample: {
        "notice": NOTICE,
        **{key: report[key] for key in ("model", "demo_model", "bias", "dtype")},
        "plan": plan,
        **{key: report["settings"][key] for key in ("steps", "cycles")},
        "seed": 101,
        "sample": sample,
        "software": {name: report["versions"][name] for name in ("protenix", "flashbias-fold")},
    }


def as_text(facts):
    """Facts as a text file has them."""
    words = {True: "yes", False: "no"}
    return {
        key: words[value] if isinstance(value, bool) else str(value)
        for key, value in facts.items()
        if key != "software"
    }


def test_viewers_show_it(files):
    from Bio.PDB.MMCIF2Dict import MMCIF2Dict

    for sample, paths in files.items():
        titles = {
            gemmi.read_structure(str(paths["cif"])).info["_struct.title"],
            pdbx.CIFFile.read(paths["cif"]).block["struct"]["title"].as_item(),
            MMCIF2Dict(str(paths["cif"]))["_struct.title"][0],
        }
        (title,) = titles
        assert title.startswith(
            f"{NOTICE}: predicted by model demo, bias flashbias, seed 101, sample {sample} "
        )
        # gemmi joins the lines of a title without the blank that each further one begins with.
        flat = gemmi.read_pdb(str(paths["pdb"])).info["_struct.title"]
        assert flat.split() == title.split()


def test_mmcif_has_categories_of_it(files, expected):
    for sample, paths in files.items():
        block = gemmi.cif.read(str(paths["cif"])).sole_block()
        facts = expected(sample)
        own = {key: value[0] for key, value in block.get_mmcif_category("_flashbias_fold.").items()}
        assert own == as_text(facts)
        software = block.get_mmcif_category("_software.")
        assert dict(zip(software["name"], software["version"], strict=True)) == facts["software"]
        entries = {
            gemmi.cif.as_string(block.find_value(f"_{key}")) for key in ("entry.id", "struct.entry_id")
        }
        assert entries == {JOB["name"]}


def test_confidences_have_fields_of_it_after_protenixs(files, expected):
    for sample, paths in files.items():
        fields = json.loads(paths["json"].read_text())
        facts = expected(sample)
        assert {key: fields[key] for key in facts} == facts
        assert set(list(fields)[-len(facts) :]) == set(facts) == set(ORIGIN_FIELDS)
        with np.load(paths["npz"], allow_pickle=False) as arrays:
            assert json.loads(str(arrays["made_by"])) == facts


def test_pdb_has_remarks_of_it_and_stays_readable(files, expected):
    from Bio.PDB.PDBParser import PDBParser

    for sample, paths in files.items():
        lines = paths["pdb"].read_text().splitlines()
        head = [line for line in lines if not line.startswith(("ATOM", "HETATM"))]
        assert all(len(line) <= 80 and line.isascii() for line in lines)
        assert [line[:10] for line in head] == ["TITLE     ", "TITLE    2", *["REMARK   6"] * (len(head) - 2)]
        said = " ".join(line[11:] for line in head[2:])
        for key, value in as_text(expected(sample)).items():
            assert f"{key}: {value}" in said
        atoms = pdbx.get_structure(
            pdbx.CIFFile.read(paths["cif"]), model=1, use_author_fields=False
        ).array_length()
        assert pdb.PDBFile.read(paths["pdb"]).get_structure(model=1).array_length() == atoms
        assert gemmi.read_pdb(str(paths["pdb"]))[0].count_atom_sites() == atoms
        assert len(list(PDBParser(PERMISSIVE=False).get_structure("x", paths["pdb"]).get_atoms())) == atoms


def test_protenix_itself_reads_the_same_from_it(files, tmp_path, components):
    from protenix.data.inference.json_maker import cif_to_input_json

    path = files[0]["cif"]
    components.install_for(JOB)
    (tmp_path / path.name).write_bytes(without_origin(path.name, path.read_bytes()))
    assert (tmp_path / path.name).stat().st_size < path.stat().st_size - 500
    read = cif_to_input_json(str(path))
    assert read == cif_to_input_json(str(tmp_path / path.name))
    assert read["sequences"][0]["proteinChain"]["sequence"] == SEQUENCE[:8]


def test_nothing_in_them_is_of_the_machine_or_the_moment(out):
    for name, content in predictions(out).items():
        if not name.endswith(".npz"):
            for text in (str(out.parent), str(ROOT), socket.gethostname(), "mine.yaml"):
                assert text.encode() not in content, (name, text)


def test_only_the_demonstration_has_its_notice():
    origin = Origin("protenix_base_default_v1.0.0", False, "dense", None, "bf16", 200, 10, 7)
    texts = ["\n".join(origin.cif_categories("x", 3)), "\n".join(origin.pdb_records(3)), origin.as_json(3)]
    for text in texts:
        assert "DEMONSTRATION" not in text
        for word in ("protenix_base_default_v1.0.0", "dense", "bf16", "200", "10", "7", "3"):
            assert word in text
