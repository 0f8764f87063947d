"""Laying out values of groups of tensors: along the layers, or by kind of tensor and layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mergesafe.report.figures.heat import Rows

#: A stack of layers, a layer or a block of them, and what of it: ``model.layers``, ``0-3``, None.
_GROUP: Final = re.compile(r"(?P<stack>.*?)\.(?P<layer>\d+(?:-\d+)?)(?:\.(?P<kind>.+))?")


@dataclass(frozen=True)
class Panel:
    """One heat map: ``about`` says of what, where there are several."""

    about: str
    rows: Rows
    columns: list[str]
    column_title: str


def panels(rows: Rows, groups: Sequence[str]) -> list[Panel]:
    """One map with a strip for each model; for single tensors, one map of kind by layer each."""
    if any(_kind(group) for group in groups):
        return _grids(rows, groups)
    return [Panel("", rows, labels(groups), "layer" if any(map(_in, groups)) else "group")]


def labels(groups: Sequence[str]) -> list[str]:
    """``model.layers.3`` as ``3`` where there is one stack; others by the last part of a name."""
    found = [_in(group) for group in groups]
    several = len({match["stack"] for match in found if match}) > 1
    return [
        group.removesuffix(".weight").rpartition(".")[2] if match is None
        else group if several
        else match["layer"]
        for group, match in zip(groups, found, strict=True)
    ]  # fmt: skip


def _grids(rows: Rows, groups: Sequence[str]) -> list[Panel]:
    inside = [i for i, group in enumerate(groups) if _kind(group)]
    outside = [i for i in range(len(groups)) if i not in set(inside)]
    kinds = dict.fromkeys(_kind(groups[i]) for i in inside)
    layers = sorted({_layer(groups[i]) for i in inside}, key=_natural)
    found = []
    for model, values in rows:
        cells = {(_kind(groups[i]), _layer(groups[i])): values[i] for i in inside}
        strips = [
            (kind.removesuffix(".weight"), [cells.get((kind, layer)) for layer in layers])
            for kind in kinds
        ]
        found.append(Panel(model, strips, layers, "layer"))
    if outside:
        rest = [(model, [values[i] for i in outside]) for model, values in rows]
        found.append(Panel("elsewhere", rest, labels([groups[i] for i in outside]), "tensor"))
    return found


def _in(group: str) -> re.Match[str] | None:
    return _GROUP.fullmatch(group)


def _kind(group: str) -> str:
    match = _in(group)
    return (match["kind"] or "") if match else ""


def _layer(group: str) -> str:
    """With its stack where it is not the usual one of language models."""
    match = _in(group)
    assert match is not None  # asked of groups inside stacks only
    stack = match["stack"].removeprefix("model.")
    return match["layer"] if stack == "layers" else f"{stack}.{match['layer']}"


def _natural(layer: str) -> list[tuple[int, str]]:
    """Numbers within names in their order: 2 before 10."""
    parts = re.split(r"([0-9]{1,18})", layer)
    return [(int(part) if i % 2 else -1, part) for i, part in enumerate(parts)]
