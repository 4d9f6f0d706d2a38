"""A catalog of components that is asked each question once, however many residues there are."""

from __future__ import annotations

from functools import cache

from flashbias_fold.inputs.jobs import ComponentCatalog


class CatalogCache:
    """A catalog that remembers the answers of another one.

    Thousands of chains consist of the same twenty components.
    """

    def __init__(self, catalog: ComponentCatalog) -> None:
        self._contains = cache(catalog.__contains__)
        self.heavy_atoms = cache(catalog.heavy_atoms)
        self.leaving_atoms = cache(catalog.leaving_atoms)
        self.leaving_groups = cache(catalog.leaving_groups)
        self.can_be_built = cache(catalog.can_be_built)
        self.kind = cache(catalog.kind)

    def __contains__(self, code: str) -> bool:
        """Return whether there is such a component."""
        return self._contains(code)
