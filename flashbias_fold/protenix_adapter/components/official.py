"""Protenix's own component files, where they are on disk.

`components.cif` is read by Protenix itself. `components.cif.rdkit_mol.pkl` is not: a pickle can run anything,
so it is read here by an unpickler that knows only what such a file holds.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

from flashbias_fold.errors import SetupError
from flashbias_fold.protenix_adapter.components import protenix_state
from flashbias_fold.protenix_adapter.components.catalog import Components
from flashbias_fold.protenix_adapter.models import protenix_root


def official_files(folder: Path | None = None) -> tuple[Path, Path] | None:
    """The dictionary and the molecules in Protenix's folder, if both are there."""
    root = folder or protenix_root()
    definitions = root / "common" / "components.cif"
    molecules = root / "common" / "components.cif.rdkit_mol.pkl"
    return (definitions, molecules) if definitions.is_file() and molecules.is_file() else None


class OfficialComponents(Components):
    """The components in Protenix's own files."""

    source: Literal["official", "biotite"] = "official"

    def __init__(self, definitions: Path, molecules: Path) -> None:
        self._definitions = definitions
        self._molecules = _PickledMolecules(molecules)

    def describe(self) -> str:
        """The two files."""
        return f"Protenix's own files: {self._definitions} and {self._molecules.path.name}"

    def ensure(self, codes: Iterable[str]) -> None:
        """Nothing to do: each file holds all components, and is read as a whole when first needed."""

    def __contains__(self, code: object) -> bool:
        return isinstance(code, str) and code in self._file()

    def _column(self, code: str, category: str, name: str) -> list[str]:
        file = self._file()
        if code not in file or category not in file[code]:
            return []
        return file[code][category][name].as_array(str).tolist()

    def _file(self) -> Any:
        # By Protenix's own reader, so that a file of 400 MB is read once for both of us.
        self._serve()
        return protenix_state.protenix_ccd().biotite_load_ccd_cif()

    def _serve(self) -> None:
        protenix_state.answer_from(self._definitions, self._molecules)


class _PickledMolecules(Mapping[str, Any]):
    """The molecules in a pickle, read when the first one is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._loaded: dict[str, Any] | None = None

    def _all(self) -> dict[str, Any]:
        if self._loaded is None:
            self._loaded = load_molecules(self.path)
        return self._loaded

    def __getitem__(self, code: str) -> Any:
        return self._all()[code]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


def load_molecules(path: Path) -> dict[str, Any]:
    """Read a pickled dictionary of rdkit molecules, and nothing but that.

    Raises:
        SetupError: The file is damaged, or asks for anything that such a dictionary does not need.
    """
    from rdkit import Chem

    try:
        with path.open("rb") as file:
            content = _MoleculeUnpickler(file, path).load()
    except SetupError:
        raise
    except Exception as error:
        # A damaged pickle can fail in any way that its opcodes can.
        raise SetupError(f"{path} cannot be read: {error or type(error).__name__}") from error
    if not (isinstance(content, dict) and content and all(isinstance(m, Chem.Mol) for m in content.values())):
        raise SetupError(f"{path} holds no dictionary of rdkit molecules")
    return content


# An rdkit molecule is its binary form and a dictionary of attributes; one of these is a numpy array, which
# numpy 1 and 2 and the pickle protocols spell differently.
_NEEDED = {
    ("rdkit.Chem.rdchem", "Mol"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
}


class _MoleculeUnpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NEEDED:
            self._refuse(f"{module}.{name}")
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)

    def persistent_load(self, pid: Any) -> NoReturn:
        self._refuse("a persistent id")

    def _refuse(self, what: str) -> NoReturn:
        raise SetupError(
            f"{self._path} asks for {what}, which no file of molecules needs: it was not read any further"
        )
