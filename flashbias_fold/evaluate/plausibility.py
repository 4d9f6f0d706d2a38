"""Checks whether a structure can be one at all: backbone, bonds, clashes, chirality, extent.

The limits are wide on purpose, and no measure of quality: sound experimental structures and finished
predictions are within them, and what is beyond one of them can be no molecule. `docs/predict.md` says where
each comes from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from biotite import structure as struc
from biotite.structure import AtomArray
from numpy.typing import NDArray
from scipy.spatial import cKDTree

# Angstroms. Ideal are 1.33 (C-N), 1.61 (O3'-P), and 3.8 between C-alphas, 2.9 where the bond is cis.
MOST_LINK, LEAST_LINK = {("C", "N"): 2.0, ("O3'", "P"): 2.5}, 0.7
MOST_ALPHAS, LEAST_ALPHAS = 4.5, 2.3
MOST_BOND = 3.5  # no two atoms are bonded across more, metals included
CLASH = 1.5  # no two heavy atoms that are not bonded come as near as a bond between carbons
MOST_CLASHING_ATOMS = 4
# Of a chain's atoms, with any and with those of other chains; of chains with few atoms, such as ions.
MOST_CLASHING, MOST_CLASHING_OUTSIDE, MOST_CLASHING_OF_FEW = 0.05, 0.02, 0.5
BOND_TOLERANCE, MOST_OFF = 0.2, 1 / 3
MOST_SCALE = 0.08  # of the median bond of a chain
MOST_MIRRORED, MOST_MIRRORED_SHARE = 1, 0.05
MOST_GAP = 100.0  # between a chain and the rest
_RESIDUE_SPAN, _NUCLEOTIDE_SPAN, _ATOM_SPAN = 3.8, 7.0, 1.5  # how far each can reach
_SPARE_RADIUS = 10.0
_FEWEST_BONDS = 10  # that a median is taken of
_LEAST_VOLUME = 1.0  # cubic Angstroms that the neighbours of a chiral atom span; of a flat one they span none
_MOST_NEIGHBOURS = 16  # that are looked at around an atom; bonded ones are six at most
_CELL, _MOST_IN_CELL = 3.0, 100  # of a sound structure there are eight; a search among more would take long
_MOST_PROBLEMS = 10
# Chiral atoms of polymers, with three of their neighbours.
_CENTRES = {
    "CA": ("N", "C", "CB"),
    "C3'": ("C2'", "C4'", "O3'"),
    "C4'": ("C3'", "O4'", "C5'"),
}

Coordinates = NDArray[np.floating]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


def find_problems(atoms: AtomArray, reference: Coordinates) -> list[str]:
    """Find what makes a structure impossible, in short texts with numbers and the worst place of each.

    Args:
        atoms: The heavy atoms of all chains, ligands and ions, with all their covalent bonds, those between
            residues included: what is bonded is a neighbour, whatever its number.
        reference: [atoms, 3] coordinates of each residue by itself, in any frame, that have the right bond
            lengths and chirality; not a number where these are unknown.
    """
    if not len(atoms):
        return []
    finite = np.isfinite(atoms.coord).all(axis=-1)
    if not finite.all():
        return [f"{int((~finite).sum()):,} of {len(atoms):,} atoms have no finite coordinates"]
    structure = _Structure(atoms, np.asarray(reference, dtype=np.float64))
    checks = (_check_links, _check_bonds, _check_clashes, _check_chirality, _check_extent)
    problems = [problem for check in checks for problem in check(structure)]
    if len(problems) > _MOST_PROBLEMS:
        more = len(problems) - _MOST_PROBLEMS
        problems = [*problems[:_MOST_PROBLEMS], f"and {more:,} more problems"]
    return problems


@dataclass(frozen=True, eq=False)
class _Structure:
    """A structure taken apart once for all checks."""

    atoms: AtomArray
    reference: Coordinates

    @cached_property
    def coord(self) -> Coordinates:
        return self.atoms.coord.astype(np.float64)

    @cached_property
    def residues(self) -> Indices:
        """The residue of each atom, counted from 0."""
        return struc.get_residue_positions(self.atoms, np.arange(len(self.atoms))).astype(np.int64)

    @cached_property
    def chains(self) -> tuple[NDArray[np.str_], Indices]:
        """The chains' names, and the chain of each atom."""
        names, chain_of = np.unique(self.atoms.chain_id, return_inverse=True)
        return names, chain_of.astype(np.int64)

    @cached_property
    def bonds(self) -> tuple[Indices, Indices]:
        """Both ends of each bond; of a link of the backbone, the end that comes first along the chain."""
        pairs = np.empty((0, 2)) if self.atoms.bonds is None else self.atoms.bonds.as_array()[:, :2]
        left, right = pairs.astype(np.int64).T
        names = self.atoms.atom_name
        backwards = np.zeros(len(left), dtype=bool)
        for first, second in MOST_LINK:
            backwards |= (names[left] == second) & (names[right] == first)
        return np.where(backwards, right, left), np.where(backwards, left, right)

    def is_link(self, first: str, second: str) -> Mask:
        """Which bonds link two residues of a polymer by these atoms."""
        left, right = self.bonds
        names, (_, chain_of) = self.atoms.atom_name, self.chains
        between = (self.residues[left] != self.residues[right]) & (chain_of[left] == chain_of[right])
        return between & (names[left] == first) & (names[right] == second)

    def atoms_named(self, name: str) -> Indices:
        """The atom of that name of each residue, -1 where there is none."""
        atom_of = np.full(int(self.residues[-1]) + 1, -1, dtype=np.int64)
        (where,) = np.nonzero(self.atoms.atom_name == name)
        atom_of[self.residues[where]] = where
        return atom_of

    @cached_property
    def bond_codes(self) -> Indices:
        """A number for each bond, in order."""
        return np.sort(_code(*self.bonds, len(self.atoms)))

    def are_bonded(self, left: Indices, right: Indices) -> Mask:
        """Which pairs of atoms are bonded; -1 is no atom."""
        asked, known = _code(left, right, len(self.atoms)), self.bond_codes
        return (left >= 0) & (right >= 0) & _contains(known, asked)

    def distances(self, left: Indices, right: Indices) -> Coordinates:
        return np.linalg.norm(self.coord[left] - self.coord[right], axis=-1)

    def of_each_chain(self, atoms: Indices) -> Iterator[tuple[str, Indices]]:
        """Each chain that has some of these atoms, and where in `atoms` they stand."""
        names, chain_of = self.chains
        order = np.argsort(chain_of[atoms], kind="stable")
        numbers, starts = np.unique(chain_of[atoms][order], return_index=True)
        stops = [*starts[1:], len(order)]
        for number, start, stop in zip(numbers, starts, stops[: len(starts)], strict=True):
            yield str(names[number]), order[start:stop]

    def residue(self, atom: int) -> str:
        return f"{self.atoms.res_name[atom]} {self.atoms.res_id[atom]}"

    def site(self, atom: int) -> str:
        return f"{self.atoms.chain_id[atom]} {self.residue(atom)} {self.atoms.atom_name[atom]}"


def _check_links(structure: _Structure) -> Iterator[str]:
    """Look for neighbours along a chain that are too far apart, or too near."""
    for (first, second), most in MOST_LINK.items():
        links = structure.is_link(first, second)
        begins, ends = (atoms[links] for atoms in structure.bonds)
        lengths, steps = structure.distances(begins, ends), _alpha_steps(structure, begins, ends)
        for chain, where in structure.of_each_chain(begins):
            bounds = begins[where], ends[where]
            yield from _check_chain_links(structure, chain, bounds, lengths[where], steps[where], most)


def _check_chain_links(
    structure: _Structure,
    chain: str,
    bounds: tuple[Indices, Indices],
    lengths: Coordinates,
    steps: Coordinates,
    most: float,
) -> Iterator[str]:
    begins, ends = bounds
    broken = (lengths > most) | (steps > MOST_ALPHAS)
    short = ((lengths < LEAST_LINK) | (steps < LEAST_ALPHAS)) & ~broken
    if broken.any():
        # Between C-alphas where these say so: that is the distance that people look at.
        shown = np.where(steps > MOST_ALPHAS, steps, lengths)
        worst = int(np.argmax(np.where(broken, shown, -np.inf)))
        breaks = _counted(int(broken.sum()), "break")
        place = _between(structure, begins[worst], ends[worst])
        yield f"chain {chain}: {breaks} of the backbone, the longest {_angstroms(shown[worst])} {place}"
    if short.any():
        shown = np.where(steps < LEAST_ALPHAS, steps, lengths)
        worst = int(np.argmin(np.where(short, shown, np.inf)))
        links = _counted(int(short.sum()), "link")
        place = _between(structure, begins[worst], ends[worst])
        shortest = _angstroms(shown[worst])
        yield f"chain {chain}: {links} of the backbone too short, the shortest {shortest} {place}"


def _alpha_steps(structure: _Structure, begins: Indices, ends: Indices) -> Coordinates:
    """Distances between the C-alphas of linked residues; not a number where one has none."""
    alphas = structure.atoms_named("CA")
    left, right = alphas[structure.residues[begins]], alphas[structure.residues[ends]]
    # Only where a C-alpha lies between N and C: residues of other kinds may be longer.
    usual = _is_alpha(structure, left) & _is_alpha(structure, right)
    return np.where(usual, structure.distances(left, right), np.nan)


def _is_alpha(structure: _Structure, atoms: Indices) -> Mask:
    """Which atoms are bonded to both an N and a C of their residue; -1 is none."""
    bonded = [structure.are_bonded(atoms, _partners(structure, atoms, name)) for name in ("N", "C")]
    return (atoms >= 0) & bonded[0] & bonded[1]


def _partners(structure: _Structure, atoms: Indices, name: str) -> Indices:
    """The atom of a name in the residue of each of these; -1 where there is none."""
    return np.where(atoms >= 0, structure.atoms_named(name)[structure.residues[atoms]], -1)


def _check_bonds(structure: _Structure) -> Iterator[str]:
    """Look for bonds that are torn, and for chains whose bonds are not those of their residues."""
    left, right = structure.bonds
    links = structure.is_link("C", "N") | structure.is_link("O3'", "P")  # these have their own check
    left, right = left[~links], right[~links]
    lengths = structure.distances(left, right)
    ideal = np.linalg.norm(structure.reference[left] - structure.reference[right], axis=-1)
    ideal[structure.residues[left] != structure.residues[right]] = np.nan
    for chain, where in structure.of_each_chain(left):
        torn = lengths[where] > MOST_BOND
        if torn.any():
            worst = where[np.argmax(lengths[where])]
            place = f"between {structure.site(left[worst])} and {structure.site(right[worst])}"
            bonds = _counted(int(torn.sum()), "bond")
            yield f"chain {chain}: {bonds} torn, the longest {_angstroms(lengths[worst])} {place}"
        known = where[ideal[where] > LEAST_LINK]
        if len(known) >= _FEWEST_BONDS:
            yield from _check_lengths(chain, lengths[known] / ideal[known])


def _check_lengths(chain: str, ratios: Coordinates) -> Iterator[str]:
    scale = float(np.median(ratios))
    if abs(scale - 1) > MOST_SCALE:
        yield f"chain {chain}: bonds have {scale:,.2f} times their ideal length (median of {len(ratios):,})"
        return
    off = float((abs(ratios - 1) > BOND_TOLERANCE).mean())
    if off > MOST_OFF:
        yield (
            f"chain {chain}: {off:.0%} of {len(ratios):,} bonds are more than {BOND_TOLERANCE:.0%} off "
            "their ideal length"
        )


def _check_clashes(structure: _Structure) -> Iterator[str]:
    """Look for chains of which many atoms lie within others."""
    most = _count_in_fullest_cell(structure.coord)
    if most > _MOST_IN_CELL:
        yield f"{most:,} atoms within a cube of {_CELL:.0f} A"
        return
    atoms, others, distances = _clashes(structure)
    names, chain_of = structure.chains
    sizes = np.bincount(chain_of, minlength=len(names))
    outside = chain_of[atoms] != chain_of[others]
    many = np.zeros(len(names), dtype=bool)
    for mine, share in (
        (np.unique(atoms), MOST_CLASHING),
        (np.unique(atoms[outside]), MOST_CLASHING_OUTSIDE),
    ):
        clashing = np.bincount(chain_of[mine], minlength=len(names))
        many |= (clashing > MOST_CLASHING_ATOMS) & (clashing > share * sizes)
        many |= clashing >= MOST_CLASHING_OF_FEW * sizes
    clashing = np.bincount(chain_of[np.unique(atoms)], minlength=len(names))
    for number in np.flatnonzero(many):
        of_chain = np.flatnonzero(chain_of[atoms] == number)
        worst = of_chain[np.argmin(distances[of_chain])]
        yield (
            f"chain {names[number]}: {clashing[number]:,} of {_counted(int(sizes[number]), 'atom')} clash, "
            f"the nearest {_angstroms(distances[worst])} between {structure.site(atoms[worst])} and "
            f"{structure.site(others[worst])}"
        )


def _count_in_fullest_cell(coord: Coordinates) -> int:
    cells = np.floor(coord / _CELL)
    return int(np.unique(cells, axis=0, return_counts=True)[1].max())


def _clashes(structure: _Structure) -> tuple[Indices, Indices, Coordinates]:
    """Pairs of atoms that are too near each other, of residues that no bond joins; each pair both ways."""
    tree = cKDTree(structure.coord)
    count = min(_MOST_NEIGHBOURS, len(structure.atoms) - 1) + 1
    distances, others = tree.query(structure.coord, k=count, distance_upper_bound=CLASH)
    distances, others = distances.reshape(-1), others.reshape(-1)
    atoms = np.repeat(np.arange(len(structure.atoms)), count)
    near = np.isfinite(distances)
    atoms, others, distances = atoms[near], others[near], distances[near]
    residues, size = structure.residues, len(structure.atoms)
    left, right = structure.bonds
    joined = np.sort(_code(residues[left], residues[right], size))
    pairs = _code(residues[atoms], residues[others], size)
    apart = (residues[atoms] != residues[others]) & ~_contains(joined, pairs)
    return atoms[apart], others[apart], distances[apart]


def _check_chirality(structure: _Structure) -> Iterator[str]:
    """Look for chains with mirrored residues."""
    centres = [_mirrored_and_all(structure, name, around) for name, around in _CENTRES.items()]
    mirrored, chiral = (np.concatenate(column) for column in zip(*centres, strict=True))
    for chain, where in structure.of_each_chain(chiral):
        wrong = chiral[where][mirrored[where]]
        if len(wrong) > MOST_MIRRORED and len(wrong) > MOST_MIRRORED_SHARE * len(where):
            first = int(wrong.min())
            yield (
                f"chain {chain}: {len(wrong):,} of {len(where):,} chiral centres are mirrored, such as "
                f"{structure.atoms.atom_name[first]} of {structure.residue(first)}"
            )


def _mirrored_and_all(structure: _Structure, name: str, around: tuple[str, ...]) -> tuple[Mask, Indices]:
    """Tell which chiral atoms of a name are the mirror images of their references, and return all of them."""
    centre = structure.atoms_named(name)
    neighbours = [structure.atoms_named(other) for other in around]
    is_whole = np.logical_and.reduce([structure.are_bonded(centre, other) for other in neighbours])
    centre, neighbours = centre[is_whole], [other[is_whole] for other in neighbours]
    ideal, predicted = (
        _volumes(*(coord[other] - coord[centre] for other in neighbours))
        for coord in (structure.reference, structure.coord)
    )
    chiral = abs(ideal) > _LEAST_VOLUME  # false where the reference is unknown
    return (predicted * ideal < 0)[chiral], centre[chiral]


def _code(left: Indices, right: Indices, size: int) -> Indices:
    """A number for each pair, whichever comes first."""
    return np.minimum(left, right) * size + np.maximum(left, right)


def _contains(ordered: Indices, asked: Indices) -> Mask:
    """Which numbers are among some that are in order."""
    if not len(ordered):
        return np.zeros(len(asked), dtype=bool)
    return ordered[np.minimum(np.searchsorted(ordered, asked), len(ordered) - 1)] == asked


def _volumes(first: Coordinates, second: Coordinates, third: Coordinates) -> Coordinates:
    return np.einsum("ni,ni->n", np.cross(first, second), third)


def _check_extent(structure: _Structure) -> Iterator[str]:
    """Look for a whole that is larger than its residues can reach, and for parts far from the rest."""
    centred = structure.coord - structure.coord.mean(axis=0)
    radius = float(np.sqrt((centred**2).sum(axis=-1).mean()))
    reach = _reach(structure)
    most = reach / np.sqrt(12) + _SPARE_RADIUS  # of a straight rod
    if radius > most:
        residues = _counted(int(structure.residues[-1]) + 1, "residue")
        yield (
            f"radius of gyration {_angstroms(radius)}, of {residues} stretched into a line it would be "
            f"{_angstroms(most)}"
        )
    yield from _check_gaps(structure)


def _reach(structure: _Structure) -> float:
    """Add up how long all residues would be in a line."""
    sizes = np.bincount(structure.residues)
    is_amino_acid = _is_alpha(structure, structure.atoms_named("CA"))
    is_nucleotide = structure.atoms_named("C4'") >= 0
    spans = np.where(
        is_amino_acid, _RESIDUE_SPAN, np.where(is_nucleotide, _NUCLEOTIDE_SPAN, _ATOM_SPAN * sizes)
    )
    return float(spans.sum())


def _check_gaps(structure: _Structure) -> Iterator[str]:
    """Follow chains from neighbour to neighbour, by the boxes around them; what is not reached is apart."""
    names, chain_of = structure.chains
    if len(names) == 1:
        return
    low, high = np.full((2, len(names), 3), [[[np.inf]], [[-np.inf]]])
    np.minimum.at(low, chain_of, structure.coord)
    np.maximum.at(high, chain_of, structure.coord)
    apart = np.ones(len(names), dtype=bool)
    first = int(np.argmax(np.bincount(chain_of)))
    pending, apart[first] = [first], False
    while pending and apart.any():
        chain = pending.pop()
        reached = apart & (_box_gaps(low[chain], high[chain], low, high) <= MOST_GAP)
        apart &= ~reached
        pending += np.flatnonzero(reached).tolist()
    if apart.any():
        gaps = [
            _box_gaps(low[one], high[one], low[~apart], high[~apart]).min() for one in np.flatnonzero(apart)
        ]
        worst = np.flatnonzero(apart)[int(np.argmax(gaps))]
        chains = _counted(int(apart.sum()), "chain")
        yield f"{chains} apart from the rest, the farthest {names[worst]}, {_angstroms(max(gaps))} away"


def _box_gaps(low: Coordinates, high: Coordinates, lows: Coordinates, highs: Coordinates) -> Coordinates:
    """The distance of a box to each of others; 0 where they overlap."""
    return np.linalg.norm(np.maximum(0, np.maximum(lows - high, low - highs)), axis=-1)


def _between(structure: _Structure, left: int, right: int) -> str:
    ids = structure.atoms.res_id
    return f"between residues {ids[left]} and {ids[right]}"


def _angstroms(distance: float) -> str:
    return f"{distance:,.0f} A" if distance >= 100 else f"{distance:.1f} A"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
