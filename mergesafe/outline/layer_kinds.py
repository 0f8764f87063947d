"""Layers of different kinds: whether a configuration says which layer is of which.

A mixture may have dense layers first, a hybrid attention in every eighth. transformers makes each
layer of the kind that config.json says for its place, so slices may move layers only where what is
said moves along, or to places where layers hold the same tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

from mergesafe.architecture.depth import described, in_layer
from mergesafe.architecture.names import is_recomputed
from mergesafe.outline.sources import Model

#: The tensors of a layer by their names in it, and their shapes.
_Kind = frozenset[tuple[str, tuple[int, ...]]]


def unsaid_layer(
    reference: Model, stack: str, taken: Sequence[tuple[Model, int]], held: int
) -> int | None:
    """The first layer of the output whose kind the configuration of ``reference`` does not tell.

    ``taken``: a model and its layer for every layer of the output; ``held``: how many layers the
    reference has. None where the configuration tells all kinds, or every layer has the kind of the
    reference's layer at its place.
    """
    known: dict[str, dict[int, _Kind]] = {}
    ours = known[reference.text] = _kinds(reference, stack)
    told: dict[tuple[str, ...], set[_Kind]] = {}
    for j in range(held):
        said = described(reference.checkpoint.config, j, held)
        told.setdefault(said, set()).add(ours.get(j, frozenset()))
    if all(len(kinds) == 1 for kinds in told.values()):
        return None
    for k, (model, j) in enumerate(taken):
        if model.text not in known:
            known[model.text] = _kinds(model, stack)
        if k >= held or known[model.text].get(j) != ours.get(k):
            return k
    return None


def _kinds(model: Model, stack: str) -> dict[int, _Kind]:
    found: dict[int, set[tuple[str, tuple[int, ...]]]] = {}
    for name, own in (model.names or {}).items():
        shape = model.checkpoint.tensors[own].shape
        layer = in_layer(name, stack)
        if layer is not None and not is_recomputed(name, shape):
            rest = name.removeprefix(f"{stack}.").partition(".")[2]
            found.setdefault(layer, set()).add((rest, shape))
    return {layer: frozenset(kind) for layer, kind in found.items()}
