"""Reading some components out of the Chemical Component Dictionary inside biotite's package.

The dictionary is one BinaryCIF file: each column is an array of numbers, and texts are numbers that point
into one long string. biotite's own `get_from_ccd` decodes everything into arrays of texts and keeps them, in
4 s and 1.4 GB. Here biotite decodes the numbers of one column at a time, and only the wanted rows become
texts: 0.4 s and 0.1 GB, nothing of which stays.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import resources
from pathlib import Path
from typing import Any

from flashbias_fold.errors import SetupError

# A component as texts: category -> column -> a value for each row. As in mmCIF, "?" is unknown and "."
# does not apply. A category without rows (the bonds of an ion) is absent.
Tables = dict[str, dict[str, list[str]]]

# All that Protenix (ccd.py, and the writer of its CIF files) and pdbeccdutils read. The first column of
# each category is the component's code.
_COLUMNS = {
    "chem_comp": (
        "id",
        "name",
        "type",
        "pdbx_synonyms",
        "formula",
        "formula_weight",
        "one_letter_code",
        "pdbx_modified_date",
        "pdbx_release_status",
    ),
    "chem_comp_atom": (
        "comp_id",
        "atom_id",
        "alt_atom_id",
        "type_symbol",
        "charge",
        "pdbx_leaving_atom_flag",
        "pdbx_component_atom_id",
        "model_Cartn_x",
        "model_Cartn_y",
        "model_Cartn_z",
        "pdbx_model_Cartn_x_ideal",
        "pdbx_model_Cartn_y_ideal",
        "pdbx_model_Cartn_z_ideal",
    ),
    "chem_comp_bond": ("comp_id", "atom_id_1", "atom_id_2", "value_order", "pdbx_aromatic_flag"),
}


def dictionary_file() -> Path:
    """The file in biotite's package that holds the dictionary."""
    path = Path(str(resources.files("biotite.structure.info") / "components.bcif"))
    if not path.is_file():
        raise SetupError(f"biotite is installed without its chemical component dictionary: {path} is missing")
    return path


def read_codes() -> list[str]:
    """The codes of all components, in order."""
    return _Column(_open()["_chem_comp"]["id"]).texts(slice(None))


def read_tables(codes: Collection[str]) -> dict[str, Tables]:
    """The definitions of these components, for those of them that the dictionary has."""
    categories = _open()
    found: dict[str, Tables] = {}
    for category, names in _COLUMNS.items():
        raw = categories[f"_{category}"]
        rows = _Column(raw[names[0]]).runs_of(frozenset(codes))
        for name in names:
            column = _Column(raw[name])
            for code, where in rows.items():
                found.setdefault(code, {}).setdefault(category, {})[name] = column.texts(where)
    return found


def _open() -> dict[str, dict[str, Any]]:
    """The file's columns as they are encoded, by category and name."""
    from biotite.structure.io.pdbx import BinaryCIFFile

    # What has not been decoded is serialised as it was read.
    (block,) = BinaryCIFFile.read(str(dictionary_file())).serialize()["dataBlocks"]
    return {
        category["name"]: {column["name"]: column for column in category["columns"]}
        for category in block["categories"]
    }


class _Column:
    """A column of a BinaryCIF file; its values become texts when they are asked for."""

    def __init__(self, raw: dict[str, Any]) -> None:
        data, mask = raw["data"], raw["mask"]
        strings = data["encoding"][0]
        self._text: str | None = None
        if strings["kind"] == "StringArray":
            # The values say which string; the strings lie one after the other in one text.
            self._values = _decode(data["data"], strings["dataEncoding"])
            self._text = strings["stringData"]
            self._offsets = _decode(strings["offsets"], strings["offsetEncoding"]).tolist()
        else:
            self._values = _decode(data["data"], data["encoding"])
        self._mask = None if mask is None else _decode(mask["data"], mask["encoding"])

    def texts(self, rows: slice) -> list[str]:
        """Values as the mmCIF file of the dictionary writes them."""
        texts = [self._as_text(value) for value in self._values[rows].tolist()]
        if self._mask is None:
            return texts
        marks = {1: ".", 2: "?"}
        return [marks.get(mask, text) for mask, text in zip(self._mask[rows].tolist(), texts, strict=True)]

    def runs_of(self, codes: frozenset[str]) -> dict[str, slice]:
        """The rows of each of these components, which the dictionary keeps together."""
        import numpy as np

        values = self._values
        starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
        stops = np.append(starts[1:], len(values))
        owners = [self._as_text(value) for value in values[starts].tolist()]
        runs = zip(owners, starts.tolist(), stops.tolist(), strict=True)
        return {owner: slice(start, stop) for owner, start, stop in runs if owner in codes}

    def _as_text(self, value: Any) -> str:
        if self._text is not None:
            return self._text[self._offsets[value] : self._offsets[value + 1]]
        # The mmCIF file gives three decimals to all numbers that are not whole ones by nature.
        return f"{value:.3f}" if isinstance(value, float) else str(value)


def _decode(data: bytes, encoding: list[dict[str, Any]]) -> Any:
    from biotite.structure.io.pdbx import BinaryCIFData

    return BinaryCIFData.deserialize({"data": data, "encoding": encoding}).array
