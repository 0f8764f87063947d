"""Which layers a slice takes of each model, and whether the models have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mergesafe.architecture.depth import count_of, in_layer
from mergesafe.errors import RecipeError
from mergesafe.outline.sources import Model
from mergesafe.recipe.model import ModelRef, Recipe
from mergesafe.recipe.nodes import Reporter


@dataclass(frozen=True)
class Taken:
    """Layers [first, end) of a model; ``line``: of its entry, None where it is not listed."""

    ref: ModelRef
    first: int
    end: int
    line: int | None


def layers_taken(merge: Recipe) -> Iterator[Taken]:
    """Of the method's inputs in its order, a separate base first."""
    refs: list[ModelRef] = list(merge.inputs)
    if merge.separate_base is not None:
        refs.insert(0, merge.separate_base)
    for ref in refs:
        entry = merge.entry(ref) or merge.models[0]  # a base that is not listed goes along
        first, end = entry.layers or (0, 0)
        yield Taken(ref, first, end, entry.line if entry.ref.key == ref.key else None)


def check_ranges(
    recipe: Recipe, models: Mapping[tuple[str, str | None], Model], stack: str
) -> None:
    """``models``: by their keys.

    Raises:
        RecipeError: ranges are outside a model's layers, or these are not what its configuration
            counts; names all.
    """
    report = Reporter(recipe.source)
    for merge, written in zip(recipe.merges, recipe.slices, strict=True):
        for each in layers_taken(merge):
            model = models[each.ref.key]
            said, stored = count_of(model.checkpoint.config, stack), _stored(model, stack)
            if said is not None and said > stored:
                report.record(
                    f"config.json of {each.ref.text} counts {said} layers, and {stored} are stored "
                    f"under '{stack}': slices cannot stack layers that share tensors or are "
                    "counted otherwise. List whole models under 'models'",
                    each.line or written.line,
                )
                continue
            count = layers_of(models[each.ref.key], stack)
            if each.end > count:
                report.record(
                    f"layer_range [{each.first}, {each.end}] of {each.ref.text} is out of range: "
                    f"the model has {count} layers, so the end is at most {count}",
                    each.line or written.line,
                )
    if report.errors:
        raise RecipeError.joined(report.errors)


def layers_of(model: Model, stack: str) -> int:
    """Layers that tokens go through: those that are stored, but for what the config leaves out."""
    count, held = count_of(model.checkpoint.config, stack), _stored(model, stack)
    return held if count is None else min(count, held)


def _stored(model: Model, stack: str) -> int:
    layers = (in_layer(name, stack) for name in model.names or {})
    return max((layer for layer in layers if layer is not None), default=-1) + 1
