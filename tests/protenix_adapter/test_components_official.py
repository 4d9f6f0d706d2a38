"""Protenix's own files: when they are used, and that their pickle can hold molecules and nothing else."""

import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from flashbias_fold.errors import SetupError
from flashbias_fold.protenix_adapter.components import open_components
from flashbias_fold.protenix_adapter.components.official import load_molecules

ROOT = Path(__file__).parent.parent.parent


def official_molecule(name="EOH", smiles="CCO"):
    """A molecule with the attributes that the official builder sets."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    mol.name = name
    mol.atom_map = {f"X{atom.GetIdx()}": atom.GetIdx() for atom in mol.GetAtoms()}
    mol.sanitized = True
    mol.ref_conf_id = 0
    mol.ref_conf_type = "rdkit"
    mol.ref_mask = np.arange(mol.GetNumAtoms()) % 2 == 0
    return mol


@pytest.fixture
def pickled(tmp_path):
    """Write a pickle, of an object or of bytes."""

    def write(content, protocol=4):
        path = tmp_path / "components.cif.rdkit_mol.pkl"
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
        return path

    return write


def spelled_for_numpy_1(content):
    """The same pickle as numpy 1 writes it, where a module's name lacks an underscore."""
    new = b"\x8c\x16numpy._core.multiarray"
    assert content.count(new) == 1
    content = content.replace(new, b"\x8c\x15numpy.core.multiarray")
    (length,) = struct.unpack_from("<Q", content, 3)  # after the protocol and the mark of the only frame
    return content[:3] + struct.pack("<Q", length - 1) + content[11:]


class TestMolecules:
    @pytest.mark.parametrize("protocol", [4, 5])
    def test_come_back_with_their_attributes(self, pickled, protocol):
        written = official_molecule()
        mol = load_molecules(pickled({"EOH": written}, protocol))["EOH"]
        assert Chem.MolToSmiles(mol) == Chem.MolToSmiles(written)
        assert np.allclose(
            mol.GetConformer(0).GetPositions(), written.GetConformer(0).GetPositions(), atol=1e-6
        )
        assert (mol.ref_mask == written.ref_mask).all()
        for name in ("name", "atom_map", "sanitized", "ref_conf_id", "ref_conf_type"):
            assert getattr(mol, name) == getattr(written, name)

    def test_from_the_time_of_numpy_1(self, pickled):
        content = spelled_for_numpy_1(pickle.dumps({"EOH": official_molecule()}, protocol=4))
        assert load_molecules(pickled(content))["EOH"].ref_mask.tolist()[:3] == [True, False, True]


class Attack:
    """An object whose pickle calls a function when it is read."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class TestRefusals:
    def test_a_command_is_not_run(self, pickled, tmp_path):
        mark = tmp_path / "mark"
        path = pickled({"EOH": official_molecule(), "BAD": Attack(os.system, f"touch {mark}")})
        with pytest.raises(SetupError, match=r"posix\.system") as caught:
            load_molecules(path)
        assert str(path) in str(caught.value)
        assert not mark.exists()
        pickle.loads(path.read_bytes())  # the attack is a real one
        assert mark.exists()

    @pytest.mark.parametrize(
        ("attack", "named"),
        [
            (Attack(eval, "1"), "builtins.eval"),
            (Attack(getattr, "x", "upper"), "builtins.getattr"),
            (Attack(subprocess.run, ["true"]), "subprocess.run"),
            (Attack(np.load, "x"), "numpy.load"),
            (Path("x"), "pathlib"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_name_what_was_asked_for(self, pickled, attack, named):
        with pytest.raises(SetupError, match=named.replace(".", r"\.")):
            load_molecules(pickled({"BAD": attack}))

    def test_no_path_leads_through_what_is_allowed(self, pickled):
        # Protocol 4 lets a name have dots: rdkit.Chem.rdchem + Mol.__init__ would be found.
        content = b"\x80\x04\x8c\x12rdkit.Chem.rdchem\x8c\x0cMol.__init__\x93."
        content = content.replace(b"\x8c\x12", b"\x8c\x11")
        with pytest.raises(SetupError, match=r"Mol\.__init__"):
            load_molecules(pickled(content))

    def test_no_persistent_ids(self, pickled):
        with pytest.raises(SetupError, match="persistent"):
            load_molecules(pickled(b"\x80\x04\x8c\x01xQ."))

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"garbage",
            pickle.dumps({"EOH": official_molecule()})[:-200],
            pickle.dumps([1, 2]),
            pickle.dumps({}),
            pickle.dumps({"EOH": 1}),
            pickle.dumps({"EOH": official_molecule()}).replace(b"\xef\xbe\xad\xde", b"\0\0\0\0"),
        ],
        ids=["empty", "garbage", "truncated", "a list", "no molecules", "numbers", "damaged molecule"],
    )
    def test_a_damaged_file_is_named(self, pickled, content):
        path = pickled(content)
        with pytest.raises(SetupError) as caught:
            load_molecules(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_reach_whoever_asks_protenix(self, tmp_path):
        common = tmp_path / "common"
        common.mkdir()
        (common / "components.cif").write_text("data_ALA\n#\n_chem_comp.id ALA\n#\n")
        (common / "components.cif.rdkit_mol.pkl").write_bytes(
            pickle.dumps({"ALA": Attack(os.system, "true")})
        )
        code = (
            "from pathlib import Path\n"
            "from flashbias_fold.errors import SetupError\n"
            "from flashbias_fold.protenix_adapter.components import open_components\n"
            f"open_components(Path({str(tmp_path)!r})).install()\n"
            "from protenix.data.core import ccd\n"
            "try:\n"
            "    ccd.get_ccd_ref_info('ALA')\n"
            "except SetupError:\n"
            "    print('refused')\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "LAYERNORM_TYPE": "torch"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stdout == "refused\n"


class TestChoice:
    @pytest.fixture
    def root(self, tmp_path):
        (tmp_path / "common").mkdir()
        for name in ("components.cif", "components.cif.rdkit_mol.pkl"):
            (tmp_path / "common" / name).touch()
        return tmp_path

    def test_both_files(self, root):
        components = open_components(root)
        assert components.source == "official"
        assert str(root) in components.describe()
        assert "\n" not in components.describe()

    @pytest.mark.parametrize("missing", ["components.cif", "components.cif.rdkit_mol.pkl"])
    def test_one_file_is_not_enough(self, root, tmp_path, missing):
        (root / "common" / missing).unlink()
        assert open_components(root, tmp_path / "cache").source == "biotite"

    def test_the_folder_is_protenix_s_own(self, root, tmp_path, monkeypatch):
        monkeypatch.setenv("PROTENIX_ROOT_DIR", str(root))
        assert open_components().source == "official"
        monkeypatch.delenv("PROTENIX_ROOT_DIR")
        monkeypatch.setenv("HOME", str(root))
        assert open_components().source == "official"
        monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
        assert open_components(cache_dir=tmp_path).source == "biotite"
