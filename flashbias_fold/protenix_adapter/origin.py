"""Where a structure comes from, as every file of it says: files travel without the report beside them.

The same prediction gives the same text, so there is no date, no machine and no path in it.
"""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from flashbias_fold import __version__

DEMO_NOTICE = "DEMONSTRATION MODEL - NOT FOR SCIENCE"
_SOFTWARE_ITEMS = ("pdbx_ordinal", "name", "version", "type", "classification")
_PDB_WIDTH = 80
_REMARK = 6  # the first of those that the PDB format leaves to free text


@dataclass(frozen=True)
class Origin:
    """The origin of the structures of a seed.

    Attributes:
        model: Its name.
        demo_model: Whether it is the demonstration.
        bias: How the pair bias was computed: a value of `--bias`.
        plan: The digest of the plan, if a file says which layer is computed how.
        dtype: The arithmetic.
        steps: Denoising steps.
        cycles: Recycling cycles.
        seed: Of the random numbers.
    """

    model: str
    demo_model: bool
    bias: str
    plan: str | None
    dtype: str
    steps: int
    cycles: int
    seed: int

    def facts(self, sample: int) -> dict[str, Any]:
        """Return all that is known of a sample, by the names that reports use."""
        notice = {"notice": DEMO_NOTICE} if self.demo_model else {}
        return {**notice, **asdict(self), "sample": sample, "software": _software()}

    def title(self, sample: int) -> str:
        """Return the line that viewers show."""
        software = ", ".join(f"{program} {release}" for program, release in _software().items())
        said = (
            f"predicted by model {self.model}, bias {self.bias}, seed {self.seed}, sample {sample} "
            f"({software})"
        )
        return f"{DEMO_NOTICE}: {said}" if self.demo_model else said

    def cif_categories(self, name: str, sample: int) -> list[str]:
        """Return our categories of an mmCIF file, for the entry called `name`."""
        facts = self.facts(sample)
        software = [
            f"{number} {cif_value(program):<14} {cif_value(release)} package 'model building'"
            for number, (program, release) in enumerate(_software().items(), 1)
        ]
        own = {key: _cif_word(value) for key, value in facts.items() if key != "software"}
        return [
            _cif_items("struct", {"entry_id": cif_value(name), "title": cif_value(self.title(sample))}),
            "\n".join(("loop_", *(f"_software.{item}" for item in _SOFTWARE_ITEMS), *software)),
            _cif_items("flashbias_fold", own),
        ]

    def pdb_records(self, sample: int) -> list[str]:
        """Return the first lines of a PDB file: its title, and remarks for people."""
        facts = self.facts(sample)
        software = ", ".join(f"{program} {release}" for program, release in facts["software"].items())
        lines = [f"{key}: {_word(value)}" for key, value in {**facts, "software": software}.items()]
        return [*_pdb_title(self.title(sample)), *_pdb_remarks(lines)]

    def add_to_json(self, text: str, sample: int) -> str:
        """Return a JSON object's text with the facts after its own members, which stay as they are."""
        own = text.rstrip().removesuffix("}").rstrip()
        facts = json.dumps(self.facts(sample), indent=4).removeprefix("{")
        return f"{own},{facts}"

    def as_json(self, sample: int) -> str:
        """Return the facts as JSON in one line."""
        return json.dumps(self.facts(sample))


def _software() -> dict[str, str]:
    return {"protenix": version("protenix"), "flashbias-fold": __version__}


def cif_value(text: str) -> str:
    """Return `text` as a value that every reader of CIF takes for one, quoted where it has to be."""
    text = re.sub(r"[^ -~]", "_", text)
    reserved = re.match(r"(data|save|loop|stop|global)_", text, re.IGNORECASE)
    if re.fullmatch(r"[A-Za-z0-9][!#-&(-~]*", text) and not reserved:
        return text
    quote = "'" if "'" not in text else '"'
    return quote + text.replace(quote, "_") + quote


def _cif_word(value: Any) -> str:
    return "." if value is None else cif_value(_word(value))


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _cif_items(category: str, values: dict[str, str]) -> str:
    width = max(map(len, values)) + 3
    return "\n".join(f"_{category}.{item:<{width}}{value}" for item, value in values.items())


def _pdb_title(text: str) -> list[str]:
    first, *others = textwrap.wrap(text, _PDB_WIDTH - 11)
    continued = [f"TITLE   {number:>2} {line}" for number, line in enumerate(others, 2)]
    return [f"TITLE     {first}", *continued]


def _pdb_remarks(lines: list[str]) -> list[str]:
    wrapped = [part for line in lines for part in textwrap.wrap(line, _PDB_WIDTH - 11)]
    return [f"REMARK {_REMARK:>3}", *(f"REMARK {_REMARK:>3} {line}" for line in wrapped)]
