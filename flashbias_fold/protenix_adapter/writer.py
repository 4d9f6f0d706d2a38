"""Structures and confidences of a prediction as files, by Protenix's own writer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashbias_fold.errors import JobError
from flashbias_fold.protenix_adapter.components import job_codes
from flashbias_fold.protenix_adapter.engine import Prediction
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


def ranks(prediction: Prediction) -> list[int]:
    """The rank within its seed of each structure, in the order in which they were drawn; 0 is the best."""
    from runner.dumper import DataDumper

    dumper = DataDumper(base_dir="", sorted_by_ranking_score=True)
    return [int(rank) for rank in dumper._get_ranker_indices(prediction.output)]


def write_prediction(
    prediction: Prediction, name: str, seed: int, folder: Path, *, formats: tuple[str, ...], pae: bool
) -> list[Sample]:
    """Write every sample of a prediction into `folder`, named as Protenix names them, best first."""
    from runner.dumper import DataDumper

    dumper = DataDumper(base_dir=str(folder), sorted_by_ranking_score=True)
    output, features = prediction.output, prediction.features
    problems = [find_problems_of(prediction, drawn) for drawn in range(len(output["coordinate"]))]
    dumper.dump_predictions(
        pred_dict=output,
        dump_dir=str(folder),
        pdb_id=name,
        atom_array=features.atom_array,
        entity_poly_type=features.polymer_types,
        seed=seed,
    )
    samples = []
    for index, rank in enumerate(ranks(prediction)):
        cif = folder / "predictions" / f"{name}_sample_{rank}.cif"
        _mend_names(cif, name)
        if "pdb" in formats:
            write_pdb(cif, cif.with_suffix(".pdb"))
        if "cif" not in formats:
            cif.unlink()
        if pae:
            _write_pae(output["full_data"][index], features, cif.with_name(f"{name}_pae_sample_{rank}.npz"))
        structure = cif.name if "cif" in formats else cif.with_suffix(".pdb").name
        samples.append(_sample(prediction, index, rank, structure, problems[index]))
    return sorted(samples, key=lambda sample: sample.sample)


def _mend_names(cif: Path, name: str) -> None:
    """Protenix names the data block and the entry after the job, in ways that CIF does not always allow."""
    block, _, rest = cif.read_text().split("\n#\n", 2)
    block = re.sub(r"[^!-~]", "_", block)
    cif.write_text("\n#\n".join((block, f"_entry.id   {_cif_value(name)}", rest)))


def _cif_value(text: str) -> str:
    """`text` as a value that every reader of CIF takes for one, quoted where it has to be."""
    text = re.sub(r"[^ -~]", "_", text)
    reserved = re.match(r"(data|save|loop|stop|global)_", text, re.IGNORECASE)
    if re.fullmatch(r"[A-Za-z0-9][!#-&(-~]*", text) and not reserved:
        return text
    quote = "'" if "'" not in text else '"'
    return quote + text.replace(quote, "_") + quote


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


def write_pdb(cif: Path, pdb: Path) -> None:
    """Convert a predicted mmCIF file to PDB, refusing what that format cannot hold."""
    from biotite.structure.io import pdb as pdb_format
    from biotite.structure.io import pdbx

    structure = pdbx.get_structure(
        pdbx.CIFFile.read(cif), model=1, use_author_fields=False, extra_fields=["b_factor", "occupancy"]
    )
    problem = pdb_problem(structure)
    if problem:
        raise JobError(problem)
    file = pdb_format.PDBFile()
    file.set_structure(structure)
    file.write(pdb)


def pdb_problem_of(document: dict[str, Any], *, n_atom: int, n_chain: int) -> str | None:
    """Why the PDB format could not hold the structure of a job, as far as its input tells."""
    hint = "use --format cif"
    if n_atom > PDB_ATOM_LIMIT:
        return f"the PDB format holds {PDB_ATOM_LIMIT} atoms, this structure has about {n_atom}; {hint}"
    ids = [
        name
        for entity in document["sequences"]
        for fields in entity.values()
        for name in fields.get("id") or ()
    ]
    long_ids = [name for name in ids if len(name) > 1]
    if long_ids:
        return f"the PDB format has one letter for a chain, but there is '{long_ids[0]}'; {hint}"
    if n_chain > _LETTERS:  # chains without an id are named A to Z, then AA
        return f"the PDB format has one letter for a chain, but there are {n_chain} chains; {hint}"
    long_names = sorted(code for code in job_codes(document) if len(code) > PDB_NAME_LENGTH)
    if long_names:
        return f"the PDB format has three letters for a component, but there is '{long_names[0]}'; {hint}"
    return None


def pdb_problem(atoms: Any) -> str | None:
    """Why the PDB format cannot hold `atoms` (a biotite AtomArray), or None."""
    hint = "use --format cif"
    if len(atoms) > PDB_ATOM_LIMIT:
        return f"the PDB format holds {PDB_ATOM_LIMIT} atoms, this structure has {len(atoms)}; {hint}"
    long_chains = sorted({str(chain) for chain in atoms.chain_id if len(chain) > 1})
    if long_chains:
        return f"the PDB format has one letter for a chain, but there is '{long_chains[0]}'; {hint}"
    long_names = sorted({str(residue) for residue in atoms.res_name if len(residue) > PDB_NAME_LENGTH})
    if long_names:
        return f"the PDB format has three letters for a component, but there is '{long_names[0]}'; {hint}"
    if int(np.max(atoms.res_id, initial=0)) > PDB_RESIDUE_LIMIT:
        return f"the PDB format numbers {PDB_RESIDUE_LIMIT} residues in a chain, there are more; {hint}"
    if float(np.max(np.abs(atoms.coord), initial=0.0)) >= PDB_COORDINATE_LIMIT:
        return f"the PDB format has no room for a coordinate beyond {PDB_COORDINATE_LIMIT:.0f} A; {hint}"
    return None


def _write_pae(full: dict[str, Any], features: Any, path: Path) -> None:
    """The error matrices of one sample, with what is needed to read them."""
    centre = features.atom_array[features.atom_array.centre_atom_mask.astype(bool)]
    np.savez_compressed(
        path,
        pae=full["token_pair_pae"].float().cpu().numpy().astype(np.float32),
        pde=full["token_pair_pde"].float().cpu().numpy().astype(np.float32),
        contact_probs=full["contact_probs"].float().cpu().numpy().astype(np.float32),
        token_chain=centre.chain_id.astype(str),
        token_residue=centre.res_id.astype(np.int32),
        token_component=centre.res_name.astype(str),
    )
