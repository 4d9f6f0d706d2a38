"""Weights from disk into a model: nothing is unpickled but tensors, and what a file lacks is said."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from flashbias_fold.errors import SetupError

_SHOWN = 3  # parameter names in a message


class DrawInitial(Protocol):
    """Draws values for weights that no file has, given their names and shapes."""

    def __call__(self, names: Collection[str], shapes: Collection[torch.Size]) -> Mapping[str, Tensor]:
        """Draw them; by name."""


def load_weights(
    model: nn.Module, path: Path, *, trust: bool = False, initial: DrawInitial | None = None
) -> list[str]:
    """Load the checkpoint at `path` into `model`, and say in what they differ, a sentence each.

    Args:
        model: A freshly built Protenix.
        path: `.pt` in Protenix's format (`{"model": state_dict}`), or `.safetensors`.
        trust: Allow a `.pt` file to hold more than tensors, which runs whatever code it names.
        initial: Draws the weights that the file lacks; those that the model does not know are left out
            then. Without it every weight must be there, and no other.

    Raises:
        SetupError: The file is unreadable, holds more than tensors, or belongs to another model.
    """
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path, trust)
    # Training wraps the model, and the wrapper's name stays in front of every key.
    state = {key.removeprefix("module."): value for key, value in state.items()}
    expected = model.state_dict()
    lacking, excess = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    _check_match(expected, state, path, strict=initial is None)
    drawn = initial(lacking, {expected[key].shape for key in lacking}) if initial and lacking else {}
    try:
        model.load_state_dict({key: drawn[key] if key in drawn else state[key] for key in expected})
    except RuntimeError as error:
        raise SetupError(f"{path} holds tensors that can be no weights: sparse, or without data") from error
    return _describe_difference(path, lacking, excess, len(expected))


def _describe_difference(path: Path, lacking: list[str], excess: list[str], total: int) -> list[str]:
    """Say what a file lacks, and what it has in excess, where that is a warning."""
    sentences = []
    if lacking:
        sentences.append(
            f"{path.name} {_listed(f'lacks {len(lacking):,} of {total:,} weights:', lacking)}; "
            "they have initial values, which nothing has trained"
        )
    if excess:
        sentences.append(
            f"{path.name} {_listed(f'has {len(excess):,} in excess:', excess)}; the model does not use them"
        )
    return sentences


def _read_torch(path: Path, trust: bool) -> Mapping[str, Tensor]:
    try:
        # Mapped, not read, where the format allows: a checkpoint need not fit the memory a second time.
        mapped = zipfile.is_zipfile(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=not trust, mmap=mapped)
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        # torch's words for a name in the pickle that is not on its list.
        foreign = re.search(r"\bGLOBAL (\S+)", str(error))
        if foreign is None:
            raise SetupError(f"{path} is damaged, or no checkpoint: torch cannot read it") from error
        raise SetupError(
            f"{path} holds more than tensors ({foreign[1]}) and was not opened, since that can run code; "
            "if you trust where it came from, add --trust-checkpoint"
        ) from error
    state = checkpoint.get("model") if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise SetupError(
            f"{path} is not a Protenix checkpoint: expected a dictionary with the weights under 'model'"
        )
    return state


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise SetupError(f"{path} is damaged, or no safetensors file: {error}") from error


def _check_match(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path, *, strict: bool
) -> None:
    """Refuse a file that cannot be of this model; if not strict, one with other names may be in part."""
    reshaped = [
        f"{key} {tuple(found[key].shape)} for {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & found.keys())
        if expected[key].shape != found[key].shape
    ]
    problems = [_listed("has in another shape", reshaped)]
    if strict or not expected.keys() & found.keys():
        problems = [
            _listed("lacks", sorted(expected.keys() - found.keys())),
            _listed("has in excess", sorted(found.keys() - expected.keys())),
            *problems,
        ]
    if any(problems):
        raise SetupError(f"{path} is not of this model: it {'; it '.join(filter(None, problems))}")


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what} {', '.join(names[:_SHOWN])}{more}"
