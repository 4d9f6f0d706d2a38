"""Structures and confidences of a prediction as files, by Protenix's own writer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashbias_fold.files import naming
from flashbias_fold.protenix_adapter.components import job_codes
from flashbias_fold.protenix_adapter.engine import Prediction
from flashbias_fold.protenix_adapter.origin import Origin, cif_value
from flashbias_fold.protenix_adapter.plausibility import find_problems_of

PDB_ATOM_LIMIT = 99_999
PDB_NAME_LENGTH = 3
PDB_RESIDUE_LIMIT = 9_999
PDB_COORDINATE_LIMIT = 999.9995  # what fits "-999.999"
_LETTERS = 26


@dataclass(frozen=True)
class Sample:
    """One structure, numbered by its rank within the seed (0 is best), and what the model says of it.

    Attributes:
        iptm: None where there is a single chain.
        problems: What makes the structure impossible; none if it is plausible.
    """

    sample: int
    cif: str
    ptm: float
    iptm: float | None
    plddt: float
    ranking_score: float
    has_clash: bool
    plausible: bool
    problems: list[str]


@dataclass(frozen=True)
class Written:
    """The structures of a seed as files.

    Attributes:
        samples: The best first.
        warnings: Which of them are in another format than was asked for, and why.
    """

    samples: list[Sample]
    warnings: list[str]


def ranks(prediction: Prediction) -> list[int]:
    """The rank within its seed of each structure, in the order in which they were drawn; 0 is the best."""
    from runner.dumper import DataDumper

    dumper = DataDumper(base_dir="", sorted_by_ranking_score=True)
    return [int(rank) for rank in dumper._get_ranker_indices(prediction.output)]


def write_prediction(
    prediction: Prediction, name: str, seed: int, folder: Path, *, formats: tuple[str, ...], pae: bool
) -> Written:
    """Write every sample of a prediction into `folder`, named as Protenix names them.

    A structure that the PDB format has no room for is written as mmCIF, whatever was asked for.
    """
    from runner.dumper import DataDumper

    dumper = DataDumper(base_dir=str(folder), sorted_by_ranking_score=True)
    problems = [find_problems_of(prediction, drawn) for drawn in range(len(prediction.output["coordinate"]))]
    samples, without_pdb = [], {}
    with naming(folder):
        dumper.dump_predictions(
            pred_dict=prediction.output,
            dump_dir=str(folder),
            pdb_id=name,
            atom_array=prediction.features.atom_array,
            entity_poly_type=prediction.features.polymer_types,
            seed=seed,
        )
        for index, rank in enumerate(ranks(prediction)):
            stem = folder / "predictions" / f"{name}_sample_{rank}"
            structure, without_pdb[rank] = _write_structure(stem, name, prediction.origin, rank, formats)
            confidences = stem.with_name(f"{name}_summary_confidence_sample_{rank}.json")
            confidences.write_text(prediction.origin.add_to_json(confidences.read_text(), rank))
            if pae:
                _write_pae(prediction, index, rank, stem.with_name(f"{name}_pae_sample_{rank}.npz"))
            samples.append(_sample(prediction, index, rank, structure.name, problems[index]))
    samples.sort(key=lambda sample: sample.sample)
    return Written(samples, _describe_without_pdb(without_pdb, seed))


def _write_structure(
    stem: Path, name: str, origin: Origin, rank: int, formats: tuple[str, ...]
) -> tuple[Path, str | None]:
    """Make the wanted files of the mmCIF file that Protenix wrote.

    Returns:
        The file that a report names, and why there is none in the PDB format although it was asked for.
    """
    cif, pdb = (stem.with_name(f"{stem.name}.{format}") for format in ("cif", "pdb"))
    _complete_cif(cif, name, origin, rank)
    problem = write_pdb(cif, pdb, origin.pdb_records(rank)) if "pdb" in formats else None
    if "cif" in formats or problem is not None:
        return cif, problem
    cif.unlink()
    return pdb, None


def _describe_without_pdb(problems: dict[int, str | None], seed: int) -> list[str]:
    """Say once for each reason which samples are not in the PDB format."""
    ranks_by_reason: dict[str, list[int]] = {}
    for rank, reason in sorted(problems.items()):
        if reason is not None:
            ranks_by_reason.setdefault(reason, []).append(rank)
    return [
        f"seed {seed}, sample {', '.join(map(str, ranks))}: in mmCIF alone, as {reason}"
        for reason, ranks in ranks_by_reason.items()
    ]


def _complete_cif(cif: Path, name: str, origin: Origin, rank: int) -> None:
    """Add where the structure comes from, and mend the names of the data block and the entry.

    Protenix names these after the job, in ways that CIF does not always allow. All else stays as it is.
    """
    block, _, rest = cif.read_text().split("\n#\n", 2)
    block = re.sub(r"[^!-~]", "_", block)
    entry = f"_entry.id   {cif_value(name)}"
    cif.write_text("\n#\n".join((block, entry, *origin.cif_categories(name, rank), rest)))


def _sample(prediction: Prediction, drawn: int, rank: int, structure: str, problems: list[str]) -> Sample:
    summary = prediction.output["summary_confidence"][drawn]
    return Sample(
        sample=rank,
        cif=structure,
        ptm=float(summary["ptm"]),
        iptm=iptm_of(prediction, drawn),
        plddt=float(summary["plddt"]),
        ranking_score=float(summary["ranking_score"]),
        has_clash=bool(summary["has_clash"]),
        plausible=not problems,
        problems=problems,
    )


def iptm_of(prediction: Prediction, drawn: int) -> float | None:
    """Return a structure's ipTM; None where there is a single chain, for which Protenix says 0.

    It is taken over pairs of tokens in different chains, where every ligand and ion is a chain of its own.
    """
    if prediction.features.n_chain == 1:
        return None
    return float(prediction.output["summary_confidence"][drawn]["iptm"])


def write_pdb(cif: Path, pdb: Path, records: list[str]) -> str | None:
    """Convert a predicted mmCIF file to PDB; where that format has no room, write nothing and return why.

    Args:
        cif: The file to convert.
        pdb: The file to write.
        records: The lines that come first.
    """
    from biotite.structure import BadStructureError
    from biotite.structure.io import pdb as pdb_format
    from biotite.structure.io import pdbx

    structure = pdbx.get_structure(
        pdbx.CIFFile.read(cif), model=1, use_author_fields=False, extra_fields=["b_factor", "occupancy"]
    )
    if problem := pdb_problem(structure):
        return problem
    file = pdb_format.PDBFile()
    try:
        file.set_structure(structure)
    except BadStructureError as error:
        return f"the PDB format has no room for it: {error}"
    pdb.write_text("\n".join([*records, *file.lines]) + "\n")
    return None


def pdb_problem_of(document: dict[str, Any], *, n_atom: int, n_chain: int) -> str | None:
    """Why the PDB format could not hold the structure of a job, as far as its input tells."""
    if n_atom > PDB_ATOM_LIMIT:
        return f"the PDB format holds {PDB_ATOM_LIMIT} atoms, this structure has about {n_atom}"
    ids = [
        name
        for entity in document["sequences"]
        for fields in entity.values()
        for name in fields.get("id") or ()
    ]
    long_ids = [name for name in ids if len(name) > 1]
    if long_ids:
        return f"the PDB format has one letter for a chain, but there is '{long_ids[0]}'"
    if n_chain > _LETTERS:  # chains without an id are named A to Z, then AA
        return f"the PDB format has one letter for a chain, but there are {n_chain} chains"
    long_names = sorted(code for code in job_codes(document) if len(code) > PDB_NAME_LENGTH)
    if long_names:
        return f"the PDB format has three letters for a component, but there is '{long_names[0]}'"
    return None


def pdb_problem(atoms: Any) -> str | None:
    """Why the PDB format cannot hold `atoms` (a biotite AtomArray), or None."""
    if len(atoms) > PDB_ATOM_LIMIT:
        return f"the PDB format holds {PDB_ATOM_LIMIT} atoms, this structure has {len(atoms)}"
    long_chains = sorted({str(chain) for chain in atoms.chain_id if len(chain) > 1})
    if long_chains:
        return f"the PDB format has one letter for a chain, but there is '{long_chains[0]}'"
    long_names = sorted({str(residue) for residue in atoms.res_name if len(residue) > PDB_NAME_LENGTH})
    if long_names:
        return f"the PDB format has three letters for a component, but there is '{long_names[0]}'"
    if int(np.max(atoms.res_id, initial=0)) > PDB_RESIDUE_LIMIT:
        return f"the PDB format numbers {PDB_RESIDUE_LIMIT} residues in a chain, there are more"
    if float(np.max(np.abs(atoms.coord), initial=0.0)) >= PDB_COORDINATE_LIMIT:
        return f"the PDB format has no room for a coordinate beyond {PDB_COORDINATE_LIMIT:.0f} A"
    return None


def _write_pae(prediction: Prediction, index: int, rank: int, path: Path) -> None:
    """Write the error matrices of one sample, with what is needed to read them."""
    full, atoms = prediction.output["full_data"][index], prediction.features.atom_array
    centre = atoms[atoms.centre_atom_mask.astype(bool)]
    np.savez_compressed(
        path,
        pae=full["token_pair_pae"].float().cpu().numpy().astype(np.float32),
        pde=full["token_pair_pde"].float().cpu().numpy().astype(np.float32),
        contact_probs=full["contact_probs"].float().cpu().numpy().astype(np.float32),
        token_chain=centre.chain_id.astype(str),
        token_residue=centre.res_id.astype(np.int32),
        token_component=centre.res_name.astype(str),
        made_by=np.asarray(prediction.origin.as_json(rank)),
    )
