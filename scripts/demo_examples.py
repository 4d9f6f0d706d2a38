"""What the demonstration model is trained on: features by Protenix's featuriser, experimental coordinates."""

from __future__ import annotations

import gzip
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flashbias_fold.files import write_atomic
from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.models import build_config, demo_model

if TYPE_CHECKING:
    from demo_domains import Domain

FEATURES = "features.pt.gz"
ROLES = ("trained", "unseen", "strangers")
BACKBONE = ("N", "CA", "C", "O")


@dataclass
class Example:
    """What the network sees of a domain, and what it should say."""

    name: str
    features: dict[str, Any]
    coordinate: Tensor
    coordinate_mask: Tensor

    def to(self, device: torch.device) -> Example:
        """The same on a device."""
        features = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.features.items()}
        return Example(self.name, features, self.coordinate.to(device), self.coordinate_mask.to(device))

    @property
    def alpha(self) -> Tensor:
        """Which atoms are C-alphas of known position."""
        return self.features["plddt_m_rep_atom_mask"].bool() & self.coordinate_mask

    @property
    def label(self) -> dict[str, Tensor]:
        """Protenix's label dictionary; its losses add to it, so it is a new one each time."""
        return {"coordinate": self.coordinate, "coordinate_mask": self.coordinate_mask}


def prepare(domains: Path | None, out: Path, counts: dict[str, int], seed: int) -> dict[str, list[Example]]:
    """Examples of the domains to learn and of the strangers, made once and kept in the run folder.

    Args:
        domains: A folder of gzipped PDB files; not needed where the run folder has the features.
        out: The run folder.
        counts: How many domains have each role.
        seed: Of the featuriser.
    """
    path = out / FEATURES
    if not path.is_file():
        if domains is None:
            raise SystemExit(f"error: {out} has no features yet: --domains is needed")
        _featurise(domains, out, counts, seed)
    with gzip.open(path) as file:
        stored = torch.load(file, weights_only=True)
    if stored["counts"] != counts:
        raise SystemExit(f"error: {path} was made for other numbers of domains: {stored['counts']}")
    return {
        role: [Example(**example) for example in examples] for role, examples in stored["examples"].items()
    }


def _featurise(domains: Path, out: Path, counts: dict[str, int], seed: int) -> None:
    # Here and not above: a machine that only trains needs none of the featuriser's packages.
    from demo_domains import choose, read_domains, write_table

    environment.prepare()
    found = read_domains(domains)
    roles = choose(found, **counts)
    short = [role for role, count in counts.items() if len(getattr(roles, role)) < count]
    if short:
        raise SystemExit(f"error: {domains} has {len(found)} domains, too few that are {', '.join(short)}")
    for role in ROLES:
        write_table(out / f"{role}.csv", getattr(roles, role))
    # Nothing of the unseen is ever shown to the model.
    examples = {role: _examples_of(getattr(roles, role), out, seed) for role in ("trained", "strangers")}
    packed = io.BytesIO()
    torch.save({"counts": counts, "examples": examples}, packed)
    write_atomic(out / FEATURES, gzip.compress(packed.getvalue(), compresslevel=6))


def _examples_of(chosen: Sequence[Domain], out: Path, seed: int) -> list[dict[str, Any]]:
    from demo_domains import labels

    from flashbias_fold.inputs import load_inputs
    from flashbias_fold.protenix_adapter.components import open_components
    from flashbias_fold.protenix_adapter.features import featurize, seed_everything

    config = build_config(demo_model())
    with tempfile.TemporaryDirectory(dir=out) as folder:
        fasta = Path(folder, "domains.fasta")
        fasta.write_text("".join(f">{domain.name}\n{domain.sequence}\n" for domain in chosen))
        jobs = load_inputs(fasta, open_components()).jobs
    made = []
    for job, domain in zip(jobs, chosen, strict=True):
        seed_everything(seed)
        features = featurize(job.document, config)
        coordinate, known = labels(features.atom_array, domain.structure)
        inputs = _for_training(features.data["input_feature_dict"])
        made.append(vars(Example(job.name, inputs, torch.from_numpy(coordinate), torch.from_numpy(known))))
        print(f"featurised {len(made)} of {len(chosen)}: {job.name}", flush=True)
    return made


def _for_training(features: dict[str, Any]) -> dict[str, Any]:
    """The tensors that the network and its losses read, without those of templates, which it does not use."""
    kept = {k: v for k, v in features.items() if isinstance(v, Tensor) and not k.startswith("template_")}
    # Protenix leaves a structure of unknown resolution out of the confidence losses.
    return {**kept, "resolution": torch.tensor([2.0])}


def turned(features: dict[str, Any]) -> dict[str, Any]:
    """The features with each residue's reference conformer turned and moved at random.

    The featuriser does so for each seed of a prediction; here the features are made once.
    """
    from protenix.model.protenix import update_input_feature_dict
    from protenix.model.utils import rot_vec_mul, uniform_random_rotation

    positions, residue = features["ref_pos"], features["ref_space_uid"]
    rotations = uniform_random_rotation(int(residue.max()) + 1).to(positions)[residue]
    shifts = torch.randn(int(residue.max()) + 1, 3).to(positions)[residue]
    return update_input_feature_dict({**features, "ref_pos": rot_vec_mul(rotations, positions) + shifts})


def bonds(example: Example) -> Tensor:
    """Covalent bonds: no two heavy atoms that are not bonded come closer than 2.1 Angstrom.

    Protenix's own mask has bonds to ligands alone; with this one its bond loss sees the whole chain.
    """
    near = torch.cdist(example.coordinate, example.coordinate) < 2.1
    return (near & example.coordinate_mask & example.coordinate_mask[:, None]).triu(1).long()


def near_pairs(example: Example) -> Tensor:
    """Pairs of atoms that are bonded and, of the backbone, those with a neighbour in common: its angles."""
    bonded = bonds(example).bool()
    bonded = bonded | bonded.T
    of_backbone = torch.tensor([name in BACKBONE for name in _atom_names(example)], device=bonded.device)
    chain = (bonded & of_backbone & of_backbone[:, None]).float()
    return (bonded | (chain @ chain > 0)).triu(1).nonzero()


def _atom_names(example: Example) -> list[str]:
    codes = example.features["ref_atom_name_chars"].argmax(-1) + 32  # four characters, from the space on
    return ["".join(map(chr, word)).strip() for word in codes.tolist()]


def alpha_lddt(example: Example, coordinate: Tensor) -> Tensor:
    """Mean C-alpha LDDT of structures, by Protenix's own function."""
    from protenix.model.loss import calculate_atom_bespoke_lddt

    alpha = example.alpha
    ones = torch.ones_like(alpha[alpha])
    kept, total = calculate_atom_bespoke_lddt(
        coordinate[:, alpha].float(), example.coordinate[alpha], ~ones, ones.long(), ones
    )
    return (kept.sum(dim=(-2, -1)) / total.sum(dim=(-2, -1))).mean()


def alpha_rmsd(example: Example, coordinate: Tensor) -> Tensor:
    """Mean C-alpha RMSD of structures, superposed without reflection: a mirror image is far off."""
    from protenix.metrics.rmsd import self_aligned_rmsd

    truth = example.coordinate.expand_as(coordinate)
    mask = example.alpha.float().expand(coordinate.shape[:-1])
    return self_aligned_rmsd(coordinate.float(), truth, mask)[0]
