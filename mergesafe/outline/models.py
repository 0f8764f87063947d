"""The outline of a recipe that merges whole models: every tensor of the same name."""

from __future__ import annotations

from collections.abc import Sequence

from mergesafe.architecture.names import layer_positions
from mergesafe.outline.alignment import align
from mergesafe.outline.outputs import Outline, output_of
from mergesafe.outline.sources import Model, references_of
from mergesafe.recipe.model import Recipe


def outline_of_models(recipe: Recipe, opened: Sequence[Model], chosen: Model) -> Outline:
    """``opened``: the method's inputs in its order, a separate base first, then the references;
    ``chosen`` is one of the inputs.

    Raises:
        CheckpointError: the models do not belong together.
    """
    found = align(opened, chosen)
    positions = layer_positions(name for name in found.names if name not in found.copied)
    count = len(found.models) - len(references_of(recipe))
    merged, beside = found.models[:count], found.models[count:]
    outputs = []
    for name in found.names:
        owner = found.copied.get(name)
        position = positions.get(name, 0.0)
        if owner is None:
            outputs.append(output_of(name, merged, recipe, position, references=beside))
        else:
            outputs.append(output_of(name, (owner,), recipe, position, copied=True))
    reference = found.models[list(opened).index(chosen)]
    return Outline(
        found.models, reference, tuple(outputs), found.models, reference.checkpoint.config,
        found.notes, found.warnings,
    )  # fmt: skip
