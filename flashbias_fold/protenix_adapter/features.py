"""From a validated job to the tensors that Protenix reads, by Protenix's own featuriser."""

from __future__ import annotations

import contextlib
import json
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flashbias_fold.errors import JobError, SetupError
from flashbias_fold.files import naming
from flashbias_fold.protenix_adapter.environment import swallow_stdout


@dataclass
class Features:
    """One featurised job.

    Attributes:
        data: Protenix's dictionary; `data["input_feature_dict"]` goes into the model, which eats parts of it.
        atom_array: The atoms in the model's order (a biotite AtomArray), for writing structures.
    """

    data: dict[str, Any]
    atom_array: Any

    @property
    def n_token(self) -> int:
        """Tokens: residues, and atoms of what is no standard residue."""
        return int(self.data["N_token"].item())

    @property
    def n_atom(self) -> int:
        """Heavy atoms."""
        return int(self.data["N_atom"].item())

    @property
    def n_msa(self) -> int:
        """Rows of the alignment, the query included."""
        return int(self.data["N_msa"].item())

    @property
    def n_chain(self) -> int:
        """Chains as the model counts them: ligands and ions are chains too."""
        return int(self.data["N_asym"].item())

    @property
    def polymer_types(self) -> dict[str, str]:
        """Entity number -> type, for polymers, as Protenix's writer wants it."""
        return {key: kind for key, kind in self.data["entity_poly_type"].items() if kind != "non-polymer"}


def seed_everything(seed: int) -> None:
    """Put every global generator where `protenix pred` has it when it featurises the first job of a seed.

    Protenix seeds, then makes a DataLoader iterator, which draws one number from torch's generator.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # all devices
    torch.empty((), dtype=torch.int64).random_()


def featurize(document: dict[str, Any], config: Any) -> Features:
    """Featurise one job, in Protenix's JSON form with absolute paths.

    Draws from the global random generators (the reference conformers are rotated at random, the
    alignment is sampled), so `seed_everything` comes first.
    """
    from protenix.data.inference.infer_dataloader import InferenceDataset
    from rdkit import rdBase

    with tempfile.TemporaryDirectory(prefix="flashbias-fold-") as folder, _esm_files_in(folder, config):
        path = Path(folder, "job.json")
        with naming(path):
            path.write_text(json.dumps([document]))
        config.input_json_path = str(path)
        # RDKit remarks on every metal that its force field does not know, straight to the terminal.
        with swallow_stdout(), rdBase.BlockLogs():
            dataset = InferenceDataset(config)
            data, atom_array, error = dataset[0]
    if error:
        # The user gets one line, --debug the whole.
        raise JobError(f"Protenix could not featurise the job: {_one_line(error)}") from RuntimeError(error)
    return Features(data, atom_array)


def _one_line(error: str) -> str:
    """The exception's type and message, of Protenix's "message:\\ntraceback"."""
    message, _, trace = error.partition(":\nTraceback (most recent call last):\n")
    kind = trace.rstrip().removesuffix(message.rstrip()).rpartition("\n")[2]
    return f"{kind}{message}"


@contextlib.contextmanager
def _esm_files_in(folder: str, config: Any) -> Iterator[None]:
    """Protenix writes ESM embeddings into the working directory; give it a temporary one for that."""
    if not config.esm.enable:
        yield
        return
    _check_esm_weights(config)
    with contextlib.chdir(folder):
        yield


def _check_esm_weights(config: Any) -> None:
    """Without them Protenix would download them, unasked."""
    from protenix.data.esm.compute_esm import ESM_CONFIG

    weights = Path(config.load_checkpoint_dir, ESM_CONFIG[config.esm.model_name]["model_path"])
    needed = (weights, weights.with_stem(f"{weights.stem}-contact-regression"))
    missing = [path.stem for path in needed if not path.is_file()]
    if missing:
        raise SetupError(
            f"model {config.model_name} needs ESM weights, and {weights.parent} lacks some; get them with: "
            + " && ".join(f"flashbias-fold fetch {name}" for name in missing)
        )
