"""The domains of the demonstration model: which are learnt and which are not; experimental coordinates."""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
from biotite.sequence import ProteinSequence
from biotite.structure import AtomArray, annotate_sse, gyration_radius

from flashbias_fold.accuracy import read_structure

SUFFIX = ".pdb.gz"
ALWAYS_TRAINED = ("1igdA00", "1hz6B00", "1g6xA00")  # those of data/examples
SHORT, LONG = 64, 100  # residues: where a domain is called short, and beyond which it is called long
FOLDS = ("helical", "beta", "mixed")
_GLOBULAR = 1.15  # radius of gyration over that of a typical globular protein of its length


@dataclass(frozen=True)
class Domain:
    """One domain of known structure.

    Attributes:
        name: The name of its file, CATH's for the domain.
        fold: `helical`, `beta` or `mixed`, by the share of residues in helices and strands.
        globular: Whether it is compact and has enough regular structure to be worth learning.
    """

    name: str
    sequence: str
    fold: str
    globular: bool
    structure: AtomArray

    @property
    def length(self) -> int:
        """Residues."""
        return len(self.sequence)

    @property
    def size(self) -> str:
        """`short`, `medium` or `long`."""
        return "short" if self.length <= SHORT else "medium" if self.length <= LONG else "long"


@dataclass(frozen=True)
class Roles:
    """Who does what: `trained` are learnt, `strangers` are only shown to the confidence head (which learns
    from them what a bad prediction looks like), `unseen` are for the evaluation alone."""

    trained: tuple[Domain, ...]
    unseen: tuple[Domain, ...]
    strangers: tuple[Domain, ...]


def read_domain(path: Path) -> Domain:
    """The domain of one gzipped PDB file that holds one chain of standard amino acids."""
    structure = read_structure(path)
    alpha = structure[structure.atom_name == "CA"]
    sequence = "".join(ProteinSequence.convert_letter_3to1(name) for name in alpha.res_name)
    elements = annotate_sse(structure)
    helix, strand = np.mean(elements == "a"), np.mean(elements == "b")
    if strand < 0.1:
        fold = "helical"
    elif helix < 0.1:
        fold = "beta"
    else:
        fold = "mixed"
    typical = 2.2 * len(alpha) ** 0.38
    name = path.name.removesuffix(SUFFIX)
    globular = helix + strand >= 0.35 and gyration_radius(alpha) <= _GLOBULAR * typical
    return Domain(name, sequence, fold, bool(globular) or name in ALWAYS_TRAINED, structure)


def read_domains(folder: Path) -> list[Domain]:
    """Every domain of a folder, by name."""
    return [read_domain(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]


def choose(domains: Iterable[Domain], trained: int, unseen: int, strangers: int) -> Roles:
    """Give roles to globular domains, evenly over folds, a quarter of each role long.

    The choice depends on the names alone: the order is that of a hash, after those of `ALWAYS_TRAINED`.
    """
    groups: dict[tuple[str, str], list[Domain]] = defaultdict(list)
    for domain in sorted(domains, key=_rank):
        if domain.globular:
            groups[domain.size, domain.fold].append(domain)
    long = _interleave([groups["long", fold] for fold in FOLDS])
    other = _interleave([groups[size, fold] for size in ("short", "medium") for fold in FOLDS])
    return Roles(*(_take(long, other, count) for count in (trained, unseen, strangers)))


def _rank(domain: Domain) -> tuple[bool, str]:
    return domain.name not in ALWAYS_TRAINED, hashlib.sha256(domain.name.encode()).hexdigest()


def _interleave(groups: Sequence[Sequence[Domain]]) -> Iterator[Domain]:
    return (domain for turn in zip_longest(*groups) for domain in turn if domain is not None)


def _take(long: Iterator[Domain], other: Iterator[Domain], count: int) -> tuple[Domain, ...]:
    n_long = -(-count // 4)
    taken = list(islice(long, n_long))
    return (*taken, *islice(other, count - len(taken)))


def labels(atoms: AtomArray, structure: AtomArray) -> tuple[np.ndarray, np.ndarray]:
    """Experimental coordinates in the order of the model's atoms, and which of them exist.

    Residues are matched by their order, atoms by name.
    """
    numbers = np.cumsum(np.concatenate([[1], structure.res_id[1:] != structure.res_id[:-1]]))
    where = {
        (int(number), str(name)): index
        for index, (number, name) in enumerate(zip(numbers, structure.atom_name, strict=True))
    }
    found = [
        where.get((int(n), str(name)), -1) for n, name in zip(atoms.res_id, atoms.atom_name, strict=True)
    ]
    index = np.array(found)
    coordinates = np.where(index[:, None] >= 0, structure.coord[index], 0.0).astype(np.float32)
    return coordinates, index >= 0


def write_table(path: Path, domains: Iterable[Domain]) -> None:
    """Write what is known of each domain as CSV, the name first."""
    rows = [{"name": d.name, "length": d.length, "fold": d.fold, "sequence": d.sequence} for d in domains]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
