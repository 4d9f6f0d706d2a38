"""How far two structures of one assembly differ: proteins, nucleic acids, ligands and ions.

The scores are those of `flashbias_fold.accuracy`; for a single protein that lacks no residue they have the
values that they have there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from biotite import structure as struc
from biotite.structure import AtomArray

from flashbias_fold.accuracy import tm_score_of
from flashbias_fold.compare.matching import Coordinates, Match, joined, lddt, matched, renamed
from flashbias_fold.compare.parts import POLYMERS, Part, parts_of


@dataclass(frozen=True)
class StructureDifference:
    """How close a model of an assembly is to a reference.

    Attributes:
        lddt: LDDT of the C-alphas of proteins and the C1' of nucleic acids; residues and chains that the
            reference has and the model lacks count as wrong.
        lddt_all: LDDT of the heavy atoms. Residues and chains that the model lacks count as wrong; of a
            residue that both have, the atoms that both have count. So do ligands and ions that both have;
            a reference may hold what its crystal was grown from, so those that the model lacks do not.
        tm_score: TM-score of the whole, one superposition for all chains, of C-alphas and C1', normalised
            by the number of residues of the reference. The scale is that of proteins.
        rmsd: Of the C-alphas and C1' that both have, superposed as a whole, in Angstroms.
        interface_lddt: LDDT of the pairs of heavy atoms, counted as for `lddt_all`, of which each is in
            another chain, ligand or ion; None where no two of these come near each other.
        chains: The chains that were compared, as the reference and the model call them.
        n_residues: How many residues of chains both have.
        n_ligands: How many ligands and ions were compared.
        only_in_model: Chains, ligands and ions of the model without a partner.
        only_in_reference: The same of the reference.
        missing: How many residues of each compared chain the model lacks.
        exchanged: Residues that are of another kind, such as `A ALA 12: GLY`, first the reference's.
    """

    lddt: float
    lddt_all: float
    tm_score: float
    rmsd: float
    interface_lddt: float | None
    chains: tuple[tuple[str, str], ...]
    n_residues: int
    n_ligands: int
    only_in_model: tuple[str, ...]
    only_in_reference: tuple[str, ...]
    missing: tuple[str, ...]
    exchanged: tuple[str, ...]

    @property
    def summary(self) -> str:
        """What was compared and what was not, in one line."""
        parts = [
            f"compared {_counted(self.n_residues, 'residue')} of {_counted(len(self.chains), 'chain')} "
            f"and {_counted(self.n_ligands, 'ligand')}"
        ]
        for title, names in (
            ("only in the model", self.only_in_model),
            ("only in the reference", self.only_in_reference),
            ("not in the model", self.missing),
            ("of another kind", self.exchanged),
        ):
            if names:
                parts.append(f"{title}: {', '.join(names)}")
        return "; ".join(parts)


def compared(model: AtomArray, reference: AtomArray) -> StructureDifference:
    """Compare a model of an assembly with a reference, whatever both call their chains.

    Hydrogens, water and alternative locations but the first are ignored. Atoms are matched by their names:
    the two ends of a ring or of an acid that chemistry cannot tell apart are not exchanged.

    Raises:
        InputError: They have no chain in common.
    """
    ours, theirs = parts_of(model), parts_of(reference)
    matches = matched(ours, theirs)
    taken = {id(match.model) for match in matches}
    chains = [match for match in matches if match.model and match.reference.kind in POLYMERS]
    ligands = [match for match in matches if match.model and match.reference.kind not in POLYMERS]
    stand_ins, placed = joined(matches)
    atoms, atoms_placed = _all_atoms(matches)
    between = lddt(atoms, atoms_placed, between_chains=True)
    return StructureDifference(
        lddt=lddt(stand_ins, placed),
        lddt_all=lddt(atoms, atoms_placed),
        **_superposed(stand_ins, placed),
        interface_lddt=None if np.isnan(between) else between,
        chains=tuple(sorted((match.reference.chain, match.model.chain) for match in chains if match.model)),
        n_residues=sum(len(match.theirs) for match in chains),
        n_ligands=len(ligands),
        only_in_model=_labels(part for part in ours if id(part) not in taken),
        only_in_reference=_labels(match.reference for match in matches if match.model is None),
        missing=_missing(chains),
        exchanged=tuple(line for match in chains for line in _exchanged(match)),
    )


def _all_atoms(matches: list[Match]) -> tuple[AtomArray, Coordinates]:
    """The heavy atoms of the reference that count, and where the model has them."""
    atoms, placed, chains, residues = [], [], [], []
    for index, match in enumerate(matches):
        if match.model is None and match.reference.kind not in POLYMERS:
            continue
        coord = _placed_atoms(match)
        counts = np.isfinite(coord).all(axis=-1) | ~np.isin(match.reference.ranks, match.theirs)
        atoms.append(match.reference.atoms[counts])
        placed.append(coord[counts])
        chains.append(np.full(counts.sum(), index))
        residues.append(match.reference.ranks[counts])
    whole = renamed(struc.concatenate(atoms), np.concatenate(chains), np.concatenate(residues))
    return whole, np.concatenate(placed)


def _placed_atoms(match: Match) -> Coordinates:
    """Where the model has the atoms of a part of the reference; nowhere (NaN) those that it lacks."""
    coord = np.full((len(match.reference.atoms), 3), np.nan, dtype=np.float32)
    if match.model is not None:
        residue_of = dict(zip(match.ours.tolist(), match.theirs.tolist(), strict=True))
        ours = [residue_of.get(rank, -1) for rank in match.model.ranks.tolist()]
        names = match.model.atoms.atom_name.tolist()
        where = {key: index for index, key in enumerate(zip(ours, names, strict=True))}
        keys = zip(match.reference.ranks.tolist(), match.reference.atoms.atom_name.tolist(), strict=True)
        found = np.array([where.get(key, -1) for key in keys])
        coord[found >= 0] = match.model.atoms.coord[found[found >= 0]]
    return coord


def _superposed(stand_ins: AtomArray, placed: Coordinates) -> dict[str, float]:
    common = np.isfinite(placed).all(axis=-1)
    fixed = stand_ins[common]
    # biotite scores peptides alone, by the names of their atoms.
    fixed.res_name[:], fixed.atom_name[:] = "ALA", "CA"
    mobile = fixed.copy()
    mobile.coord = placed[common]
    fitted, _ = struc.superimpose(fixed, mobile)
    return {
        "tm_score": float(tm_score_of(fixed, mobile, len(stand_ins))),
        "rmsd": float(struc.rmsd(fixed, fitted)),
    }


def _labels(parts: Iterator[Part]) -> tuple[str, ...]:
    return tuple(sorted(part.label for part in parts))


def _missing(chains: list[Match]) -> tuple[str, ...]:
    numbers = [(len(match.reference) - len(match.theirs), match.reference.label) for match in chains]
    return tuple(sorted(f"{_counted(number, 'residue')} of {label}" for number, label in numbers if number))


def _exchanged(match: Match) -> Iterator[str]:
    assert match.model is not None
    for index in np.flatnonzero(~match.same):
        theirs = match.reference.stand_ins[match.theirs[index]]
        ours = match.model.stand_ins[match.ours[index]]
        yield f"{theirs.chain_id} {theirs.res_name} {theirs.res_id}{theirs.ins_code}: {ours.res_name}"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
