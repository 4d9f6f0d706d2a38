"""Which atoms Protenix will build for each residue, and so how many tokens.

A standard residue is one token; any other residue, and every ligand, is one token for each heavy atom.
Which atoms are there depends on the bonds: a bond sends one leaving group of each of its two atoms away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from flashbias_fold.inputs.jobs import ComponentCatalog
from flashbias_fold.inputs.sequences import PROTEIN

# Selenomethionine counts as methionine: Protenix renames it before it counts.
_STANDARD = frozenset([*PROTEIN.values(), "MSE", "A", "G", "C", "U", "N", "DA", "DG", "DC", "DT", "DN"])
_NUCLEIC = ("dna", "rna")


@dataclass(frozen=True)
class Residue:
    """A residue of a chain or a component of a ligand, with the atoms that are left of it.

    The code of a SMILES or a file is empty.
    """

    code: str
    kind: str
    atoms: tuple[str, ...]

    @property
    def is_standard(self) -> bool:
        """Whether it is one token. True of a free amino acid or nucleotide too: Protenix goes by the code."""
        return self.code in _STANDARD and self.kind != "ligand"

    @property
    def n_token(self) -> int:
        """The number of tokens that it becomes."""
        return 1 if self.is_standard else len(self.atoms)

    def without(self, atoms: Collection[str]) -> Residue:
        """The residue after these atoms have left."""
        return replace(self, atoms=tuple(name for name in self.atoms if name not in atoms))


@dataclass(frozen=True)
class Entity:
    """One entry of ``sequences``: its checked JSON form and what Protenix builds of it."""

    kind: str
    document: dict[str, Any]
    count: int
    residues: tuple[Residue, ...]
    atom_numbers: Mapping[int, str]

    @property
    def is_single_atoms(self) -> bool:
        """Whether it consists of components of one atom each, such as ions."""
        return all(residue.code and len(residue.atoms) == 1 for residue in self.residues)

    @property
    def n_token(self) -> int:
        """The tokens of all its copies, before bonds between entities."""
        return self.count * sum(residue.n_token for residue in self.residues)

    @property
    def n_atom(self) -> int:
        """The atoms of all its copies, before bonds between entities."""
        return self.count * sum(len(residue.atoms) for residue in self.residues)


@dataclass(frozen=True)
class Site:
    """A residue of one copy of an entity, all counted from 1; ``copy`` None is every copy."""

    entity: int
    copy: int | None
    position: int


def build_residue(code: str, catalog: ComponentCatalog) -> Residue:
    """A component with all its heavy atoms."""
    return Residue(code, catalog.kind(code), catalog.heavy_atoms(code))


def build_polymer(codes: Sequence[str], catalog: ComponentCatalog) -> tuple[Residue, ...]:
    """Build the residues of a chain after its own bonds have sent their leaving atoms away."""
    free = {code: build_residue(code, catalog) for code in set(codes)}
    links = [_link(free[left], free[right]) for left, right in pairwise(codes)]
    # A chain has hundreds of residues and few kinds: those with the same links are the same.
    built: dict[tuple[str, _Link | None, _Link | None], Residue] = {}
    chain = []
    for key in zip(codes, [_END, *links], [*links, _END], strict=True):
        if key not in built:
            built[key] = _link_up(free[key[0]], key[1], key[2], catalog)
        chain.append(built[key])
    return tuple(chain)


def left_by(atom: str, n_bond: int, code: str, catalog: ComponentCatalog) -> tuple[str, ...]:
    """The atoms that leave a component when one of its atoms is bonded so many times."""
    if not code:  # a SMILES or a file, of which nothing leaves
        return ()
    groups = (catalog.leaving_groups(code) or {}).get(atom, ())
    return tuple(name for group in groups[:n_bond] for name in group)


def can_be_bonded(code: str, catalog: ComponentCatalog) -> bool:
    """Whether Protenix can bond the component; a SMILES or a file, which has no code, always can be."""
    return not code or catalog.leaving_groups(code) is not None


def count_tokens_and_atoms(
    entities: Sequence[Entity],
    bonded: Sequence[tuple[Site, str]],
    split: Sequence[Site],
    catalog: ComponentCatalog,
) -> tuple[int, int]:
    """The tokens and atoms of a job.

    ``bonded`` are both ends of each bond between entities. ``split`` are the residues of contacts between
    two atoms: Protenix makes a token of each of their atoms.
    """
    n_token = sum(entity.n_token for entity in entities)
    n_atom = sum(entity.n_atom for entity in entities)
    bonds_at: dict[Site, Counter[str]] = {}
    for site, atom in bonded:
        for one in _copies(site, entities):
            bonds_at.setdefault(one, Counter())[atom] += 1
    split_sites = set(split)
    for site in bonds_at.keys() | split_sites:
        before = entities[site.entity - 1].residues[site.position - 1]
        after = before
        for atom, n_bond in bonds_at.get(site, Counter()).items():
            after = after.without(left_by(atom, n_bond, before.code, catalog))
        n_atom += len(after.atoms) - len(before.atoms)
        n_token += (len(after.atoms) if site in split_sites else after.n_token) - before.n_token
    return n_token, n_atom


@dataclass(frozen=True, eq=False)
class _Link:
    left: str
    right: str
    leaves_atoms: bool = True


_PEPTIDE = _Link("C", "N")
_PHOSPHODIESTER = _Link("O3'", "P")
_CAP = _Link("C", "N", leaves_atoms=False)
# Where a chain ends there is no neighbour to be linked to; None is a neighbour without a link.
_END = _Link("", "", leaves_atoms=False)


def _link(left: Residue, right: Residue) -> _Link | None:
    """Return the bond between two neighbours of a chain, if Protenix makes one."""
    link: _Link | None = None
    if left.kind == right.kind == "protein":
        link = _PEPTIDE
    elif left.kind in _NUCLEIC and right.kind in _NUCLEIC:
        link = _PHOSPHODIESTER
    elif left.code == "ACE" or right.code == "NME":
        link = _CAP
    return link if link and link.left in left.atoms and link.right in right.atoms else None


def _link_up(
    residue: Residue, before: _Link | None, after: _Link | None, catalog: ComponentCatalog
) -> Residue:
    """Take away what a residue loses by the links to its neighbours."""
    gone: set[str] = set()
    if before is not None and before.leaves_atoms:
        gone.update(left_by(before.right, 1, residue.code, catalog))
    if after is not None and after.leaves_atoms:
        gone.update(left_by(after.left, 1, residue.code, catalog))
    if before is None or after is None:
        # Protenix takes all leaving atoms from both sides of a break, except at the ends of the chain.
        gone |= _leaving_at_break(residue, before is _END, after is _END, catalog)
    return residue.without(gone)


def _leaving_at_break(residue: Residue, first: bool, last: bool, catalog: ComponentCatalog) -> frozenset[str]:
    leaving = set(catalog.leaving_atoms(residue.code))
    if first and residue.kind in _NUCLEIC:
        leaving.discard("OP3")
    if last and residue.kind == "protein":
        leaving.discard("OXT")
    return frozenset(leaving)


def _copies(site: Site, entities: Sequence[Entity]) -> list[Site]:
    if site.copy is not None:
        return [site]
    return [replace(site, copy=copy) for copy in range(1, entities[site.entity - 1].count + 1)]
