"""Laying out values of groups of tensors: along the layers, or by kind of tensor and layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mergesafe.architecture.depth import main_stack
from mergesafe.architecture.names import group_of
from mergesafe.report.figures.heat import Rows


@dataclass(frozen=True)
class Panel:
    """One heat map: ``about`` says of what, where there are several."""

    about: str
    rows: Rows
    columns: list[str]
    column_title: str


def panels(rows: Rows, groups: Sequence[str]) -> list[Panel]:
    """One map with a strip for each model; for single tensors, one map of kind by layer each."""
    places = [group_of(group) for group in groups]
    if any(place and place[2] for place in places):
        return _grids(rows, groups)
    return [Panel("", rows, labels(groups), "layer" if any(places) else "group")]


def labels(groups: Sequence[str]) -> list[str]:
    """``model.layers.3`` as ``3`` where there is one stack; others by the last part of a name."""
    places = [group_of(group) for group in groups]
    several = len({place[0] for place in places if place}) > 1
    return [
        group.removesuffix(".weight").rpartition(".")[2] if place is None
        else group if several
        else place[1]
        for group, place in zip(groups, places, strict=True)
    ]  # fmt: skip


def _grids(rows: Rows, groups: Sequence[str]) -> list[Panel]:
    usual = main_stack(groups)
    inside: dict[int, tuple[str, str]] = {}
    for i, group in enumerate(groups):
        place = group_of(group)
        if place is not None and place[2]:
            stack, layer, kind = place
            inside[i] = kind, layer if stack == usual else f"{stack}.{layer}"
    outside = [i for i in range(len(groups)) if i not in inside]
    kinds = dict.fromkeys(kind for kind, _ in inside.values())
    layers = sorted({layer for _, layer in inside.values()}, key=_natural)
    found = []
    for model, values in rows:
        cells = {place: values[i] for i, place in inside.items()}
        strips = [
            (kind.removesuffix(".weight"), [cells.get((kind, layer)) for layer in layers])
            for kind in kinds
        ]
        found.append(Panel(model, strips, layers, "layer"))
    if outside:
        rest = [(model, [values[i] for i in outside]) for model, values in rows]
        found.append(Panel("elsewhere", rest, labels([groups[i] for i in outside]), "tensor"))
    return found


def _natural(layer: str) -> list[tuple[int, str]]:
    """Numbers within names in their order: 2 before 10."""
    parts = re.split(r"([0-9]{1,18})", layer)
    return [(int(part) if i % 2 else -1, part) for i, part in enumerate(parts)]
