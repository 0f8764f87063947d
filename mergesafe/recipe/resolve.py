"""Settings for one tensor: what the recipe's scalars, gradients and filters come to.

Precedence: the model's own ``parameters``, the recipe's, the method's default. A setting whose
filters all miss the tensor passes to the next.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mergesafe.errors import RecipeError, nearest
from mergesafe.methods.spec import Parameter, Settings
from mergesafe.recipe.model import ModelRef, Recipe
from mergesafe.recipe.nodes import Reporter
from mergesafe.recipe.setting import Setting

#: With more filters than this, tensors rarely share a result and keys would outweigh it.
MAX_CACHED_FILTERS = 64


def settings_for(
    recipe: Recipe, tensor_name: str, t: float, inputs: Sequence[str] | None = None
) -> Settings:
    """The parameter values for ``tensor_name`` at position ``t`` in the stack of layers.

    ``Settings.inputs`` follows :attr:`Recipe.inputs`. ``inputs``: what each of these calls the
    tensor, which the filters of its own parameters look at; None: all as the output. ``recipe`` is
    one of :attr:`Recipe.merges`. Tensors with equal values share one object.
    """
    return _resolver(recipe).settings(tensor_name, t, inputs)


def filter_warnings(recipe: Recipe, names: Sequence[str]) -> list[str]:
    """Filters of the recipe, in order, that match none of the tensors ``names``."""
    filters = dict.fromkeys(each for merge in recipe.merges for each in _resolver(merge).filters)
    unused = [each for each in filters if not any(each in name for name in names)]
    parts = {part for name in names for part in name.split(".")} if unused else set()
    return [
        f"the filter '{each}' is part of no tensor's name, so its value is never used"
        + (f" (did you mean '{close}'?)" if (close := nearest(each, parts)) else "")
        for each in unused
    ]


def unset_parameters(recipe: Recipe, known: Collection[str]) -> list[RecipeError]:
    """An error for every required value that the recipe sets nowhere, but for parameters ``known``.

    Without the base that the method needs, nothing tells which models are experts and need values.
    """
    found: dict[str, RecipeError] = {}
    for merge in recipe.merges:
        resolver = _Resolver(merge)
        complete = merge.base_model is not None or merge.method.inputs.base in ("none", "optional")
        rows = [resolver.shared, *(resolver.inputs if complete else ())]
        for slot in (slot for row in rows for slot in row):
            name = slot.parameter.name
            if slot.parameter.required and not slot.sources and name not in known:
                error = slot.missing(merge)
                found.setdefault(str(error), error)
    return list(found.values())


@dataclass(frozen=True)
class _Slot:
    """One value to find: a parameter, of one input unless it is global."""

    parameter: Parameter
    sources: tuple[Setting, ...]
    ref: ModelRef | None
    line: int | None

    def value(self, recipe: Recipe, tensor_name: str, t: float) -> Any:
        for source in self.sources:
            found = source.at(tensor_name, t)
            if found is not None:
                return found
        if not self.parameter.required:
            return self.parameter.default
        raise self.missing(recipe, tensor_name)

    def missing(self, recipe: Recipe, tensor_name: str | None = None) -> RecipeError:
        name = self.parameter.name
        model = "" if self.ref is None else f" of model '{self.ref.text}'"
        if self.sources:
            what = f"no filter of '{name}'{model} matches tensor '{tensor_name}'"
            todo = "add a last entry {value: ...} for all other tensors"
        else:
            tensor = "" if tensor_name is None else f" (tensor '{tensor_name}')"
            what = f"{recipe.merge_method} needs '{name}'{model}{tensor}"
            todo = "set it under 'parameters'"
            if recipe.tune is not None:
                todo += ", or let 'mergesafe tune RECIPE -o TUNED' find it and merge TUNED"
        line = self.sources[0].line if self.sources else self.line
        return Reporter(recipe.source).error(f"{what}; {todo}", line)


class _Resolver:
    """The recipe's slots, and the settings already found."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        parameters = recipe.method.parameters
        self.shared = [self._slot(p, None) for p in parameters if p.scope == "global"]
        self.inputs = [
            [self._slot(p, ref) for p in parameters if p.scope != "global"] for ref in recipe.inputs
        ]
        slots = [*self.shared, *(slot for row in self.inputs for slot in row)]
        sources = [source for slot in slots for source in slot.sources]
        self.filters = tuple(dict.fromkeys(f for source in sources for f in source.filters))
        self.uses_t = any(source.varies_with_layer for source in sources)
        self.found: dict[tuple[float, tuple[tuple[bool, ...], ...]], Settings] = {}

    def _slot(self, parameter: Parameter, ref: ModelRef | None) -> _Slot:
        entry = None if ref is None else self.recipe.entry(ref)
        maps = [] if entry is None else [entry.parameters]
        maps += [self.recipe.parameters, self.recipe.outer]
        sources = tuple(m[parameter.name] for m in maps if parameter.name in m)
        line = self.recipe.method_line if entry is None else entry.line
        return _Slot(parameter, sources, ref, line)

    def settings(self, tensor_name: str, t: float, inputs: Sequence[str] | None) -> Settings:
        names = (tensor_name, *(inputs or [tensor_name] * len(self.inputs)))
        if len(self.filters) > MAX_CACHED_FILTERS:
            return self._evaluate(names, t)
        # Values depend on the names only through which filters match them.
        distinct = dict.fromkeys(names) if inputs else (tensor_name,)
        matched = {name: tuple([f in name for f in self.filters]) for name in distinct}
        key = (t if self.uses_t else 0.0, tuple([matched[name] for name in names]))
        found = self.found.get(key)
        if found is None:
            found = self.found[key] = self._evaluate(names, t)
        return found

    def _evaluate(self, names: Sequence[str], t: float) -> Settings:
        """``names``: the output's, then that of every input."""

        def row(slots: list[_Slot], name: str) -> dict[str, Any]:
            return {s.parameter.name: s.value(self.recipe, name, t) for s in slots}

        rows = list(zip((self.shared, *self.inputs), names, strict=True))
        try:
            shared, *inputs = (row(slots, name) for slots, name in rows)
            return Settings(shared, tuple(inputs))
        except RecipeError:
            raise self._all_missing(rows, t) from None

    def _all_missing(self, rows: Sequence[tuple[list[_Slot], str]], t: float) -> RecipeError:
        report = Reporter(self.recipe.source)
        for slots, name in rows:
            for slot in slots:
                report.attempt(slot.value, self.recipe, name, t)
        return RecipeError.joined(report.errors)


@lru_cache(maxsize=16)
def _resolver(recipe: Recipe) -> _Resolver:
    return _Resolver(recipe)
