"""The factor networks that a plan names, for the model that they were trained for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flashbias_fold.errors import UsageError
from flashbias_fold.factorize import FactorNetwork
from flashbias_fold.factorize.store import FactorFile
from flashbias_fold.pairformer import Plan, Rule
from flashbias_fold.protenix_adapter.models import Model

Find = Callable[[str, Rule], FactorNetwork | None]


def no_networks(_layer: str, _rule: Rule) -> None:
    """What finds none."""


def networks_of(plan: Plan, model: Model) -> Find:
    """What finds the network of a layer, by its name and rule; nothing for the rules of other ways.

    Raises:
        UsageError: A file is damaged, or for another model.
    """
    files: dict[Path, FactorFile] = {}
    for path in plan.factor_files():
        try:
            files[path] = FactorFile.load(path)
            files[path].check(model.name, model.weights)
        except UsageError as error:
            raise UsageError(f"--plan: {plan.name}: {error}") from error

    def find(layer: str, rule: Rule) -> FactorNetwork | None:
        if rule.factors is None or rule.rank is None:
            return None
        file = files[rule.factors]
        if layer not in file.networks:
            raise UsageError(f"--plan: {plan.name}: {rule.factors} has no network for {layer}")
        if rule.rank > file.rank:
            raise UsageError(
                f"--plan: {plan.name}: '{rule.layers}' asks for rank {rule.rank}, and the networks of "
                f"{rule.factors} go up to {file.rank}"
            )
        return file.networks[layer]

    return find
