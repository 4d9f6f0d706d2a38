"""A file of trained factor networks: safetensors, with what they are for and how good they are."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize

from flashbias_fold.errors import UsageError
from flashbias_fold.factorize.neural import NETWORKS, FactorNetwork
from flashbias_fold.files import write_atomic

_FORMAT = "flashbias-fold factors 2"
_SEPARATOR = "::"  # between a layer's name and its network's parameter


@dataclass
class FactorFile:
    """Networks by layer, and what a reader has to know.

    Attributes:
        model: The name of the model that they were trained for.
        weights: What tells its weights from others of that name.
        kind: Of the networks, one of NETWORKS.
        rank: The largest.
        reach: Within which the bias was exact beside the factors, when they were trained and measured.
        networks: By the layer's name.
        sizes: For each layer, what its network was built with: `channels`, `tokens`, `heads`.
        errors: For each layer, way and rank, as text, the `mean` and the `largest` relative error of its
            output on inputs kept aside.
        about: How they were made: versions, inputs, settings.
    """

    model: str
    weights: str
    kind: str
    rank: int
    reach: int
    networks: dict[str, FactorNetwork]
    sizes: dict[str, dict[str, int]]
    errors: dict[str, dict[str, dict[str, dict[str, float]]]] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it: a file of this name is complete."""
        tensors = {
            f"{layer}{_SEPARATOR}{name}": tensor.detach().cpu().contiguous()
            for layer, network in self.networks.items()
            for name, tensor in network.state_dict().items()
        }
        said = {name: value for name, value in vars(self).items() if name != "networks"}
        # Not by safetensors itself, whose files only their owner may read, whatever the umask says.
        write_atomic(path, serialize(tensors, {"format": _FORMAT, "about": json.dumps(said)}))

    @classmethod
    def load(cls, path: Path) -> FactorFile:
        """Read a file that `save` wrote.

        Raises:
            UsageError: It is none, and why.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise UsageError(
                        f"{path}: no file of factor networks, which `flashbias-fold calibrate` makes"
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            found = cls(networks={}, **json.loads(metadata["about"]))
            for layer, size in found.sizes.items():
                network = NETWORKS[found.kind](rank=found.rank, **size)
                prefix = layer + _SEPARATOR
                network.load_state_dict(
                    {
                        name.removeprefix(prefix): tensor
                        for name, tensor in tensors.items()
                        if name.startswith(prefix)
                    }
                )
                found.networks[layer] = network.eval().requires_grad_(False)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from error
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(
                f"{path}: no file of factor networks, or one that is damaged ({reason})"
            ) from error
        return found

    def check(self, model: str, weights: str) -> None:
        """Whether they are for this model and these weights.

        Raises:
            UsageError: They are for others.
        """
        if self.model != model:
            raise UsageError(
                f"these factor networks were trained for the model {self.model}, not for {model}"
            )
        if self.weights != weights:
            raise UsageError(
                f"these factor networks were trained for other weights of {model}; "
                "`flashbias-fold calibrate` trains them for yours"
            )
