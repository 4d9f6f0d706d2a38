"""The catalog of components made from biotite's dictionary, what is kept on disk, and the conformers."""

import gzip
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flashbias_fold.errors import SetupError
from flashbias_fold.protenix_adapter.components import job_codes, open_components, sources, store
from flashbias_fold.protenix_adapter.components.dictionary import read_codes, read_tables
from flashbias_fold.protenix_adapter.components.jobs import AMINO_ACIDS
from flashbias_fold.protenix_adapter.components.molecules import build_molecule

ROOT = Path(__file__).parent.parent.parent

HOSTILE = (
    "",
    ".",
    "..",
    "../x",
    "/etc/passwd",
    "ALA/../../x",
    "ALA\0",
    "ALA\n",
    " ALA",
    "ala",
    "ÅLA",
    "\uff21",
    "_codes",
)
HOSTILE += ("CON ", "A" * 5000, "~", "$HOME", "\ud800", "NOSUCH")


def open_biotite(cache):
    return open_components(Path(cache, "no official files"), Path(cache))


def run_python(code, cache, **environment):
    """Run code in a fresh process, with `components` opened; what it prints last comes back as JSON."""
    opening = (
        "import json; from pathlib import Path\n"
        "from flashbias_fold.protenix_adapter.components import open_components\n"
        f"components = open_components(Path('nowhere'), Path({str(cache)!r}))\n"
    )
    process = start_python(opening + code, **environment)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


def start_python(code, **environment):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LAYERNORM_TYPE": "torch", **environment},
    )


def files_of(cache):
    return {path.name: path.read_bytes() for path in Path(cache).rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def warm_cache(tmp_path_factory):
    """A cache with the common components, made once; tests must not change it."""
    cache = tmp_path_factory.mktemp("warm")
    open_biotite(cache).ensure(["ALA", "CDL"])
    return cache


@pytest.fixture
def catalog(warm_cache):
    return open_biotite(warm_cache)


@pytest.fixture
def no_reading(monkeypatch):
    """Fail where the dictionary is read."""

    def refuse(*_):
        pytest.fail("the dictionary was read")

    monkeypatch.setattr(sources, "read_tables", refuse)
    monkeypatch.setattr(sources, "read_codes", refuse)


class TestCatalog:
    def test_atoms(self, catalog):
        assert catalog.heavy_atoms("ALA") == ("N", "CA", "C", "O", "CB", "OXT")
        assert catalog.leaving_atoms("ALA") == {"H2", "OXT", "HXT"}
        assert catalog.heavy_atoms("ND4") == ("N",)  # deuterium is hydrogen
        assert catalog.heavy_atoms("UNL") == ()
        assert catalog.heavy_atoms("NA") == ("NA",)

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            ("ALA", "protein"),
            ("MSE", "protein"),
            ("UNK", "protein"),
            ("DA", "dna"),
            ("A", "rna"),
            ("N", "rna"),
            ("ATP", "ligand"),
            ("NAG", "ligand"),
            ("UNL", "ligand"),
            ("0A0", "protein"),
            ("010", "ligand"),  # peptide-like
        ],
    )
    def test_kind(self, catalog, code, kind):
        assert catalog.kind(code) == kind

    def test_what_protenix_cannot_build(self, catalog):
        codes = ("ALA", "UNL", "DKH", "D8U", "NOSUCH")
        assert [code for code in codes if catalog.can_be_built(code)] == ["ALA"]

    def test_holds_the_whole_dictionary(self, catalog):
        assert len(catalog.codes) > 47_000
        assert {"ALA", "UWE", "A1IHN", "UNL"} <= catalog.codes

    def test_describes_itself_in_one_line(self, catalog, warm_cache):
        text = catalog.describe()
        assert "biotite" in text
        assert "47," in text
        assert str(warm_cache) in text
        assert "\n" not in text


class TestHostileCodes:
    @pytest.mark.parametrize("code", HOSTILE, ids=ascii)
    def test_are_unknown_and_leave_no_trace(self, catalog, warm_cache, no_reading, code):
        before = files_of(warm_cache.parent)
        assert code not in catalog
        catalog.ensure([code])
        assert catalog.heavy_atoms(code) == ()
        assert catalog.leaving_atoms(code) == frozenset()
        assert catalog.leaving_groups(code) == {}
        assert catalog.kind(code) == "ligand"
        assert not catalog.can_be_built(code)
        assert files_of(warm_cache.parent) == before

    @pytest.mark.parametrize("code", [None, 3, ["ALA"], {}, b"ALA"])
    def test_other_types_are_unknown(self, catalog, code):
        assert code not in catalog

    @pytest.mark.parametrize("code", HOSTILE, ids=ascii)
    def test_never_become_a_path(self, tmp_path, code):
        assert store.ComponentStore(tmp_path).get(code) is None
        if code != "NOSUCH":
            with pytest.raises(ValueError, match="no code"):
                store.ComponentStore(tmp_path).keep(store.Component(code, {}, None))
        assert not files_of(tmp_path)

    def test_protenix_takes_them_as_unknown_too(self, warm_cache):
        code = (
            "components.install()\n"
            "from protenix.data.core import ccd\n"
            f"codes = {HOSTILE!r}\n"
            "found = [(ccd.get_component_atom_array(c), ccd.get_one_letter_code(c), ccd.get_mol_type(c),\n"
            "          ccd.get_component_rdkit_mol(c), ccd.get_ccd_ref_info(c)) for c in codes]\n"
            "print(json.dumps(found == [(None, None, 'ligand', None, {})] * len(codes)))"
        )
        assert run_python(code, warm_cache)


class TestJobCodes:
    def test_residues_modifications_ligands_and_ions(self):
        job = {
            "sequences": [
                {
                    "proteinChain": {
                        "sequence": "AC",
                        "modifications": [{"ptmType": "CCD_SEP", "ptmPosition": 1}],
                    }
                },
                {"dnaSequence": {"sequence": "A", "modifications": [{"modificationType": "CCD_6OG"}]}},
                {"ligand": {"ligand": "CCD_NAG_BMA", "count": 1}},
                {"ligand": {"ligand": "CC(=O)O", "count": 1}},
                {"ligand": {"ligand": "FILE_x.sdf", "count": 1}},
                {"ion": {"ion": "MG", "count": 2}},
            ]
        }
        codes = job_codes(job)
        assert {"SEP", "6OG", "NAG", "BMA", "MG", "ALA", "UNK", "DA", "DN"} <= codes
        assert codes.isdisjoint({"A", "CC(=O)O", "FILE"})

    @pytest.mark.parametrize(
        "job",
        [
            {},
            {"sequences": None},
            {"sequences": [None, 3, "x", {}, {"ligand": None}, {"ion": {"ion": 5}}]},
            {"sequences": [{"proteinChain": {"modifications": [None, {"ptmType": 7}, {"ptmType": "SEP"}]}}]},
            {"sequences": {"proteinChain": {}}},
        ],
    )
    def test_takes_any_document(self, job):
        assert job_codes(job) <= AMINO_ACIDS


class TestCache:
    def test_a_warm_cache_needs_no_dictionary(self, warm_cache, no_reading):
        components = open_biotite(warm_cache)
        components.ensure(["ALA", "CDL", "TRP", "DT", "ZN", "NAG", "NO-SUCH"])
        assert components.kind("TRP") == "protein"

    def test_a_warm_start_imports_no_builder(self, warm_cache):
        code = (
            "import sys\n"
            "job = {'sequences': [{'proteinChain': {}}, {'ligand': {'ligand': 'CCD_ATP'}}]}\n"
            "components.install_for(job)\n"
            "from protenix.data.core import ccd\n"
            "assert len(ccd.get_ccd_ref_info('ATP')['coord']) == 47\n"
            "print(json.dumps([name for name in sys.modules if name in ('pdbeccdutils', 'gemmi', 'torch')]))"
        )
        assert run_python(code, warm_cache) == []

    def test_the_dictionary_is_read_once_for_all_that_is_missing(self, tmp_path, monkeypatch):
        readings = []
        monkeypatch.setattr(sources, "_COMMON", frozenset({"GLY"}))
        monkeypatch.setattr(
            sources, "read_tables", lambda codes: readings.append(codes) or read_tables(codes)
        )
        components = open_biotite(tmp_path)
        components.ensure(["ALA", "SER", "UWE", "NO-SUCH"])
        components.ensure(["ALA", "UWE", "GLY"])
        assert readings == [{"ALA", "SER", "UWE", "GLY"}]

    def test_nothing_of_the_dictionary_stays_in_memory(self, tmp_path):
        code = (
            "import resource\n"
            "from biotite.structure.info import ccd\n"
            "components.ensure(['ALA'])\n"
            "used = int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize()\n"
            "print(json.dumps([used, ccd.get_ccd.cache_info().currsize]))"
        )
        used, kept = run_python(code, tmp_path)
        assert kept == 0
        assert used < 400e6  # biotite's decoded dictionary alone is a gigabyte

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: b"",
            lambda content: content[: len(content) // 2],
            lambda content: content[:-3],
            lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
            lambda content: b"not compressed",
            lambda content: gzip.compress(b"{}"),
            lambda content: gzip.compress(b"[1]"),
            lambda content: gzip.compress(b'{"code": "ALA", "tables": {}, "molecule": {"binary": "AAAA"}}'),
            lambda content: gzip.compress(gzip.decompress(content).replace(b'"ALA"', b'"GLY"')),
        ],
        ids=[
            "empty",
            "half",
            "without its end",
            "one bit",
            "text",
            "no fields",
            "no object",
            "half a molecule",
            "other",
        ],
    )
    def test_a_damaged_file_is_written_again(self, tmp_path, monkeypatch, damage):
        monkeypatch.setattr(sources, "_COMMON", frozenset())
        open_biotite(tmp_path).ensure(["ALA"])
        (path,) = tmp_path.rglob("ALA.json.gz")
        content = path.read_bytes()
        path.write_bytes(damage(content))
        assert open_biotite(tmp_path).heavy_atoms("ALA")[:2] == ("N", "CA")
        assert path.read_bytes() == content

    def test_a_damaged_index_is_written_again(self, tmp_path):
        assert "ALA" in open_biotite(tmp_path)
        (path,) = tmp_path.rglob("_codes*")
        content = path.read_bytes()
        path.write_bytes(content[:1000])
        assert "ZZZZZ" not in open_biotite(tmp_path)
        assert path.read_bytes() == content

    def test_processes_can_fill_it_together(self, tmp_path):
        filling = (
            "from pathlib import Path\n"
            "from flashbias_fold.protenix_adapter.components import open_components\n"
            f"open_components(Path('nowhere'), Path({str(tmp_path)!r})).ensure(['ALA', 'ATP', 'UWE'])"
        )
        processes = [start_python(filling) for _ in range(2)]
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
        names = sorted(files_of(tmp_path))
        assert all(name.endswith(".json.gz") for name in names)
        for name in names:
            if name != "_codes.json.gz":
                code = name.removesuffix(".json.gz")
                assert store.ComponentStore(tmp_path).get(code).code == code

    def test_a_folder_that_cannot_be_written_is_said_once(self, tmp_path, monkeypatch, caplog):
        readings = []
        monkeypatch.setattr(
            sources, "read_tables", lambda codes: readings.append(codes) or read_tables(codes)
        )
        monkeypatch.setattr(sources, "read_codes", lambda: readings.append("codes") or read_codes())
        blocked = tmp_path / "a file"
        blocked.write_text("")
        with caplog.at_level(logging.INFO):
            components = open_biotite(blocked / "cache")
            components.ensure(["ALA", "GLY"])
            components.ensure(["ALA", "NO-SUCH"])
        assert components.kind("ALA") == "protein"
        assert readings == ["codes", {"ALA", "GLY"}]  # and no common ones, as they would be made in every run
        assert len(caplog.records) == 1
        assert "not kept" in caplog.text

    def test_a_read_only_cache_is_used(self, tmp_path, monkeypatch, caplog):
        def refuse(path, content):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(sources, "_COMMON", frozenset())
        open_biotite(tmp_path).ensure(["ALA"])
        monkeypatch.setattr(Path, "write_bytes", refuse)  # root may write everywhere
        readings = []
        monkeypatch.setattr(
            sources, "read_tables", lambda codes: readings.append(codes) or read_tables(codes)
        )
        components = open_biotite(tmp_path)
        components.ensure(["ALA"])
        assert not readings
        assert not caplog.records
        components.ensure(["ALA", "GLY", "SER"])
        assert readings == [{"GLY", "SER"}]
        assert len(caplog.records) == 1

    def test_the_folder_is_the_users_choice_else_the_standard_one(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", "/home/someone")
        monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
        monkeypatch.setenv("FLASHBIAS_FOLD_CACHE", str(tmp_path))
        assert store.default_cache_dir() == tmp_path
        monkeypatch.setenv("FLASHBIAS_FOLD_CACHE", "")
        assert store.default_cache_dir() == Path("/xdg/flashbias-fold")
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        assert store.default_cache_dir() == Path("/home/someone/.cache/flashbias-fold")

    def test_without_a_home_there_is_no_cache(self, monkeypatch):
        def no_home():
            raise RuntimeError("no home")

        for name in ("FLASHBIAS_FOLD_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(Path, "home", no_home)
        kept = store.ComponentStore()
        assert not kept.is_writable
        assert kept.codes() is None
        kept.keep_codes(["ALA"])
        assert str(kept) == "none"

    def test_other_versions_have_other_folders(self, monkeypatch, tmp_path):
        first = str(store.ComponentStore(tmp_path))
        monkeypatch.setattr(store, "version", lambda package: "0.0" if package == "rdkit" else "1.0")
        assert str(store.ComponentStore(tmp_path)) != first


@pytest.fixture(scope="module")
def tables():
    return read_tables(["ALA", "DKH", "CDL", "UNL", "NA", "UWE", "HEM"])


@pytest.fixture
def embedding(monkeypatch):
    """Replace rdkit's embedding by a function of the molecule and the options."""
    from rdkit.Chem import rdDistGeom

    def replace(function):
        monkeypatch.setattr(rdDistGeom, "EmbedMolecule", function)

    return replace


def embed_raising(mol, options):
    raise RuntimeError("Invariant Violation")


class TestConformers:
    def test_two_processes_make_the_same_files(self, tmp_path):
        codes = ["ALA", "HEM", "UWE", "NA", "UNL", "A1A00", "SF4", "CYC", "B12", "TAC"]
        code = f"components.ensure({codes!r}); print(0)"
        for name, hash_seed in (("first", "1"), ("second", "2")):
            run_python(code, tmp_path / name, PYTHONHASHSEED=hash_seed)
        first, second = files_of(tmp_path / "first"), files_of(tmp_path / "second")
        assert {f"{code}.json.gz" for code in codes if code != "A1A00"} <= first.keys()
        assert first == second

    def test_embedded(self, tables):
        molecule = build_molecule("ALA", tables["ALA"])
        assert molecule.ref_conf_type == "rdkit"
        assert molecule.ref_conf_id == 2
        assert molecule.ref_mask == [True] * 13
        mol = molecule.to_rdkit("ALA")
        assert mol.name == "ALA"
        assert mol.GetNumConformers() == 3
        assert np.isfinite(mol.GetConformer(mol.ref_conf_id).GetPositions()).all()

    @pytest.mark.parametrize(
        "failing", [lambda mol, options: -1, embed_raising], ids=["returns -1", "raises"]
    )
    def test_a_failed_embedding_gives_the_ideal_coordinates(self, tables, embedding, failing):
        embedding(failing)
        molecule = build_molecule("ALA", tables["ALA"])
        assert (molecule.ref_conf_type, molecule.ref_conf_id) == ("idea", 0)
        assert molecule.ref_mask == [True] * 13
        x, y, z = (
            [float(text) for text in tables["ALA"]["chem_comp_atom"][f"pdbx_model_Cartn_{axis}_ideal"]]
            for axis in "xyz"
        )
        positions = molecule.to_rdkit("ALA").GetConformer(0).GetPositions()
        assert np.allclose(positions, np.transpose([x, y, z]), atol=1e-6)

    def test_a_conformer_that_is_not_finite_is_not_used(self, tables, embedding):
        def embed_nan(mol, options):
            from rdkit import Chem

            conformer = Chem.Conformer(mol.GetNumAtoms())
            conformer.SetPositions(np.full((mol.GetNumAtoms(), 3), np.nan))
            return mol.AddConformer(conformer, assignId=True)

        embedding(embed_nan)
        assert build_molecule("ALA", tables["ALA"]).ref_conf_type == "idea"

    @pytest.mark.parametrize(
        ("has_ideal", "has_model", "chosen"),
        [
            (lambda i: i > 3, lambda i: True, ("idea", 0, 9)),
            (lambda i: False, lambda i: i != 2, ("model", 1, 12)),
            (lambda i: False, lambda i: False, ("idea", 0, 0)),
        ],
        ids=["some ideal", "no ideal", "neither"],
    )
    def test_without_embedding_what_is_known_decides(self, tables, embedding, has_ideal, has_model, chosen):
        embedding(lambda mol, options: -1)
        atoms = dict(tables["ALA"]["chem_comp_atom"])
        for axis in "xyz":
            for column, has in (
                (f"pdbx_model_Cartn_{axis}_ideal", has_ideal),
                (f"model_Cartn_{axis}", has_model),
            ):
                atoms[column] = [text if has(i) else "?" for i, text in enumerate(atoms[column])]
        molecule = build_molecule("ALA", {**tables["ALA"], "chem_comp_atom": atoms})
        assert (molecule.ref_conf_type, molecule.ref_conf_id, sum(molecule.ref_mask)) == chosen
        mol = molecule.to_rdkit("ALA")
        positions = mol.GetConformer(mol.ref_conf_id).GetPositions()
        assert not positions[~mol.ref_mask].any()

    def test_the_attempts_are_limited(self, tables, embedding):
        attempts = []
        embedding(lambda mol, options: attempts.append((options.randomSeed, options.maxIterations)) or -1)
        assert build_molecule("ALA", tables["ALA"]).ref_conf_type == "idea"
        assert attempts == [(42, 25), (43, 50), (44, 55)]  # ten for each of its 13 atoms

    @pytest.mark.parametrize("code", ["DEU", "PNI"])
    def test_a_hopeless_embedding_is_given_up(self, code):
        # rdkit alone would try these two for half a minute.
        start = time.process_time()
        assert build_molecule(code, read_tables([code])[code]).ref_conf_type == "idea"
        assert time.process_time() - start < 15

    def test_odd_components(self, tables):
        assert build_molecule("UNL", tables["UNL"]).atom_map == {}
        assert build_molecule("NA", tables["NA"]).to_rdkit("NA").GetAtomWithIdx(0).GetFormalCharge() == 1
        assert any(name.startswith("$") or "$" in name for name in tables["UWE"]["chem_comp"]["name"])
        assert build_molecule("UWE", tables["UWE"]).sanitized

    def test_a_component_that_makes_no_molecule_is_said_and_survived(self, tables, caplog):
        atoms = {**tables["ALA"]["chem_comp_atom"], "type_symbol": ["Qq"] * 13}
        assert build_molecule("BAD", {**tables["ALA"], "chem_comp_atom": atoms}) is None
        assert "BAD" in caplog.text

    def test_a_missing_library_is_no_fault_of_the_component(self, tables, monkeypatch):
        monkeypatch.setitem(sys.modules, "pdbeccdutils.core", None)
        with pytest.raises(SetupError, match="pdbeccdutils"):
            build_molecule("ALA", tables["ALA"])

    def test_the_process_is_left_as_it_was(self, tables):
        from rdkit import rdBase

        before = rdBase.LogStatus()
        rdBase.DisableLog("rdApp.warning")
        try:
            silenced, stderr = rdBase.LogStatus(), sys.stderr
            assert not build_molecule("DKH", tables["DKH"]).sanitized  # pdbeccdutils fails on the way
            assert sys.stderr is stderr
            assert rdBase.LogStatus() == silenced
        finally:
            rdBase.EnableLog("rdApp.warning")
        assert rdBase.LogStatus() == before


class TestServingProtenix:
    def test_a_code_is_served_whether_or_not_it_was_announced(self, warm_cache):
        code = (
            "from protenix.data.core import ccd\n"
            "components.install()\n"
            "array = ccd.get_component_atom_array('GLY')\n"
            "assert ccd.get_component_atom_array('NO-SUCH') is None\n"
            "components.install(['TRP'])\n"
            "print(json.dumps([array.atom_name.tolist(), len(ccd.get_all_ccd_code())]))"
        )
        atoms, n_code = run_python(code, warm_cache)
        assert atoms == ["N", "CA", "C", "O"]
        assert n_code > 47_000

    def test_answers_from_before_are_forgotten(self, warm_cache, tmp_path):
        empty = tmp_path / "empty.cif"
        empty.write_text("data_none\n")
        code = (
            "from protenix.data.core import ccd\n"
            f"ccd.COMPONENTS_FILE = {str(empty)!r}\n"
            "before = [ccd.get_mol_type('ALA'), ccd.get_one_letter_code('ALA')]\n"
            "assert ccd.get_component_atom_array('ALA') is None\n"
            "components.install(['ALA'])\n"
            "assert ccd.get_component_atom_array('ALA') is not None\n"
            "print(json.dumps(before + [ccd.get_mol_type('ALA'), ccd.get_one_letter_code('ALA')]))"
        )
        assert run_python(code, warm_cache) == ["ligand", None, "protein", "A"]
