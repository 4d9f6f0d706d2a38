"""How close a predicted protein is to an experimental structure of it, and whether its geometry is sane.

Meant for single chains. Several chains are compared as one, in the order of their files.
"""

from __future__ import annotations

import gzip
import io
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from biotite import structure as struc
from biotite.sequence import ProteinSequence
from biotite.sequence.align import SubstitutionMatrix, align_optimal
from biotite.structure import AtomArray, info
from biotite.structure.io import pdb, pdbx
from biotite.structure.util import coord_for_atom_name_per_residue, vector_dot
from numpy.typing import NDArray

from flashbias_fold.errors import InputError

INCLUSION_RADIUS = 15.0  # of LDDT, as in its paper
BOND_TOLERANCE = 0.1
# Angstroms, by Engh and Huber.
_N_CA, _CA_C, _C_O, _C_N = 1.458, 1.525, 1.231, 1.329

# Sequences that agree less are not those of one protein, and an alignment of them means nothing.
LEAST_IDENTITY = 0.3
FEWEST_RESIDUES = 4
GAP_PENALTY = (-10, -1)  # as usual with BLOSUM62
_LETTERS = frozenset("ACDEFGHIKLMNPQRSTVWY")

# The search for the best superposition is that of the TM-score programme, which starts at every residue;
# four starts for each length of fragment find the same score to within 0.005.
_SHORTEST_FRAGMENT = 4
_STARTS_PER_LENGTH = 4
_MOST_ROUNDS = 20
_REACH = (4.5, 8.0)  # pairs no farther apart than d0, kept between these, are superposed on next
_FEWEST_PAIRS = 3  # that fix a rotation

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Accuracy:
    """How close a model is to the truth.

    Attributes:
        lddt: LDDT of the C-alphas; what the truth has and the model lacks counts as wrong.
        lddt_all: LDDT of the heavy atoms that both have.
        tm_score: TM-score of the C-alphas, normalised by the number of residues of the truth.
        rmsd: Of the C-alphas that both have, superposed, in Angstroms.
        n_residues: How many residues both have.
    """

    lddt: float
    lddt_all: float
    tm_score: float
    rmsd: float
    n_residues: int


@dataclass(frozen=True)
class Geometry:
    """Whether a structure is one that a protein can have.

    Attributes:
        d_amino_acids: Residues whose C-alpha is the mirror image of nature's, such as `ALA 12`.
        backbone_bonds: How many bonds N-CA, CA-C, C-O and C-N there are.
        bonds_within: How many of them have their ideal length, to within 0.1 Angstrom.
    """

    d_amino_acids: tuple[str, ...]
    backbone_bonds: int
    bonds_within: int

    @property
    def bond_share(self) -> float:
        """The share of the backbone's bonds that have their ideal length; 0 where there are none."""
        return self.bonds_within / self.backbone_bonds if self.backbone_bonds else 0.0


def read_structure(path: Path) -> AtomArray:
    """The heavy atoms of a file's amino acids: of its first model, and of alternatives the first.

    Raises:
        InputError: The file cannot be read, or has no amino acids.
    """
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix not in _PARSERS:
        raise InputError(f"expected a file {', '.join(_PARSERS)}, or one of these with .gz", file=path)
    text = read_text(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # elements are guessed from the atoms' names: only H matters
            atoms = _PARSERS[suffix](text)
    except Exception as error:  # there is no telling what garbage makes of a parser
        raise InputError(f"expected a structure in the format {suffix}: {error}", file=path) from error
    protein = atoms[struc.filter_amino_acids(atoms) & ~np.isin(atoms.element, ("H", "D"))]
    if not len(protein):
        raise InputError("expected a structure with amino acids, found none", file=path)
    if not np.isfinite(protein.coord).all():
        raise InputError("expected finite coordinates", file=path)
    return protein


def accuracy(model: AtomArray, truth: AtomArray) -> Accuracy:
    """Compare a model with the truth, residues matched by their sequence.

    Raises:
        InputError: They are not of the same protein.
    """
    model_alphas, truth_alphas = _alphas(model), _alphas(truth)
    ours, theirs = _match(model_alphas, truth_alphas)
    mobile, fixed = model_alphas[ours], truth_alphas[theirs]
    fitted, _ = struc.superimpose(fixed, mobile)
    placed = np.full_like(truth_alphas.coord, np.nan)  # biotite counts what is nowhere as wrong
    placed[theirs] = mobile.coord
    return Accuracy(
        lddt=float(struc.lddt(truth_alphas, placed, inclusion_radius=INCLUSION_RADIUS)),
        lddt_all=_lddt_of_all_atoms(model, truth, ours, theirs),
        tm_score=tm_score_of(fixed, mobile, len(truth_alphas)),
        rmsd=float(struc.rmsd(fixed, fitted)),
        n_residues=len(theirs),
    )


def geometry(structure: AtomArray) -> Geometry:
    """Look at the chirality of the C-alphas and at the lengths of the backbone's bonds."""
    n, alpha, c, o, beta = coord_for_atom_name_per_residue(structure, ["N", "CA", "C", "O", "CB"])
    # Positive where N, C and CB stand around CA as in L-amino acids; not a number where one is missing.
    handedness = vector_dot(np.cross(n - alpha, c - alpha), beta - alpha)
    residues = structure[struc.get_residue_starts(structure)]
    followed = _followed(residues)
    within, bonds = 0, 0
    for ideal, begin, end in (
        (_N_CA, n, alpha),
        (_CA_C, alpha, c),
        (_C_O, c, o),
        (_C_N, c[:-1][followed], n[1:][followed]),
    ):
        lengths = struc.distance(begin, end)
        bonds += int(np.isfinite(lengths).sum())
        within += int((abs(lengths - ideal) <= BOND_TOLERANCE).sum())
    mirrored = residues[handedness < 0]
    return Geometry(tuple(_label(residue) for residue in mirrored), bonds, within)


def read_text(path: Path) -> str:
    """What a file holds, unpacked if its name ends with .gz.

    Raises:
        InputError: It cannot be read, unpacked, or is no text.
    """
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix.lower() == ".gz" else content).decode()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"expected a complete gzip file: {error}", file=path) from error
    except UnicodeDecodeError as error:
        raise InputError(f"expected text, but byte {error.start} is none", file=path) from error
    except OSError as error:
        raise InputError(f"expected a readable file: {error.strerror or error}", file=path) from error


def _parse_cif(text: str) -> AtomArray:
    return pdbx.get_structure(pdbx.CIFFile.deserialize(text), model=1, use_author_fields=False)


def _parse_pdb(text: str) -> AtomArray:
    return pdb.PDBFile.read(io.StringIO(text)).get_structure(model=1)


_PARSERS: dict[str, Callable[[str], AtomArray]] = {".cif": _parse_cif, ".pdb": _parse_pdb}


def _alphas(structure: AtomArray) -> AtomArray:
    return structure[structure.atom_name == "CA"]


def _match(model: AtomArray, truth: AtomArray) -> tuple[Indices, Indices]:
    """Which C-alphas of both are of the same residues, in the order of the truth."""
    ours, theirs = protein_sequence(model), protein_sequence(truth)
    shorter = min(len(ours), len(theirs))
    if ours == theirs:
        matched = np.arange(shorter), np.arange(shorter)
    else:
        # Residue numbers, where they agree, tell which of two equal neighbours is missing.
        matched = shared(numbered(model, ours), numbered(truth, theirs))
        if len(matched[0]) < shorter:
            matched = _aligned(ours, theirs)
    same = ours.code[matched[0]] == theirs.code[matched[1]]
    if len(same) < FEWEST_RESIDUES or same.sum() < LEAST_IDENTITY * shorter:
        raise InputError(
            f"expected two structures of one protein, but of {len(ours)} and {len(theirs)} residues "
            f"{same.sum()} are in common"
        )
    return matched


def protein_sequence(alphas: AtomArray) -> ProteinSequence:
    """Of one atom for each residue; X where there is no letter."""
    letters = {name: info.one_letter_code(name) for name in np.unique(alphas.res_name)}
    known = {name: letter if letter in _LETTERS else "X" for name, letter in letters.items()}
    return ProteinSequence([known[name] for name in alphas.res_name])


def numbered(alphas: AtomArray, sequence: ProteinSequence) -> list[str]:
    """A name for each residue that says its number and its letter."""
    return [
        f"{number}{insertion} {letter}"
        for number, insertion, letter in zip(alphas.res_id, alphas.ins_code, sequence, strict=True)
    ]


def _aligned(ours: ProteinSequence, theirs: ProteinSequence) -> tuple[Indices, Indices]:
    (alignment,) = align_optimal(
        ours,
        theirs,
        SubstitutionMatrix.std_protein_matrix(),
        gap_penalty=GAP_PENALTY,
        terminal_penalty=False,
        max_number=1,
    )
    in_both = (alignment.trace >= 0).all(axis=1)
    return alignment.trace[in_both, 0], alignment.trace[in_both, 1]


def shared(ours: list[str], theirs: list[str]) -> tuple[Indices, Indices]:
    """Where the names that both have stand, in the order of `theirs`."""
    _, left, right = np.intersect1d(ours, theirs, return_indices=True)
    order = np.argsort(right)
    return left[order], right[order]


def _lddt_of_all_atoms(model: AtomArray, truth: AtomArray, ours: Indices, theirs: Indices) -> float:
    model_atoms, model_names = _atoms_of(model, ours)
    truth_atoms, truth_names = _atoms_of(truth, theirs)
    left, right = shared(model_names, truth_names)
    return float(struc.lddt(truth_atoms[right], model_atoms[left], inclusion_radius=INCLUSION_RADIUS))


def _atoms_of(structure: AtomArray, residues: Indices) -> tuple[AtomArray, list[str]]:
    """The atoms of some residues, each with a name that counts its residue among these."""
    alphas = np.flatnonzero(structure.atom_name == "CA")[residues]
    ranks = np.full(struc.get_residue_count(structure), -1)
    ranks[struc.get_residue_positions(structure, alphas)] = np.arange(len(alphas))
    ranks = struc.spread_residue_wise(structure, ranks)
    atoms = structure[ranks >= 0]
    return atoms, [f"{rank} {name}" for rank, name in zip(ranks[ranks >= 0], atoms.atom_name, strict=True)]


def tm_score_of(fixed: AtomArray, mobile: AtomArray, n_truth: int) -> float:
    """The highest TM-score that a superposition of matched C-alphas gives."""
    scale = tm_scale(n_truth)
    best, best_score = mobile.coord, 0.0
    for pairs in _fragments(len(fixed)):
        for fitted in _superpositions(fixed.coord, mobile.coord, pairs, scale):
            score = np.sum(1 / (1 + (struc.distance(fixed.coord, fitted) / scale) ** 2))
            if score > best_score:
                best, best_score = fitted, score
    placed = mobile.copy()
    placed.coord = best
    everywhere = np.arange(len(fixed))
    return struc.tm_score(fixed, placed, everywhere, everywhere, reference_length=n_truth)


def tm_scale(n_truth: int) -> float:
    """d0 of the TM-score: how far apart residues of unrelated proteins of this length are."""
    return max(1.24 * max(n_truth - 15, 0) ** (1 / 3) - 1.8, 0.5)


def _fragments(n: int) -> Iterator[NDArray[np.bool_]]:
    """Stretches to start from: all residues, then halves, quarters and so on, each overlapping the next."""
    length = n
    while length >= _SHORTEST_FRAGMENT:
        for start in range(0, n - length + 1, max(length // _STARTS_PER_LENGTH, 1)):
            pairs = np.zeros(n, dtype=bool)
            pairs[start : start + length] = True
            yield pairs
        length //= 2


def _superpositions(
    fixed: NDArray[np.float32], mobile: NDArray[np.float32], pairs: NDArray[np.bool_], scale: float
) -> Iterator[NDArray[np.float32]]:
    """Superpose on some pairs, then on those that this brings together, until they stay the same."""
    reach = np.clip(scale, *_REACH)
    for _ in range(_MOST_ROUNDS):
        fitted, _ = struc.superimpose(fixed, mobile, pairs)
        yield fitted
        distances = struc.distance(fixed, fitted)
        # However bad the fit is, a rotation needs pairs.
        closest = np.partition(distances, _FEWEST_PAIRS - 1)[_FEWEST_PAIRS - 1]
        closer = distances <= max(reach, closest)
        if np.array_equal(closer, pairs):
            return
        pairs = closer


def _followed(residues: AtomArray) -> NDArray[np.bool_]:
    """Which residues but the last are bound to the next one in the file."""
    same_chain = residues.chain_id[:-1] == residues.chain_id[1:]
    # A number is skipped where residues are missing, and repeated where one was inserted.
    return same_chain & np.isin(np.diff(residues.res_id), (0, 1))


def _label(residue: struc.Atom) -> str:
    return f"{residue.res_name} {residue.res_id}{residue.ins_code}"
