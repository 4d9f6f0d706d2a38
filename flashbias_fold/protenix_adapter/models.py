"""The models by name, and the configuration that Protenix builds each from."""

from __future__ import annotations

import copy
import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from flashbias_fold.checksum import identify
from flashbias_fold.errors import SetupError, UsageError
from flashbias_fold.resources import resource

DEMO = "demo"
AUTO = "auto"
DEMO_WEIGHTS = "demo.safetensors"


@dataclass(frozen=True)
class Model:
    """A model that can be asked for.

    Attributes:
        name: Protenix's name, or `demo`.
        overrides: What differs from Protenix's default configuration.
        checkpoint: Where its weights are.
    """

    name: str
    overrides: Mapping[str, Any] = field(repr=False)
    checkpoint: Path

    @property
    def is_demo(self) -> bool:
        """Whether this is the demonstration model that ships with the package."""
        return self.name == DEMO

    @property
    def banner(self) -> str | None:
        """What must be said before anybody looks at a structure of this model."""
        if not self.is_demo:
            return None
        return (
            "DEMONSTRATION model, not for science: it memorised a few dozen small domains. For real "
            "predictions get official weights: flashbias-fold fetch protenix_base_default_v1.0.0"
        )

    @property
    def weights(self) -> str:
        """What tells these weights from others of the same name."""
        return identify(self.checkpoint)

    @property
    def reads_alignments(self) -> bool:
        """Whether the model looks at alignments; some read a language model's embeddings instead."""
        return bool(self.overrides.get("use_msa", True))

    @property
    def reads_constraints(self) -> bool:
        """Tell whether the model looks at constraints: a part of its constraint embedder is enabled."""
        embedder = self.overrides.get("model", {}).get("constraint_embedder", {})
        return any(isinstance(part, Mapping) and part.get("enable") for part in embedder.values())


def protenix_root() -> Path:
    """Where Protenix keeps its files: `$PROTENIX_ROOT_DIR`, by default the home folder.

    Protenix's own configuration has the value of the moment of its import; what is used here is this one.
    """
    return Path(os.environ.get("PROTENIX_ROOT_DIR") or Path.home()).absolute()


def checkpoint_folder() -> Path:
    """Where official weights lie, those of models and of the language models that some need."""
    return protenix_root() / "checkpoint"


def checkpoint_path(name: str) -> Path:
    """Where the official weights of a model lie, or would lie."""
    return checkpoint_folder() / f"{name}.pt"


def official_names() -> list[str]:
    """Every model name that Protenix knows, its default first."""
    from configs.configs_inference import inference_configs
    from configs.configs_model_type import model_configs

    default = inference_configs["model_name"]
    return sorted(model_configs, key=lambda name: name != default)


def language_model(name: str) -> str | None:
    """The language model whose embeddings an official model reads, by Protenix's name for it."""
    from configs.configs_model_type import model_configs

    esm = model_configs[name].get("esm", {})
    return esm["model_name"] if esm.get("enable") else None


def download_urls() -> dict[str, str]:
    """Where Protenix's own files come from, by its name for each."""
    from protenix.web_service.dependency_url import URL

    return dict(URL)


def demo_model() -> Model:
    """The demonstration model, whether or not its weights are there: its training begins without any."""
    overrides = yaml.safe_load(resource("configs", "models", "demo.yaml").read_text())
    return Model(DEMO, overrides, resource("data", "demo") / DEMO_WEIGHTS)


def find_model(name: str) -> Model:
    """The model called `name`; `auto` takes official weights that are on disk, else the demonstration.

    Raises:
        UsageError: There is no model of that name.
        SetupError: Its weights are not on disk.
    """
    if name == AUTO:
        on_disk = [official for official in official_names() if checkpoint_path(official).is_file()]
        name = on_disk[0] if on_disk else DEMO
    model = architecture(name)
    if not model.checkpoint.is_file():
        mend = (
            "they ship with flashbias-fold, so this installation is incomplete: install it again"
            if model.is_demo
            else f"get them with: flashbias-fold fetch {name}"
        )
        raise SetupError(f"no weights of {name} at {model.checkpoint}; {mend}")
    return model


def architecture(name: str) -> Model:
    """The model called `name`, whether or not its weights are there: for a network with others.

    Raises:
        UsageError: There is no model of that name.
    """
    if name == DEMO:
        return demo_model()
    from configs.configs_model_type import model_configs

    if name not in model_configs:
        known = [AUTO, DEMO, *official_names()]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UsageError(f"--model: unknown model '{name}'; {hint}known: {', '.join(known)}")
    return Model(name, model_configs[name], checkpoint_path(name))


def build_config(model: Model) -> Any:
    """Protenix's full configuration (an ml-collections ConfigDict) of `model`, as its own runner makes it."""
    config = copy.deepcopy(_parsed(json.dumps(model.overrides)))
    config.model_name = model.name
    config.load_checkpoint_dir = str(checkpoint_folder())
    return config


@cache
def _parsed(overrides: str) -> Any:
    """Parse a configuration once: it takes Protenix longer than a small model's weights take to be read."""
    from configs.configs_base import configs as base
    from configs.configs_data import data_configs
    from configs.configs_inference import inference_configs
    from protenix.config.config import parse_configs

    tree = copy.deepcopy({**base, "data": data_configs, **inference_configs})
    _merge(tree, json.loads(overrides))
    return parse_configs(tree, fill_required_with_null=True)


def _merge(tree: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    for key, value in overrides.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = copy.deepcopy(value)
