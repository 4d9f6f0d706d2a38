"""Which part of a model is which of a reference, and which residue which.

Chains match by sequence, ligands and ions by name. Where several are alike, no name that a file gives them
counts: of all ways to pair them, the one is taken in which the two structures agree best.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, permutations, product
from math import perm, prod

import numpy as np
from biotite import structure as struc
from biotite.sequence.align import SubstitutionMatrix, align_optimal
from biotite.structure import AtomArray
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components

from flashbias_fold.accuracy import (
    FEWEST_RESIDUES,
    GAP_PENALTY,
    INCLUSION_RADIUS,
    LEAST_IDENTITY,
    numbered,
    shared,
    tm_scale,
)
from flashbias_fold.compare.parts import POLYMERS, PROTEIN, Part
from flashbias_fold.errors import InputError

# Random bases agree far more often than random amino acids.
_LEAST_IDENTITY_OF_BASES = 0.75
# Subunits of one family are alike enough to be aligned, yet each has its own partner.
_SHARE_OF_THE_BEST = 0.9

# Every pairing is tried up to that of five identical chains; the time of more would be felt.
_MOST_PAIRINGS = 120
_MOST_ANCHORS = 64
_MOST_COMPARED = 8
_FEWEST_PAIRS = 3  # that fix a rotation
_LEAST_SCALE = 4.0  # Angstroms; the TM-score's own scale is too strict for short chains
_POCKET = 50  # residues that say where a ligand is

Coordinates = NDArray[np.float32]
Indices = NDArray[np.int64]
Pairing = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Match:
    """A part of the reference and its partner.

    Attributes:
        reference: The part.
        model: Its partner, or None where the model lacks it.
        theirs: The residues of the reference that both have.
        ours: Those of the model, in the same order.
    """

    reference: Part
    model: Part | None
    theirs: Indices
    ours: Indices

    @property
    def same(self) -> NDArray[np.bool_]:
        """Which of the residues in both are of one kind."""
        if self.model is None:
            return np.zeros(0, dtype=bool)
        return self.reference.sequence.code[self.theirs] == self.model.sequence.code[self.ours]

    @property
    def identity(self) -> float:
        """The share of the shorter chain that agrees; 0 where they are no chains of one sequence."""
        if self.model is None:
            return 0.0
        shorter = min(len(self.model), len(self.reference))
        least = LEAST_IDENTITY if self.reference.kind == PROTEIN else _LEAST_IDENTITY_OF_BASES
        agree = int(self.same.sum())
        return agree / shorter if agree >= max(least * shorter, min(FEWEST_RESIDUES, shorter)) else 0.0

    def placed(self) -> Coordinates:
        """Where the model has the residues of the reference; nowhere (NaN) those that it lacks."""
        coord = np.full((len(self.reference), 3), np.nan, dtype=np.float32)
        if self.model is not None:
            coord[self.theirs] = self.model.stand_ins.coord[self.ours]
        return coord


def matched(model: list[Part], reference: list[Part]) -> list[Match]:
    """Find the partner of each part of the reference, in the order of the reference.

    Raises:
        InputError: No chain is of the same sequence, or the chains have too few residues in common.
    """
    ours, theirs = ([part for part in parts if part.kind in POLYMERS] for parts in (model, reference))
    table = _table(ours, theirs)
    allowed = _allowed(table, len(ours))
    if not allowed.any():
        raise InputError(_difference(ours, theirs, table))
    chains = _best(table, allowed)
    if sum(len(match.theirs) for match in chains) < FEWEST_RESIDUES:
        raise InputError(f"expected at least {FEWEST_RESIDUES} residues in common")
    return chains + _components(model, reference, chains)


def alone(part: Part) -> Match:
    """A part of the reference that the model lacks."""
    nothing = np.zeros(0, dtype=np.int64)
    return Match(part, None, nothing, nothing)


def joined(matches: list[Match]) -> tuple[AtomArray, Coordinates]:
    """What stands for the reference's residues, each chain under its own name, and where the model has it."""
    chains = [match for match in matches if match.reference.kind in POLYMERS]
    stand_ins = [match.reference.stand_ins for match in chains]
    atoms = renamed(struc.concatenate(stand_ins), np.repeat(np.arange(len(chains)), [*map(len, stand_ins)]))
    return atoms, np.concatenate([match.placed() for match in chains])


def renamed(atoms: AtomArray, chains: Indices, residues: Indices | None = None) -> AtomArray:
    """Atoms whose chains and residues are told apart by numbers, whatever their files called them."""
    atoms = atoms.copy()
    atoms.set_annotation("chain_id", chains.astype(str))
    atoms.res_id = np.arange(len(atoms)) if residues is None else residues
    atoms.ins_code[:] = ""
    return atoms


# Residues


def _table(ours: list[Part], theirs: list[Part]) -> list[list[Match]]:
    """Every chain of the reference with every one of the model, aligned once for all that are alike."""
    known: dict[tuple[object, object], tuple[Indices, Indices]] = {}
    rows = []
    for reference in theirs:
        row = []
        for model in ours:
            if model.kind != reference.kind:
                row.append(alone(reference))
                continue
            key = (_identity_of(model), _identity_of(reference))
            if key not in known:
                known[key] = _residues(model, reference)
            row.append(Match(reference, model, known[key][1], known[key][0]))
        rows.append(row)
    return rows


def _identity_of(part: Part) -> tuple[object, ...]:
    return (
        part.sequence.code.tobytes(),
        tuple(part.stand_ins.res_id.tolist()),
        tuple(part.stand_ins.ins_code.tolist()),
    )


def _residues(model: Part, reference: Part) -> tuple[Indices, Indices]:
    """Which residues of both are the same, in the order of the reference."""
    ours, theirs = model.sequence, reference.sequence
    shorter = min(len(ours), len(theirs))
    if np.array_equal(ours.code, theirs.code):
        return np.arange(shorter), np.arange(shorter)
    # Residue numbers, where they agree, tell which of two equal neighbours is missing.
    by_number = shared(numbered(model.stand_ins, ours), numbered(reference.stand_ins, theirs))
    if len(by_number[0]) == shorter:
        return by_number
    standard = SubstitutionMatrix.std_protein_matrix
    matrix = standard() if reference.kind == PROTEIN else SubstitutionMatrix.std_nucleotide_matrix()
    alignments = align_optimal(
        ours, theirs, matrix, gap_penalty=GAP_PENALTY, terminal_penalty=False, max_number=1
    )
    trace = alignments[0].trace
    trace = trace[(trace >= 0).all(axis=1)]
    return trace[:, 0], trace[:, 1]


# Chains


def _allowed(table: list[list[Match]], n_ours: int) -> NDArray[np.bool_]:
    """Which chains may be partners: those that have no clearly better one."""
    identity = np.array([[match.identity for match in row] for row in table]).reshape(len(table), n_ours)
    if not identity.size:
        return identity > 0
    best = np.maximum(identity.max(axis=1, keepdims=True), identity.max(axis=0, keepdims=True))
    return (identity > 0) & (identity >= _SHARE_OF_THE_BEST * best)


def _best(table: list[list[Match]], allowed: NDArray[np.bool_]) -> list[Match]:
    """The pairing of chains in which the structures agree best."""
    groups = _groups(allowed)
    if prod(_ways(len(rows), len(columns)) for rows, columns in groups) <= _MOST_PAIRINGS:
        pairings = list(_all_pairings(groups, allowed))
    else:
        distinct = dict.fromkeys(_anchored_pairings(table, groups, allowed))
        nearest = sorted(distinct, key=lambda pairs: _nearness(_paired(table, pairs)), reverse=True)
        # Of chains too short to be superposed on, one pairing is as good as another.
        pairings = nearest[:_MOST_COMPARED] or [next(_all_pairings(groups, allowed))]
    candidates = [_paired(table, pairs) for pairs in pairings]
    return max(candidates, key=_agreement) if len(candidates) > 1 else candidates[0]


def _ways(n: int, m: int) -> int:
    return perm(max(n, m), min(n, m))


def _groups(allowed: NDArray[np.bool_]) -> list[tuple[Indices, Indices]]:
    """Chains of the reference and of the model that may be partners, as few together as can be."""
    n_theirs, n_ours = allowed.shape
    links = np.zeros((n_theirs + n_ours, n_theirs + n_ours), dtype=bool)
    links[:n_theirs, n_theirs:] = allowed
    _, labels = connected_components(links, directed=False)
    groups = [
        (np.flatnonzero(labels[:n_theirs] == label), np.flatnonzero(labels[n_theirs:] == label))
        for label in np.unique(labels)
    ]
    return [(rows, columns) for rows, columns in groups if len(rows) and len(columns)]


def _all_pairings(groups: list[tuple[Indices, Indices]], allowed: NDArray[np.bool_]) -> Iterator[Pairing]:
    for chosen in product(*(_all_of_a_group(rows, columns) for rows, columns in groups)):
        yield tuple(pair for pairs in chosen for pair in pairs if allowed[pair])


def _all_of_a_group(rows: Indices, columns: Indices) -> Iterator[Pairing]:
    if len(rows) <= len(columns):
        yield from (tuple(zip(rows, chosen, strict=True)) for chosen in permutations(columns, len(rows)))
    else:
        yield from (tuple(zip(chosen, columns, strict=True)) for chosen in permutations(rows, len(columns)))


def _anchored_pairings(
    table: list[list[Match]], groups: list[tuple[Indices, Indices]], allowed: NDArray[np.bool_]
) -> Iterator[Pairing]:
    """Superpose on one pair of chains, and pair all with those that this brings nearest."""
    # The rarest chains first: of them, fewest anchors mean the same.
    few_first = sorted(groups, key=lambda group: len(group[0]) * len(group[1]))
    pairs_of_all = (pair for group in few_first for pair in product(*group) if allowed[pair])
    anchors = (table[row][column] for row, column in pairs_of_all)
    usable = (anchor for anchor in anchors if len(anchor.theirs) >= _FEWEST_PAIRS)
    for anchor in islice(usable, _MOST_ANCHORS):
        assert anchor.model is not None
        fixed = anchor.reference.stand_ins.coord[anchor.theirs]
        _, motion = struc.superimpose(fixed, anchor.model.stand_ins.coord[anchor.ours])
        pairs: list[tuple[int, int]] = []
        for rows, columns in groups:
            near = np.zeros((len(rows), len(columns)))
            for (i, row), (j, column) in product(enumerate(rows), enumerate(columns)):
                if allowed[row, column]:
                    match = table[row][column]
                    near[i, j] = _closeness(match.reference.stand_ins.coord, motion.apply(match.placed()))
            chosen = zip(*linear_sum_assignment(near, maximize=True), strict=True)
            pairs += [(rows[i], columns[j]) for i, j in chosen if allowed[rows[i], columns[j]]]
        yield tuple(pairs)


def _paired(table: list[list[Match]], pairs: Pairing) -> list[Match]:
    partners = dict(pairs)
    return [
        row[partners[index]] if index in partners else alone(row[0].reference)
        for index, row in enumerate(table)
    ]


def _agreement(matches: list[Match]) -> float:
    """What the best pairing has most of: neighbours in place, and the whole in place.

    LDDT does not see where a chain lies that touches no other, and a superposition fails where domains move.
    """
    atoms, placed = joined(matches)
    return float(np.nan_to_num(lddt(atoms, placed))) + _nearness(matches) / len(atoms)


def _nearness(matches: list[Match]) -> float:
    atoms, placed = joined(matches)
    common = np.isfinite(placed).all(axis=-1)
    if common.sum() < _FEWEST_PAIRS:
        return 0.0
    fitted, _ = struc.superimpose(atoms.coord[common], placed[common])
    return _closeness(atoms.coord[common], fitted)


def _closeness(fixed: Coordinates, fitted: Coordinates) -> float:
    """The sum that TM-scores are made of, for chains; what is nowhere adds nothing."""
    distances = struc.distance(fixed, fitted)
    return float(np.nansum(1 / (1 + (distances / max(tm_scale(len(fixed)), _LEAST_SCALE)) ** 2)))


# Ligands and ions


def _components(model: list[Part], reference: list[Part], chains: list[Match]) -> list[Match]:
    """Pair ligands and ions of one name that lie alike among the chains.

    By their distances to the residues around them: these stay where a superposition of all does not.
    """
    atoms, placed = joined(chains)
    common = np.isfinite(placed).all(axis=-1)
    residues, placed = atoms.coord[common], placed[common]
    matches, named = [], _by_name(model)
    for name, theirs in _by_name(reference).items():
        ours = named.get(name, [])
        alike = np.array([[_likeness(one, other, residues, placed) for other in ours] for one in theirs])
        rows, columns = linear_sum_assignment(alike.reshape(len(theirs), len(ours)), maximize=True)
        partners = {row: ours[column] for row, column in zip(rows, columns, strict=True)}
        first = np.zeros(1, dtype=np.int64)
        for index, part in enumerate(theirs):
            matches.append(Match(part, partners[index], first, first) if index in partners else alone(part))
    return matches


def _by_name(parts: list[Part]) -> dict[str, list[Part]]:
    named: dict[str, list[Part]] = {}
    for part in parts:
        if part.kind not in POLYMERS:
            named.setdefault(part.component, []).append(part)
    return named


def _likeness(reference: Part, model: Part, residues: Coordinates, placed: Coordinates) -> float:
    before = struc.distance(residues, reference.atoms.coord.mean(axis=0))
    pocket = np.argsort(before, kind="stable")[:_POCKET]
    after = struc.distance(placed[pocket], model.atoms.coord.mean(axis=0))
    return float(np.mean(1 / (1 + (after - before[pocket]) ** 2)))


# Scores and messages


def lddt(atoms: AtomArray, placed: Coordinates, *, between_chains: bool = False) -> float:
    """LDDT as biotite has it; what is nowhere counts as wrong. Not a number where no pair is near enough."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a mean of nothing
        return float(
            struc.lddt(atoms, placed, inclusion_radius=INCLUSION_RADIUS, exclude_same_chain=between_chains)
        )


def _difference(ours: list[Part], theirs: list[Part], table: list[list[Match]]) -> str:
    """What two structures without a chain in common have instead."""
    for name, parts in (("model", ours), ("reference", theirs)):
        if not parts:
            return f"expected a protein or a nucleic acid in the {name}, found none"
    closest = max((match for row in table for match in row), key=lambda match: int(match.same.sum()))
    if closest.model is None:
        found = ", ".join(part.label for part in ours), ", ".join(part.label for part in theirs)
        return f"expected a chain in common, but the model has {found[0]} and the reference {found[1]}"
    return (
        "expected a chain in common, but in those most alike, "
        f"{closest.model.label} of the model and {closest.reference.label} of the reference, "
        f"{int(closest.same.sum())} residues agree"
    )
