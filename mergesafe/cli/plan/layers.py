"""The table of ``mergesafe plan --layers``: the method's numbers, layer by layer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

from mergesafe.architecture.groups import in_words
from mergesafe.cli.plan.numbers import Silent, methods_of_several_ways, shown
from mergesafe.cli.plan.ranges import in_ranges
from mergesafe.recipe.short_names import short_names

#: Title of a column -> the value there, as text.
Cells = Mapping[str, str]


def lines(layers: Sequence[Mapping[str, Any]], silent: Silent) -> list[str]:
    """A line for the tensors of a layer that are merged alike; layers with the same numbers share
    it. What is the same everywhere stands above the table. ``silent``: what is not told.
    """
    names = short_names(each["model"] for row in layers for each in row["models"])
    ways = methods_of_several_ways(layers)
    cells = [_cells(row, names, silent, ways) for row in layers]
    titles = list(dict.fromkeys(title for each in cells for title in each))
    same = [t for t in titles if len({each.get(t) for each in cells}) == 1]
    varied = [title for title in titles if title not in same]
    table = [["", "tensors", *varied]]
    rows = [
        (row["layer"], in_words(row["groups"]), tuple(each.get(title, "") for title in varied))
        for row, each in zip(layers, cells, strict=True)
    ]
    by_layer = [
        (label, [(words, values) for _, words, values in some])
        for label, some in groupby(rows, lambda row: row[0])
    ]
    for contents, some_layers in groupby(by_layer, lambda each: each[1]):
        label = _label([label for label, _ in some_layers])
        for words, values in contents:
            table.append([label, "all" if len(contents) == 1 else words, *values])
            label = ""
    everywhere = "; ".join(f"{title} {cells[0][title]}" for title in same)
    texts = [f"everywhere: {everywhere}"] if same else []
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table if varied else ():
        label, words, *values = row
        numbers = [f"{value:>{width}}" for value, width in zip(values, widths[2:], strict=True)]
        texts.append(f"{label:{widths[0]}}  {words:{widths[1]}}  {'  '.join(numbers)}".rstrip())
    return [f"  {'' if i else 'layers':10} {text}" for i, text in enumerate(texts)]


def _cells(
    row: Mapping[str, Any], names: Mapping[str, str], silent: Silent, ways: Collection[str]
) -> Cells:
    method = row["method"]
    return {
        "method": f"{method} ({row['way']})" if method in ways else method,
        **{
            f"{name} {names[each['model']]}": shown(value)
            for each in row["models"]
            for name, value in each.items()
            if name != "model" and (method, name) not in silent
        },
        **{
            name: shown(value)
            for name, value in row["parameters"].items()
            if (method, name) not in silent
        },
    }


def _label(labels: Sequence[str]) -> str:
    if all(label.isdecimal() for label in labels):
        return in_ranges(map(int, labels))
    return labels[0] if len(labels) == 1 else f"{labels[0]} ... {labels[-1]}"
