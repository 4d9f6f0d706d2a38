"""The one place that sets what Protenix's module `protenix.data.core.ccd` holds.

Its functions stay as they are. They read two things: the CIF file object that `biotite_load_ccd_cif` reads
once and keeps, and the dictionary of molecules in `_ccd_rdkit_mols`. Both are handed over here.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashbias_fold.protenix_adapter.environment import quiet_root_logger


def protenix_ccd() -> Any:
    """Protenix's module of component functions."""
    with quiet_root_logger():
        from protenix.data.core import ccd
    return ccd


def answer_from(definitions: Path | Mapping[str, Any], molecules: Mapping[str, Any]) -> None:
    """Have Protenix's functions read these definitions and molecules, unless they do already.

    Args:
        definitions: A CIF file of components, or a mapping from code to `CIFBlock`.
        molecules: A mapping from code to rdkit molecule; it must not be empty.
    """
    ccd = protenix_ccd()
    if ccd._ccd_rdkit_mols is molecules:
        return
    # They may remember answers from what was served before.
    for function in (
        ccd.biotite_load_ccd_cif,
        ccd.get_component_atom_array,
        ccd.get_one_letter_code,
        ccd.get_mol_type,
        ccd.get_ccd_ref_info,
    ):
        function.cache_clear()
    if isinstance(definitions, Path):
        ccd.COMPONENTS_FILE = str(definitions)
    else:
        # An empty file gives the object that Protenix keeps; its constructor takes the blocks to serve.
        ccd.COMPONENTS_FILE = io.StringIO()
        ccd.biotite_load_ccd_cif().__init__(definitions)
    ccd._ccd_rdkit_mols = molecules
