"""The rdkit molecule of a component, with the reference conformer that Protenix takes as its input.

The molecule is built by pdbeccdutils, as Protenix's own builder does it. Three things differ from that
builder's result, all in the conformer: it is the same every time, a failed embedding is noticed (the builder
marks it as embedded), and then the coordinates of the dictionary take its place.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flashbias_fold.errors import SetupError
from flashbias_fold.protenix_adapter.components.dictionary import Tables

_LOG = logging.getLogger(__name__)

_SEED = 42
# How long rdkit may try. An attempt that finds no coordinates to start from costs next to nothing, and some
# molecules need a thousand of them; one that fails later takes up to a quarter of a second, and of 6,500
# components a single one succeeded after more than five of those. A limit in seconds would make the result
# depend on the machine, so both kinds are counted, in batches that double as each has to be set up anew.
_FIRST_BATCH = 25
_ATTEMPTS_PER_ATOM = 10  # rdkit's own limit
_MOST_LATE_FAILURES = 15

# The conformers that pdbeccdutils gives every molecule, by number.
_IDEAL, _MODEL = 0, 1


@dataclass(frozen=True)
class Molecule:
    """What Protenix reads of a reference molecule, in a form that can be stored."""

    binary: bytes
    """rdkit's serialisation: atoms, bonds, charges and conformers (ideal, model, embedded)."""
    atom_map: dict[str, int]
    """From an atom's name to its index."""
    sanitized: bool
    """Whether rdkit found its chemistry sound."""
    ref_conf_id: int
    """The conformer to be used."""
    ref_conf_type: str
    """`rdkit` (embedded), `idea` or `model` (the dictionary's ideal or measured coordinates)."""
    ref_mask: list[bool]
    """For each atom, whether that conformer has coordinates for it."""

    def to_rdkit(self, code: str) -> Any:
        """The molecule with the attributes that Protenix expects on it."""
        import numpy as np
        from rdkit import Chem

        mol: Any = Chem.Mol(self.binary)  # type: ignore[call-overload]
        mol.name = code
        mol.atom_map = dict(self.atom_map)
        mol.sanitized = self.sanitized
        mol.ref_conf_id = self.ref_conf_id
        mol.ref_conf_type = self.ref_conf_type
        mol.ref_mask = np.array(self.ref_mask, dtype=bool)
        return mol


def build_molecule(code: str, tables: Tables) -> Molecule | None:
    """The reference molecule of a component, or None if none can be made of its definition."""
    try:
        return _build(code, tables)
    except ImportError as error:
        # rdkit's drawing code comes along with pdbeccdutils, and wants libraries of the X Window System.
        hint = ": apt install libxrender1 libxext6" if "libX" in str(error) else ""
        raise SetupError(f"chemical components cannot be made: {error}{hint}") from error
    except Exception as error:
        # The dictionary holds everything that was ever crystallised. Whatever rdkit makes of one component,
        # a job with another one goes on; Protenix meets the missing molecule if this one is used.
        _LOG.warning("no reference molecule for component %s: %s", code, error)
        return None


def _build(code: str, tables: Tables) -> Molecule:
    from rdkit import Chem

    mol, sanitized = _parse(code, tables)
    conf_id = _embed(mol) if sanitized and mol.GetNumAtoms() else None
    if conf_id is not None:
        conf_type, mask = "rdkit", [True] * mol.GetNumAtoms()
    else:
        conf_id, conf_type, mask = _dictionary_conformer(tables)
    return Molecule(
        # Without properties, as in the official pickle: nobody reads them.
        binary=mol.ToBinary(int(Chem.PropertyPickleOptions.NoProps)),
        atom_map={atom.GetProp("name"): atom.GetIdx() for atom in mol.GetAtoms()},
        sanitized=sanitized,
        ref_conf_id=conf_id,
        ref_conf_type=conf_type,
        ref_mask=mask,
    )


def _parse(code: str, tables: Tables) -> tuple[Any, bool]:
    """The molecule with the dictionary's two conformers, and whether it could be sanitized."""
    import gemmi
    from pdbeccdutils.core import ccd_reader

    block = gemmi.cif.Block(code)
    for category, columns in tables.items():
        block.set_mmcif_category(
            f"_{category}.", {name: [_gemmi_value(text) for text in texts] for name, texts in columns.items()}
        )
    with _contained_logging():
        result = ccd_reader._parse_pdb_mmcif(block, sanitize=True)
    return result.component.mol, result.sanitized


def _gemmi_value(text: str) -> str | bool | None:
    """How gemmi's Python interface spells a value: None is "?", False is "."; strings it quotes itself."""
    return {"?": None, ".": False}.get(text, text)


def _embed(mol: Any) -> int | None:
    """Add a conformer made by rdkit; its number, or None if that failed."""
    from rdkit import rdBase

    attempts_left = _ATTEMPTS_PER_ATOM * mol.GetNumAtoms()
    late_failures, batch, seed = 0, _FIRST_BATCH, _SEED
    with rdBase.BlockLogs():  # it warns of every metal atom, on the terminal
        while attempts_left > 0 and late_failures < _MOST_LATE_FAILURES:
            try:
                conf_id, late = _try_to_embed(mol, seed, min(batch, attempts_left))
            except (RuntimeError, ValueError):
                return None
            if conf_id >= 0:
                return conf_id if _is_finite(mol.GetConformer(conf_id)) else None
            late_failures += late
            attempts_left -= batch
            batch *= 2
            seed += 1
    return None


def _try_to_embed(mol: Any, seed: int, attempts: int) -> tuple[int, int]:
    """The number of the new conformer, -1 if there is none, and how many attempts failed late."""
    from rdkit.Chem import rdDistGeom

    options: Any = rdDistGeom.ETKDGv3()
    options.clearConfs = False
    options.randomSeed = seed
    options.maxIterations = attempts
    options.trackFailures = True
    conf_id = rdDistGeom.EmbedMolecule(mol, options)
    # The counts are by cause, and the first cause is that there were no coordinates to start from.
    return conf_id, sum(list(options.GetFailureCounts())[1:])


def _is_finite(conformer: Any) -> bool:
    import numpy as np

    return bool(np.isfinite(conformer.GetPositions()).all())


def _dictionary_conformer(tables: Tables) -> tuple[int, str, list[bool]]:
    """The conformer to use where none was embedded: ideal coordinates, else measured ones, else zeros."""
    atoms = tables.get("chem_comp_atom", {})
    ideal = [text != "?" for text in atoms.get("pdbx_model_Cartn_x_ideal", [])]
    model = [text != "?" for text in atoms.get("model_Cartn_x", [])]
    if any(model) and not any(ideal):
        return _MODEL, "model", model
    return _IDEAL, "idea", ideal


@contextlib.contextmanager
def _contained_logging() -> Iterator[None]:
    """Keep to itself what pdbeccdutils does to the process while it repairs valences.

    It has rdkit log to `sys.stderr`, which it replaces to read the complaints there, and leaves it replaced
    if it fails on the way.
    """
    from rdkit import rdBase

    disabled = [line.split(":")[0] for line in rdBase.LogStatus().split() if line.endswith(":disabled")]
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        rdBase.LogToCppStreams()
        for log in disabled:
            rdBase.DisableLog(log)
