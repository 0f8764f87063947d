"""Tensors by layer, in the order in which a forward pass meets them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mergesafe.architecture.names import layer_of, place_of


def layers_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Label -> tensors: embeddings, every layer by its number, then what follows the layers.

    A layer's label is its number, after the name of its stack where there are several stacks
    (``vision.blocks.3``). Outside of stacks a module's own name is the label (``lm_head``), its
    whole path where several modules have that name (BERT's ``bert.embeddings.LayerNorm``).
    """
    listed = list(names)
    found = {name: layer_of(name) for name in listed}
    several = len({layer[0] for layer in found.values() if layer}) > 1
    outside = {name: _module(name) for name, layer in found.items() if not layer}
    paths: dict[str, set[str]] = {}
    for path in outside.values():
        paths.setdefault(_own_name(path), set()).add(path)
    groups: dict[tuple[int, str, int], tuple[str, list[str]]] = {}
    for name, layer in found.items():
        if layer:
            stack, number = layer
            key, label = (1, stack, number), f"{stack}.{number}" if several else str(number)
        else:
            path = outside[name]
            label = path if len(paths[_own_name(path)]) > 1 else _own_name(path)
            key = (place_of(name)[0], label, 0)
        groups.setdefault(key, (label, []))[1].append(name)
    return dict(groups[key] for key in sorted(groups))


def _module(name: str) -> str:
    """The path of the module that holds the tensor."""
    return re.sub(r"\.(?:weight|bias)$", "", name)


def _own_name(path: str) -> str:
    return path.rpartition(".")[2]
