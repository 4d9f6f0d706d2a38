"""What a run was asked to do."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ml_collections import ConfigDict

from flashbias_fold.choices import CHOICES, MAX_SEED
from flashbias_fold.errors import UsageError
from flashbias_fold.resources import resource

# Settings that change what is computed or written: results that differ in one of these are not the same.
_IDENTITY = (
    "model",
    "bias",
    "plan",
    "samples",
    "steps",
    "cycles",
    "device",
    "dtype",
    "format",
    "write_pae",
    "rna_msa",
    "msa_server",
)
# Fields of an input that hold the path of a file; the file's content is what counts, wherever it lies.
_PATH_FIELDS = {"pairedMsaPath", "unpairedMsaPath", "templatesPath"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of `predict`; see its help for what each one means."""

    input: Path
    out: Path
    model: str = "auto"
    bias: str = "flashbias"
    plan: Path | None = None
    seeds: tuple[int, ...] | None = None
    samples: int | None = None
    steps: int | None = None
    cycles: int | None = None
    device: str = "auto"
    dtype: str | None = None
    msa_server: str | None = None
    rna_msa: bool = False
    overwrite: bool = False
    format: str | None = None
    write_pae: bool = False
    trust_checkpoint: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no run can have."""
        for option, choices in CHOICES.items():
            if getattr(self, option) is not None:
                _one_of(option, getattr(self, option), choices)
        for option in ("samples", "steps", "cycles"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise UsageError(f"--{option}: expected a number of at least 1, got {value}")
        for seed in self.seeds or ():
            if not 0 <= seed <= MAX_SEED:
                raise UsageError(f"--seeds: expected numbers from 0 to {MAX_SEED}, got {seed}")
        if self.seeds is not None and len(set(self.seeds)) != len(self.seeds):
            raise UsageError("--seeds: a seed is given twice")
        if self.plan is not None and self.bias != "flashbias":
            raise UsageError(f"--plan: is for --bias flashbias, not for {self.bias}")
        if os.path.realpath(self.input) == os.path.realpath(self.out):
            # The next run would take reports for inputs.
            raise UsageError("--out: expected another place than INPUT")

    def as_dict(self) -> dict[str, Any]:
        """For `run.json`."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in vars(self).items()}

    def filled(self, **values: Any) -> Settings:
        """The same with some values decided."""
        return dataclasses.replace(self, **values)


def _one_of(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"--{option.replace('_', '-')}: expected one of {', '.join(choices)}, got '{value}'")


@functools.cache  # it is asked for each of thousands of jobs
def run_defaults() -> ConfigDict:
    """Read the defaults of a run, from `configs/run.yaml`."""
    return ConfigDict(yaml.safe_load(resource("configs", "run.yaml").read_text()))


def identity(settings: Settings, plan: str | None, weights: str, document: dict[str, Any]) -> dict[str, Any]:
    """What results depend on besides the seed: two results with the same identity are the same.

    Args:
        settings: What was asked for.
        plan: The plan's digest.
        weights: What tells the model's weights from others.
        document: The job.
    """
    chosen = {**{key: getattr(settings, key) for key in _IDENTITY}, "plan": plan}
    digest = hashlib.sha256(_canonical(document).encode()).hexdigest()
    return {**chosen, "weights": weights, "input_sha256": digest}


def _canonical(document: dict[str, Any]) -> str:
    return json.dumps(_contents(document), sort_keys=True)


def _contents(value: Any, key: str | None = None) -> Any:
    """The input with every file in the place of its path."""
    if isinstance(value, dict):
        return {name: _contents(item, name) for name, item in value.items() if name != "modelSeeds"}
    if isinstance(value, list):
        return [_contents(item) for item in value]
    if isinstance(value, str) and key in _PATH_FIELDS:
        return _digest(Path(value))
    if isinstance(value, str) and key == "ligand" and value.startswith("FILE_"):
        return _digest(Path(value.removeprefix("FILE_")))
    return value


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
