"""The tuned recipe: the recipe with numbers filled in, plain enough for mergekit."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import torch

from mergesafe.architecture.names import layer_of, layer_positions
from mergesafe.recipe.model import Recipe
from mergesafe.recipe.setting import Branch, Setting
from mergesafe.recipe.write import dump_recipe
from mergesafe.tune.model.space import CoefficientSpace

#: Decimals of a coefficient in a recipe: far below what changes a model, and short to read.
DECIMALS: Final = 6


def rounded(space: CoefficientSpace, x: torch.Tensor) -> torch.Tensor:
    """``x`` with the decimals that a recipe is written with, within the bounds."""
    return space.clamp(torch.round(x, decimals=DECIMALS))


def tuned_text(recipe: Recipe, space: CoefficientSpace, x: torch.Tensor, about: str) -> str:
    """The YAML of :func:`tuned_recipe`, after ``about`` as comments."""
    comments = "".join(f"# {line}\n" if line else "#\n" for line in about.splitlines())
    return comments + dump_recipe(tuned_recipe(recipe, space, x))


def tuned_recipe(recipe: Recipe, space: CoefficientSpace, x: torch.Tensor) -> Recipe:
    """``recipe`` with the coefficients ``x`` as its numbers, and without its ``tune`` section."""
    entries = {entry.ref.key: dict(entry.parameters) for entry in recipe.models}
    shared = dict(recipe.parameters)
    everything = [task.name for task in space.plan.tasks]
    for parameter in space.parameters:
        rows = space.view(x, parameter.name).tolist()
        settings = [_setting(space, row, everything) for row in rows]
        if parameter.scope == "global":
            shared[parameter.name] = settings[0]
            continue
        shared.pop(parameter.name, None)
        for ref, setting in zip(recipe.inputs, settings, strict=True):
            entries[ref.key][parameter.name] = setting
    models = tuple(replace(e, parameters=entries[e.ref.key]) for e in recipe.models)
    return replace(recipe, models=models, parameters=shared, tune=None, tune_line=None)


def _setting(space: CoefficientSpace, row: Sequence[float], everything: Sequence[str]) -> Setting:
    """What a recipe says for one value of each group."""
    if space.lines and row[0] != row[1]:
        return Setting((Branch(tuple(row), gradient=True),))
    values = {name: row[i] for i, g in enumerate(space.groups) for name in g.tensors}
    return setting_of(values, everything)


def setting_of(values: Mapping[str, float], everything: Sequence[str]) -> Setting:
    """The shortest setting that gives each tensor its value; ``everything``: all tensors' names.

    A scalar where all are equal, else one list over the layers of a stack, or a list for each kind
    of tensor in it, or an entry for each tensor. Tensors without a value take any.
    """
    if len(set(values.values())) == 1:
        return Setting((Branch((next(iter(values.values())),)),))
    positions = layer_positions(everything)
    depth = _depths(everything)
    for kinds in (False, True):
        branches = _branches(values, depth, kinds)
        if branches and _gives(Setting(branches), values, positions):
            return Setting(branches)
    return Setting(_finished([Branch((value,), filter=name) for name, value in values.items()]))


def _gives(setting: Setting, values: Mapping[str, float], positions: Mapping[str, float]) -> bool:
    """Whether every tensor gets its value, to the last bit of the float32 that merges take."""
    return all(
        struct.pack("<f", setting.at(name, positions[name])) == struct.pack("<f", value)
        for name, value in values.items()
    )


def _depths(everything: Iterable[str]) -> dict[str, int]:
    """The number of layers of each stack."""
    depth: dict[str, int] = {}
    for stack, index in filter(None, map(layer_of, everything)):
        depth[stack] = max(depth.get(stack, 0), index + 1)
    return depth


def _branches(
    values: Mapping[str, float], depth: Mapping[str, int], kinds: bool
) -> tuple[Branch, ...]:
    """A list over the layers for each stack, or with ``kinds`` for each kind of tensor in it.

    Nothing where tensors that share an element of a list have different values.
    """
    outside: list[Branch] = []
    lists: dict[tuple[str, str], dict[int, float]] = {}
    for name, value in values.items():
        layer = layer_of(name)
        if layer is None:
            outside.append(Branch((value,), filter=name))
            continue
        stack, index = layer
        kind = name.removeprefix(f"{stack}.{index}") if kinds else f"{stack}."
        if lists.setdefault((stack, kind), {}).setdefault(index, value) != value:
            return ()
    inside = [
        Branch(_spread(found, depth[stack]), gradient=True, filter=filter)
        for (stack, filter), found in lists.items()
    ]
    return _finished([*inside, *outside])


def _spread(found: Mapping[int, float], count: int) -> tuple[float, ...]:
    """A value for each of ``count`` layers; one without takes that of the nearest below it."""
    spread, value = [], found[min(found)]
    for index in range(count):
        value = found.get(index, value)
        spread.append(value)
    return tuple(spread)


def _finished(branches: Iterable[Branch]) -> tuple[Branch, ...]:
    """Longer filters first, since a filter matches wherever it is part of a name; the last entry
    is for all that is left.
    """
    ordered = sorted(branches, key=lambda branch: -len(branch.filter or ""))
    return (*ordered[:-1], replace(ordered[-1], filter=None))
