"""The stack of layers that a recipe of ``slices`` makes, as data and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mergesafe.architecture.depth import count_of, in_layer, main_stack
from mergesafe.cli.plan.ranges import in_ranges
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.outline.sources import Model
from mergesafe.recipe.model import Recipe
from mergesafe.recipe.short_names import short_names

#: Characters of a bar: of a larger model each stands for several layers.
_WIDTH: Final = 40


def stack(plan: MergePlan) -> list[dict[str, Any]]:
    """Every slice from the first to the last: its layers of the output, and those of each source.

    ``layers`` and ``of`` are [first, end); ``depth`` is the number of layers of the source's model.
    Empty for a recipe of whole models.
    """
    depths = {model.ref.key: _depth(model) for model in plan.models}
    parts = (part for part in plan.recipe.parts if part.slices)
    return [each for part in parts for each in _stacked(part, depths)]


def _stacked(recipe: Recipe, depths: Mapping[tuple[str, str | None], int]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    begin = 0
    for merge, written in zip(recipe.merges, recipe.slices, strict=True):
        end = begin + written.length
        sources = [
            {
                "model": entry.ref.text,
                "layers": list(entry.layers or (0, 0)),
                "depth": depths[entry.ref.key],
            }
            for entry in written.sources
        ]
        found.append({"layers": [begin, end], "method": merge.merge_method, "sources": sources})
        begin = end
    return found


def _depth(model: Model) -> int:
    """Layers that tokens go through."""
    tensors = model.checkpoint.tensors
    name = main_stack(tensors)
    numbers = [] if name is None else [in_layer(each, name) for each in tensors]
    held = max((number for number in numbers if number is not None), default=-1) + 1
    return min(count_of(model.checkpoint.config) or held, held)


def lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each source of each slice: the output's layers, and where in the source they lie.

    ::

        stack      0-15   a  ################--------  0-15   passthrough
                   16-23  b  ----------------########  16-23  passthrough
    """
    if not found:
        return []
    sources = [source for each in found for source in each["sources"]]
    names = short_names(source["model"] for source in sources)
    cells = max((source["depth"] for source in sources), default=1)
    step = max(1, -(-cells // _WIDTH))
    table = []
    for each in found:
        for i, source in enumerate(each["sources"]):
            label = "" if i else _span(each["layers"])
            bar = _bar(source["layers"], source["depth"], step)
            method = "" if i else each["method"]
            name = names[source["model"]]
            table.append((label, name, bar, _span(source["layers"]), method))
    widths = [max(len(row[i]) for row in table) for i in range(4)]
    total = found[-1]["layers"][1]
    cell = "" if step == 1 else f"; a character is {step} layers"
    texts = [f"{total} layers; # is what is taken of a model's own{cell}"]
    texts += [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, (*widths, 0), strict=True)).rstrip()
        for row in table
    ]
    return [f"  {'' if i else 'stack':10} {text}" for i, text in enumerate(texts)]


def _span(layers: Sequence[int]) -> str:
    first, end = layers
    return in_ranges(range(first, end)) or "none"


def _bar(layers: Sequence[int], depth: int, step: int) -> str:
    first, end = layers
    taken = (
        any(first <= layer < end for layer in range(at, at + step)) for at in range(0, depth, step)
    )
    return "".join("#" if each else "-" for each in taken)
