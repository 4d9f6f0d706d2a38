"""What every source of components can do, wherever it reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from flashbias_fold.protenix_adapter.components import protenix_state
from flashbias_fold.protenix_adapter.components.jobs import job_codes

Kind = Literal["protein", "dna", "rna", "ligand"]


class Components(ABC):
    """The chemical components that Protenix is given, and a catalog of them for checking an input.

    A code may be any string, straight from a user's file: one that the dictionary lacks has no atoms and
    counts as a ligand, which is also Protenix's answer.
    """

    source: Literal["official", "biotite"]

    @abstractmethod
    def describe(self) -> str:
        """One line on where the components come from."""

    @abstractmethod
    def ensure(self, codes: Iterable[str]) -> None:
        """Get these components ready in one go; unknown codes are skipped."""

    @abstractmethod
    def __contains__(self, code: object) -> bool: ...

    @abstractmethod
    def _column(self, code: str, category: str, name: str) -> list[str]:
        """One column of a component's definition; empty if it has no such category, or is unknown."""

    @abstractmethod
    def _serve(self) -> None:
        """Make Protenix's functions answer from this source."""

    def install(self, codes: Iterable[str] = ()) -> None:
        """Make Protenix's functions answer from this source, with these components ready."""
        self._serve()
        self.ensure(codes)

    def install_for(self, job: Mapping[str, Any]) -> None:
        """The same, with the components of one job of a Protenix JSON file ready."""
        self.install(job_codes(job))

    def heavy_atoms(self, code: str) -> tuple[str, ...]:
        """The names of all atoms but hydrogens, leaving atoms included, in the dictionary's order."""
        names = self._column(code, "chem_comp_atom", "atom_id")
        elements = self._column(code, "chem_comp_atom", "type_symbol")
        return tuple(name for name, element in zip(names, elements, strict=True) if element not in ("H", "D"))

    def leaving_atoms(self, code: str) -> frozenset[str]:
        """The atoms that leave when the component is bonded to another one."""
        names = self._column(code, "chem_comp_atom", "atom_id")
        flags = self._column(code, "chem_comp_atom", "pdbx_leaving_atom_flag")
        return frozenset(name for name, flag in zip(names, flags, strict=True) if flag == "Y")

    def can_be_built(self, code: str) -> bool:
        """Whether Protenix can make atoms of it.

        It cannot where there are no heavy atoms, and it stops at a component that has neither all ideal nor
        all measured coordinates, of which the dictionary has 63.
        """
        columns = ("pdbx_model_Cartn_x_ideal", "model_Cartn_x")
        coordinates = [self._column(code, "chem_comp_atom", column) for column in columns]
        return bool(self.heavy_atoms(code)) and any("?" not in texts for texts in coordinates)

    def leaving_groups(self, code: str) -> dict[str, tuple[tuple[str, ...], ...]] | None:
        """For each atom that can be bonded, the groups of heavy atoms of which one leaves with each bond.

        None where a group hangs on more than one atom: Protenix cannot bond such a component. The answer is
        Protenix's own, so asking makes this source the one that serves Protenix.
        """
        if not self.heavy_atoms(code):
            return {}
        if not self.can_be_built(code):
            return None
        self._serve()
        atoms = protenix_state.protenix_ccd().get_component_atom_array(code, keep_leaving_atoms=True)
        groups = atoms.central_to_leaving_groups
        if groups is None:
            return None
        return {atom: tuple(map(tuple, its_groups)) for atom, its_groups in groups.items()}

    def kind(self, code: str) -> Kind:
        """What the component can be part of, by the same rule as Protenix's `get_mol_type`."""
        link_type = "".join(self._column(code, "chem_comp", "type")).upper()
        if "PEPTIDE" in link_type and link_type != "PEPTIDE-LIKE":
            return "protein"
        if "DNA" in link_type:
            return "dna"
        return "rna" if "RNA" in link_type else "ligand"
