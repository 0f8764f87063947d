"""What is read before anything is planned: a recipe's models, and the tensors of the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mergesafe.engine.plan.settings import check_settings
from mergesafe.engine.plan.tokens import AlignedTokens, align_tokens
from mergesafe.outline.models import outline_of_models
from mergesafe.outline.modules import outline_of_modules
from mergesafe.outline.outputs import Outline
from mergesafe.outline.slices import outline_of_slices
from mergesafe.outline.sources import Made, Model, open_models
from mergesafe.recipe.model import Recipe
from mergesafe.recipe.references import references_in_errors


def outlined(
    recipe: Recipe, documents: Mapping[str, Made] | None
) -> tuple[Outline, list[str], AlignedTokens | None]:
    """The outline, warnings about settings that differ between the models, and whose tokens the
    output has, where the recipe says it.

    ``documents``: what the documents that the recipe merges make, by their names; a path where one
    is written.

    Raises:
        CheckpointError: a model cannot be opened, or the models do not belong together.
    """
    with references_in_errors(recipe):
        opened = open_models(recipe, documents)
        aligned = align_tokens(recipe, opened, _reference(recipe, opened))
        if aligned is not None and aligned.table is not None:
            opened = tuple(replace(model, tokens=aligned.table) for model in opened)
        chosen = _reference(recipe, opened)
        if recipe.modules:
            depth = not recipe.all_slices
            outline = outline_of_modules(recipe, opened, chosen)
            return outline, check_settings(chosen, opened, depth=depth), aligned
        if recipe.slices:
            outline = outline_of_slices(recipe, opened, chosen)
            return outline, check_settings(chosen, opened, depth=False), aligned
        settings = check_settings(chosen, opened)
        return outline_of_models(recipe, opened, chosen), settings, aligned


def _reference(recipe: Recipe, models: Sequence[Model]) -> Model:
    """The base, where the recipe names one, else the first model."""
    base = recipe.base_model
    return next((m for m in models if base is not None and m.ref.key == base.key), models[0])
