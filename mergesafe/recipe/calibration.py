"""Which numbers about its inputs a recipe has to name, by the method that merges them."""

from __future__ import annotations

from mergesafe.errors import did_you_mean
from mergesafe.methods.spec import CALIBRATION_KINDS
from mergesafe.recipe.model import ModelEntry, ModelRef, Recipe
from mergesafe.recipe.nodes import Reporter, shown


def check_calibration(recipe: Recipe, report: Reporter, *, complete: bool = True) -> None:
    """Record every entry with other names under ``calibration`` than its method declares.

    ``recipe``: of one method: one of :attr:`Recipe.merges`. ``complete``: whether an entry needs
    all of them.
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
        if complete:
            _check_complete(recipe, entry, report)


def check_calibration_of_slices(recipe: Recipe, report: Reporter) -> None:
    """Record every source of slices, or model of modules, whose calibration is another than that
    of the same model elsewhere.
    """
    known: dict[tuple[object, str], ModelRef] = {}
    for entry in recipe.entries:
        for name, place in entry.calibration.items():
            first = known.setdefault((entry.ref.key, name), place)
            if first.key != place.key:
                report.record(
                    f"'calibration' of {shown(entry.ref.text)} has {shown(name)} at "
                    f"{shown(place.text)} here and at {shown(first.text)} in an earlier place; "
                    "a model has one",
                    entry.line,
                )


def _check_complete(recipe: Recipe, entry: ModelEntry, report: Reporter) -> None:
    for each in recipe.method.inputs.calibration:
        if each.name not in entry.calibration:
            base = recipe.separate_base if each.about == "base" else None
            about = entry.ref.text if base is None else base.text
            hint = (
                f"; 'mergesafe calibrate MODEL --kind {each.made_by}' makes it, with "
                f"{shown(about)} as MODEL"
            )
            report.record(
                f"{recipe.method.name} needs 'calibration: {{{each.name}: PATH}}' of every model, "
                f"and {shown(entry.ref.text)} has none: {each.help}"
                f"{hint if each.made_by in CALIBRATION_KINDS else ''}",
                entry.line,
            )
