"""What an entry's predictions come to: confidences, differences to the baseline, closeness to experiment."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from biotite.structure import AtomArray
from numpy.typing import NDArray

from flashbias_fold.compare.parts import POLYMERS
from flashbias_fold.compare.structures import StructureDifference, compared
from flashbias_fold.protenix_adapter.engine import Prediction
from flashbias_fold.protenix_adapter.plausibility import find_problems_of
from flashbias_fold.protenix_adapter.writer import iptm_of, ranks

STAGES = ("featurize", "trunk", "diffusion", "confidence", "write")
CLOSENESS = ("lddt_ca", "lddt_all", "tm_score", "rmsd", "interface")
CONFIDENCES = ("ptm", "iptm", "plddt", "ranking_score")


@dataclass(frozen=True)
class Structure:
    """One structure of a prediction, and what the model says of it.

    Attributes:
        drawn: Which one of the prediction, in the order in which they were drawn: the same number under the
            same seed is the same noise.
        rank: Its rank within the prediction, by which its file is named.
        atoms: Where its atoms are.
        pae: Predicted aligned errors, tokens x tokens, in Angstroms.
        confidences: By name; no ipTM where there is a single chain.
        problems: What makes it impossible; none if it is plausible.
    """

    drawn: int
    rank: int
    atoms: AtomArray
    pae: NDArray[np.float32]
    confidences: dict[str, float | None]
    problems: list[str]


@dataclass
class Runs:
    """What repeated predictions by one method took.

    Attributes:
        stages: Seconds by stage of each that counts, without writing.
        memory: Peak in bytes of each.
        write_s: Of writing the structures, which is done once.
    """

    stages: list[dict[str, float]] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    write_s: float = 0.0

    def add(self, prediction: Prediction) -> None:
        """One more that counts."""
        self.stages.append(prediction.stages_s)
        self.memory.append(prediction.peak_memory_bytes)

    def as_dict(self) -> dict[str, Any]:
        """Medians, and every whole prediction's seconds."""
        walls = [sum(stages.values()) + self.write_s for stages in self.stages]
        medians = {
            stage: statistics.median(stages[stage] for stages in self.stages)
            for stage in STAGES
            if stage != "write"
        }
        return {
            "stages_s": {**medians, "write": self.write_s},
            "wall_s": statistics.median(walls),
            "runs_s": walls,
            "peak_memory_bytes": int(statistics.median(self.memory)),
        }


def structure_of(prediction: Prediction, drawn: int | None = None) -> Structure:
    """Return a structure of a prediction; without a number the plausible one that the model ranks highest."""
    order = ranks(prediction)
    drawn = _find_best(prediction, order) if drawn is None else drawn
    output = prediction.output
    said = output["summary_confidence"][drawn]
    confidences: dict[str, float | None] = {name: float(said[name]) for name in CONFIDENCES}
    confidences["iptm"] = iptm_of(prediction, drawn)
    atoms = prediction.features.atom_array.copy()
    atoms.coord = output["coordinate"][drawn].float().cpu().numpy()
    pae = output["full_data"][drawn]["token_pair_pae"].float().cpu().numpy()
    problems = find_problems_of(prediction, drawn)
    return Structure(drawn, order[drawn], atoms, pae, confidences, problems)


def _find_best(prediction: Prediction, order: Sequence[int]) -> int:
    """Find the structure of the best rank among those that are plausible; among all if none is."""
    by_rank = sorted(range(len(order)), key=order.__getitem__)
    return next((drawn for drawn in by_rank if not find_problems_of(prediction, drawn)), by_rank[0])


def change(structure: Structure, baseline: Structure) -> dict[str, float | None]:
    """What a method changes: confidences less the baseline's, and the mean change of a PAE without sign."""
    pairs = {name: (structure.confidences[name], baseline.confidences[name]) for name in CONFIDENCES}
    changes = {
        name: None if ours is None or theirs is None else ours - theirs
        for name, (ours, theirs) in pairs.items()
    }
    return {**changes, "pae": float(np.abs(structure.pae - baseline.pae).mean())}


def closeness(structure: Structure, reference: AtomArray) -> tuple[dict[str, Any], StructureDifference]:
    """How close a structure is to another, as `report.json` has it, and what of them was compared.

    Raises:
        InputError: They have no chain in common.
    """
    found = compared(structure.atoms, reference)
    interface = found.interface_lddt
    return {
        "lddt_ca": _known(found.lddt),
        "lddt_all": _known(found.lddt_all),
        "tm_score": _known(found.tm_score),
        "rmsd": _known(found.rmsd),
        "interface": None if interface is None else {"kind": "interface_lddt", "value": interface},
    }, found


def _known(value: float) -> float | None:
    """A score of atoms of which none are near each other is none."""
    return value if math.isfinite(value) else None


def layers_of(layers: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the replaced layers did, as `report.json` has it."""
    names = ("name", "way", "rank", "reach", "certified_error", "fallbacks")
    return [{name: layer.get(name) for name in names} for layer in layers]


def chains_amiss(found: StructureDifference, most_exchanged: float) -> Sequence[str]:
    """What keeps a closeness to experiment from being one of the whole: chains without a partner, another
    sequence; each in words."""
    polymers = tuple(f"{kind} " for kind in POLYMERS)
    lines = [
        f"{whose} {part} that {other} has not"
        for whose, other, parts in (
            ("the experimental structure has", "the prediction", found.only_in_reference),
            ("the prediction has", "the experimental structure", found.only_in_model),
        )
        for part in parts
        if part.startswith(polymers)
    ]
    if len(found.exchanged) > most_exchanged * found.n_residues:
        lines.append(
            f"{len(found.exchanged)} of {found.n_residues} residues of the experimental structure are of "
            f"another kind than predicted, such as {found.exchanged[0]}"
        )
    return lines
