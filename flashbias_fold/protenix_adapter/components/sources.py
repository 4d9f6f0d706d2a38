"""The choice of a source, and the one that serves biotite's dictionary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from flashbias_fold.protenix_adapter.components import protenix_state
from flashbias_fold.protenix_adapter.components.catalog import Components
from flashbias_fold.protenix_adapter.components.dictionary import dictionary_file, read_codes, read_tables
from flashbias_fold.protenix_adapter.components.jobs import (
    AMINO_ACIDS,
    DEOXYRIBONUCLEOTIDES,
    RIBONUCLEOTIDES,
    codes_in,
)
from flashbias_fold.protenix_adapter.components.molecules import build_molecule
from flashbias_fold.protenix_adapter.components.official import OfficialComponents, official_files
from flashbias_fold.protenix_adapter.components.store import Component, ComponentStore

# Made along with whatever is missing, so that most jobs after the first find all they need on disk.
_COMMON = (
    AMINO_ACIDS
    | RIBONUCLEOTIDES
    | DEOXYRIBONUCLEOTIDES
    | codes_in("MSE SEP TPO PTR ACE NME NH2")
    | codes_in("HOH NA K MG CA MN FE FE2 CO NI CU ZN CD CL BR IOD PO4 SO4 NO3")
    | codes_in("ATP ADP AMP GTP GDP HEM SAM NAG MAN BMA GOL EDO")
)


def open_components(protenix_root: Path | None = None, cache_dir: Path | None = None) -> Components:
    """The components to use: Protenix's own files where both are on disk, else biotite's dictionary.

    Args:
        protenix_root: Protenix's folder; by default $PROTENIX_ROOT_DIR, else the home folder.
        cache_dir: Where to keep what is made of biotite's dictionary; by default $FLASHBIAS_FOLD_CACHE,
            else the user's cache folder.
    """
    if files := official_files(protenix_root):
        return OfficialComponents(*files)
    return BiotiteComponents(ComponentStore(cache_dir))


class BiotiteComponents(Components):
    """Components made from biotite's dictionary when they are first asked for."""

    source: Literal["official", "biotite"] = "biotite"

    def __init__(self, store: ComponentStore) -> None:
        self._store = store
        self._held: dict[str, Component] = {}
        self._codes: frozenset[str] | None = None
        self._blocks = _OnDemand(self, _block)
        self._molecules = _OnDemand(self, _molecule)

    def describe(self) -> str:
        """The dictionary's version and size, and where components are kept."""
        from importlib.metadata import version

        megabytes = dictionary_file().stat().st_size / 1e6
        return (
            f"biotite {version('biotite')} ({len(self.codes):,} components, {megabytes:.0f} MB, "
            f"inside the package); cache: {self._store}"
        )

    @property
    def codes(self) -> frozenset[str]:
        """All codes of the dictionary."""
        if self._codes is None:
            codes = self._store.codes()
            if codes is None:
                codes = read_codes()
                self._store.keep_codes(codes)
            self._codes = frozenset(codes)
        return self._codes

    def __contains__(self, code: object) -> bool:
        return isinstance(code, str) and code in self.codes

    def ensure(self, codes: Iterable[str]) -> None:
        """Take the components from the cache, and make all that it lacks in one reading of the dictionary."""
        missing = set()
        for code in set(codes) - self._held.keys():
            if code not in self:
                continue
            if component := self._store.get(code):
                self._held[code] = component
            else:
                missing.add(code)
        if missing:
            self._make(missing)

    def _make(self, codes: set[str]) -> None:
        # Reading the dictionary takes the same time for one component and for many.
        if self._store.is_writable:
            codes |= {code for code in _COMMON if not self._store.has(code)}
        for code, tables in read_tables(codes).items():
            component = Component(code, tables, build_molecule(code, tables))
            self._store.keep(component)
            self._held[code] = component

    def component(self, code: str) -> Component:
        """A component, made if need be. Raises KeyError for an unknown code."""
        self.ensure((code,))
        return self._held[code]

    def _column(self, code: str, category: str, name: str) -> list[str]:
        if code not in self:
            return []
        return self.component(code).tables.get(category, {}).get(name, [])

    def _serve(self) -> None:
        protenix_state.answer_from(self._blocks, self._molecules)


class _OnDemand(Mapping[str, Any]):
    """All components in one of the forms that Protenix reads, each made when it is first looked up."""

    def __init__(self, components: BiotiteComponents, make: Callable[[Component], Any]) -> None:
        self._components = components
        self._make = make
        self._made: dict[str, Any] = {}

    def __getitem__(self, code: str) -> Any:
        if code not in self._made:
            self._made[code] = self._make(self._components.component(code))
        return self._made[code]

    def __contains__(self, code: object) -> bool:
        return code in self._components

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._components.codes))

    def __len__(self) -> int:
        return len(self._components.codes)


def _block(component: Component) -> Any:
    """The definition, as biotite's CIF file object gives it."""
    from biotite.structure.io.pdbx import CIFBlock, CIFCategory

    categories = {name: CIFCategory(columns, name) for name, columns in component.tables.items()}
    return CIFBlock(categories, component.code)


def _molecule(component: Component) -> Any:
    """The reference molecule, or None, which Protenix knows how to take."""
    return component.molecule and component.molecule.to_rdkit(component.code)
