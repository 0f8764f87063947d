"""What cannot be asked about the whole model, because there is none."""

from __future__ import annotations

from collections.abc import Sequence

from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.errors import RecipeError
from mergesafe.recipe.model import Recipe


def check_slices(recipe: Recipe, tasks: Sequence[TensorTask]) -> None:
    """Refuse a recipe of slices or modules whose method asks about the whole model.

    Raises:
        RecipeError: it does; names the parameter, where there is one, and the line.
    """
    asking = [task for task in tasks if task.asks_model]
    lines = [*(each.line for each in recipe.modules), *(each.line for each in recipe.slices)]
    if not lines or not asking:
        return
    kind = "a module" if recipe.modules else "a slice"
    what = "magnitudes" if any(task.model_ranks for task in asking) else "tensors"
    options = {each.name for task in asking for each in task.method.parameters}
    scoped = "leave out trim_scope: model, or " if "trim_scope" in options else ""
    raise RecipeError(
        f"{kind} is no whole model, so that {what} cannot be compared with a model's: "
        f"{scoped}list whole models under 'models'",
        source=recipe.source, line=lines[0],
    )  # fmt: skip
