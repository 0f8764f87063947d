"""Whether a recipe gives its method the base and the number of models that the method takes."""

from __future__ import annotations

from mergesafe.recipe.model import Recipe, Slice
from mergesafe.recipe.nodes import Reporter, shown


def check_inputs(
    recipe: Recipe, slice: Slice | None, models_line: int | None, report: Reporter
) -> None:
    """The base is as the method wants it, and so is the number of models.

    ``recipe``: one of :attr:`Recipe.merges`, of ``slice`` if there is one. A base that gives a
    slice no layer still gives the merged model its configuration. ``models_line``: of the key
    ``models``, or of the module.

    Raises:
        RecipeError: it is not.
    """
    method, base = recipe.method, recipe.base_model
    takes = method.inputs.base
    if base is None and takes in ("required", "member"):
        raise report.error(f"{method.name} needs a 'base_model'", recipe.method_line)
    _check_count(recipe, slice, models_line, report)
    if base is None:
        return
    entry = recipe.entry(base)
    if slice is not None and entry is None:
        if takes != "none" and len({each.layers for each in slice.sources}) > 1:
            raise report.error(
                f"which layers of the base model {shown(base.text)} belong to this slice is "
                "not said, since its sources take different ones; list it among the sources, "
                "with its layer_range",
                slice.line,
            )
        return
    if entry is None and takes == "none":
        where = "" if models_line is None else f" of line {models_line}"
        raise report.error(
            f"{method.name} has no separate base: list base_model {shown(base.text)} under "
            f"'models'{where} with its parameters, or remove 'base_model'",
            base.line,
        )
    if entry is not None and entry.parameters and recipe.separate_base is not None:
        report.warn(
            f"the parameters of model {shown(base.text)} have no effect: it is the base, which "
            "has no task vector",
            entry.line,
        )


def _check_count(
    recipe: Recipe, slice: Slice | None, models_line: int | None, report: Reporter
) -> None:
    method, count = recipe.method, len(recipe.inputs)
    low, high = method.inputs.least, method.inputs.most
    if count >= low and (high is None or count <= high):
        return
    separate = recipe.separate_base is not None
    noun = "expert" if separate else "model"
    needs = f"exactly {low}" if low == high else f"at least {low}"
    if count >= low:
        needs = f"exactly {high}" if low == high else f"at most {high}"
    number = high if count >= low else low
    member = ", the base included" if method.inputs.base == "member" else ""
    note = " besides the base" if separate else member
    listed = ", ".join(ref.text for ref in recipe.inputs) or "none"
    alone = slice is not None and count == 1
    advice = ". 'merge_method: passthrough' in the slice takes its layers as they are"
    raise report.error(
        f"{method.name} merges {needs} {noun}{'' if number == 1 else 's'}"
        f"{note}, got {count}: {listed}{advice if alone else ''}",
        models_line if slice is None else slice.line,
    )
