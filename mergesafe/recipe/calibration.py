"""Which numbers about its inputs a recipe has to name, by the method that merges them."""

from __future__ import annotations

from mergesafe.errors import did_you_mean
from mergesafe.recipe.model import ModelEntry, Recipe
from mergesafe.recipe.nodes import Reporter, shown


def check_calibration(recipe: Recipe, report: Reporter) -> None:
    """Record every entry with other names under ``calibration`` than its method declares.

    ``recipe``: of one method: one of :attr:`Recipe.merges`.
    """
    declared = {each.name: each for each in recipe.method.inputs.calibration}
    base = recipe.separate_base
    for entry in recipe.models:
        model = shown(entry.ref.text)
        if base is not None and entry.ref.key == base.key:
            if entry.calibration:
                report.record(
                    f"the base model {model} has a 'calibration'; only the models that are merged "
                    "into it have one",
                    entry.line,
                )
            continue
        for name in entry.calibration:
            if name not in declared:
                known = did_you_mean(name, declared) if declared else "; it takes none"
                report.record(
                    f"'calibration' of {model} has {shown(name)}, which {recipe.method.name} does "
                    f"not take{known}",
                    entry.line,
                )
        _check_complete(recipe, entry, report)


def _check_complete(recipe: Recipe, entry: ModelEntry, report: Reporter) -> None:
    for each in recipe.method.inputs.calibration:
        if each.name not in entry.calibration:
            report.record(
                f"{recipe.method.name} needs 'calibration: {{{each.name}: PATH}}' of every model, "
                f"and {shown(entry.ref.text)} has none: {each.help}",
                entry.line,
            )
