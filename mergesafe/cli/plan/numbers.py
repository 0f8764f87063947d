"""With which numbers the method merges what: by group of tensors, and layer by layer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from mergesafe.architecture.groups import GROUPS, in_words, tensor_group
from mergesafe.architecture.layers import layers_of
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.methods.combinations import (
    Combination,
    MergeSelected,
    MergeTaskVectors,
    TileFunction,
    Unit,
    WeightedSum,
)
from mergesafe.methods.fused import Fused
from mergesafe.methods.registry import get_method
from mergesafe.methods.spec import Settings
from mergesafe.recipe.short_names import short_names

#: Models whose values a line names before it only counts.
_MODELS: Final = 4
#: In place of a method, of what is taken from one model byte for byte.
COPIED: Final = "copied"
#: How a combination works, where one method has several.
_WAYS: Final = {
    WeightedSum: "weighted sum",
    MergeTaskVectors: "task vectors",
    MergeSelected: "selected elements",
    Fused: "element by element",
}
_UNITS: Final = {
    Unit.ELEMENT: "element by element", Unit.ROW: "row by row", Unit.MATRIX: "whole matrices",
    Unit.GROUP: "factors of adapters",
}  # fmt: skip
#: Parameters by their methods.
Silent = Collection[tuple[str, str]]
#: A parameter, and the model that it is of: None for one that all share.
Key = tuple[str, str | None]


@dataclass(frozen=True)
class Numbers:
    """What the method does with some tensors: its name, how, and the value of each parameter."""

    method: str
    way: str
    values: Mapping[Key, Any]

    @cached_property
    def identity(self) -> tuple[object, ...]:
        return self.method, self.way, tuple(self.values.items())


@dataclass(frozen=True)
class Row:
    """Tensors of one layer and of some groups that are merged alike."""

    layer: str
    groups: tuple[str, ...]
    tensors: int
    elements: int
    numbers: Numbers


def rows(plan: MergePlan) -> list[Row]:
    """Every layer's tensors by what the method does with them, in the order of a forward pass."""
    tasks = plan.outputs
    ways = {task.method.name: _way(task) for task in reversed(plan.tasks) if task.used != ()}
    known: dict[tuple[object, ...], Numbers] = {}
    found = []
    for label, names in layers_of(tasks).items():
        alike: dict[tuple[object, ...], list[TensorTask]] = {}
        layer: list[Row] = []
        for name in names:
            for task in tasks[name]:
                alike.setdefault(_key(task), []).append(task)
        for key, some in alike.items():
            if key not in known:
                known[key] = _numbers(some[0], ways)
            groups = {tensor_group(task.stored) for task in some}
            layer.append(
                Row(
                    label,
                    tuple(sorted(groups, key=GROUPS.index)),
                    len({task.stored for task in some}),
                    sum(task.numel for task in some),
                    known[key],
                )
            )
        found += sorted(layer, key=lambda row: GROUPS.index(row.groups[0]))
    return found


def _key(task: TensorTask) -> tuple[object, ...]:
    """Equal for tasks of equal numbers: tensors of equal settings share one object."""
    return task.copied, task.method.name, id(task.settings), task.inputs, _way(task)


def _way(task: TensorTask) -> str:
    how: Combination | None = None if task.planned is None else task.planned.combination
    if how is None:
        return COPIED
    if task.used == () and not task.unread:
        return "as in the base"
    if isinstance(how, TileFunction):
        return _UNITS[how.unit]
    return next((text for kind, text in _WAYS.items() if isinstance(how, kind)), _UNITS[how.unit])


def _numbers(task: TensorTask, ways: Mapping[str, str]) -> Numbers:
    """``ways``: of each method where settings such as a weight of 0 do not leave the base alone."""
    if task.copied:
        return Numbers(COPIED, COPIED, {})
    ignored = {each.name for each in task.method.parameters if each.ignored}
    settings: Settings = task.settings
    values: dict[Key, Any] = {}
    for model, own in zip(task.inputs, settings.inputs, strict=False):
        values |= {(name, model): value for name, value in own.items() if name not in ignored}
    values |= {(n, None): value for n, value in settings.shared.items() if n not in ignored}
    name, way = task.method.name, _way(task)
    return Numbers(name, ways.get(name, way) if task.unread and task.used == () else way, values)


def layers_described(found: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as JSON: every value of every layer."""
    return [
        {
            "layer": row.layer,
            "groups": list(row.groups),
            "tensors": row.tensors,
            "elements": row.elements,
            **_as_json(row.numbers),
        }
        for row in found
    ]


def _as_json(numbers: Numbers) -> dict[str, Any]:
    models: dict[str, dict[str, Any]] = {}
    shared: dict[str, Any] = {}
    for (name, model), value in numbers.values.items():
        (shared if model is None else models.setdefault(model, {}))[name] = value
    return {
        "method": numbers.method,
        "way": numbers.way,
        "parameters": shared,
        "models": [{"model": model, **values} for model, values in models.items()],
    }


def groups_described(found: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows summed up by group: first and last value of a gradient, least and largest."""
    by_group: dict[tuple[str, str, str], list[Row]] = {}
    for row in found:
        for group in row.groups:
            key = group, row.numbers.method, row.numbers.way
            by_group.setdefault(key, []).append(row)
    order = sorted(by_group, key=lambda key: GROUPS.index(key[0]))
    return [
        {
            "group": group,
            "method": method,
            "way": way,
            "layers": len({row.layer for row in by_group[group, method, way]}),
            "parameters": [
                {"name": name, "model": model, **_span(values)}
                for (name, model), values in _columns(by_group[group, method, way])
            ],
        }
        for group, method, way in order
    ]


def _columns(some: Iterable[Row]) -> Iterator[tuple[Key, list[Any]]]:
    columns: dict[Key, list[Any]] = {}
    for row in some:
        for key, value in row.numbers.values.items():
            columns.setdefault(key, []).append(value)
    yield from columns.items()


def _span(values: Sequence[Any]) -> dict[str, Any]:
    distinct = list(dict.fromkeys(values))
    if len(distinct) > 1 and all(_is_number(each) for each in distinct):
        return {
            "first": values[0], "last": values[-1], "least": min(distinct), "most": max(distinct)
        }  # fmt: skip
    return {"value": distinct[0]} if len(distinct) == 1 else {"values": distinct}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# --- text ----------------------------------------------------------------------------------------


def at_default(layers: Sequence[Mapping[str, Any]]) -> Silent:
    """(method, parameter) of what has its default for every tensor, as in :func:`layers_described`.

    A parameter that every recipe has to give is told always.
    """
    values: dict[tuple[str, str], set[Any]] = {}
    for row in layers:
        for each in (row["parameters"], *row["models"]):
            for name, value in each.items():
                values.setdefault((row["method"], name), set()).add(value)
    defaults: dict[tuple[str, str], Any] = {}
    for method in {method for method, _ in values} - {COPIED}:
        declared = get_method(method).parameters
        defaults |= {(method, each.name): each.default for each in declared if not each.required}
    return {key for key, found in values.items() if found == {defaults.get(key, ...)}}


def methods_of_several_ways(rows: Sequence[Mapping[str, Any]]) -> Collection[str]:
    """Methods that merge some tensors in another way than others, such as whole matrices."""
    pairs = {(each["method"], each["way"]) for each in rows}
    methods = [method for method, _ in pairs]
    return {method for method in methods if methods.count(method) > 1}


def group_lines(groups: Sequence[Mapping[str, Any]], silent: Silent) -> list[str]:
    """A line for all groups with the same numbers. ``silent``: what is not told."""
    names = short_names(
        each["model"] for group in groups for each in group["parameters"] if each["model"]
    )
    ways = methods_of_several_ways(groups)
    alike: dict[str, list[str]] = {}
    for group in groups:
        way = f" ({group['way']})" if group["method"] in ways else ""
        told = _told(group["method"], group["parameters"], names, silent)
        alike.setdefault(f"{group['method']}{way}{told}", []).append(group["group"])
    everything = len(alike) == 1
    labels = ["all tensors" if everything else in_words(each) for each in alike.values()]
    width = max(map(len, labels), default=0)
    return [
        f"  {'' if i else 'numbers':10} {label:{width}}  {text}"
        for i, (label, text) in enumerate(zip(labels, alike, strict=True))
    ]


def _told(
    method: str, parameters: Sequence[Mapping[str, Any]], names: Mapping[str, str], silent: Silent
) -> str:
    by_name: dict[str, list[tuple[str | None, str]]] = {}
    for each in parameters:
        if (method, each["name"]) not in silent:
            by_name.setdefault(each["name"], []).append((each["model"], _short(each)))
    if by_name:
        told = (f"{name} {_values(values, names)}" for name, values in by_name.items())
        return f": {'; '.join(told)}"
    defaults = dict.fromkeys(
        f"{each['name']} {_short(each)}" for each in parameters if each.get("value") is not None
    )
    return f": {'; '.join(defaults)} (defaults)" if defaults else ""


def _values(values: Sequence[tuple[str | None, str]], names: Mapping[str, str]) -> str:
    """What the models have, by model unless all have the same; of many models the first."""
    if len({text for _, text in values}) == 1:
        return f"{values[0][1]}{' each' if len(values) > 1 else ''}"
    shown = [text if model is None else f"{text} {names[model]}" for model, text in values]
    more = len(shown) - _MODELS
    return ", ".join(shown[:_MODELS]) + (f" and of {more} more models" if more > 0 else "")


def _short(parameter: Mapping[str, Any]) -> str:
    if "value" in parameter:
        return shown(parameter["value"])
    if "values" in parameter:
        return "/".join(map(shown, parameter["values"]))
    first, last, least, most = (parameter[key] for key in ("first", "last", "least", "most"))
    if {first, last} == {least, most}:
        return f"{shown(first)} to {shown(last)}"
    return f"{shown(least)} ... {shown(most)} by layer"


def shown(value: Any) -> str:
    """A value as a table shows it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
