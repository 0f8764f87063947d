"""Whether stacked layers are a model: their kinds, and what lies before and behind them.

A mixture may have dense layers first, a hybrid attention in every eighth. transformers makes each
layer of the kind that config.json says for its place, so slices may move layers only where what is
said moves along, or to places where layers hold the same tensors.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from mergesafe.architecture.depth import described, in_layer
from mergesafe.architecture.names import is_counter, is_extra_layer, is_recomputed, is_tower
from mergesafe.architecture.tying import HEADS, is_embedding
from mergesafe.outline.sources import Model
from mergesafe.untrusted import show

#: Names that an error shows.
_SHOWN: Final = 3

#: The tensors of a layer by their names in it, and their shapes.
_Kind = frozenset[tuple[str, tuple[int, ...]]]


#: Numbers for every layer in one tensor: ESM's weights of the attention heads of all layers.
_ALL_LAYERS: Final = re.compile(r"(?:^|\.)contact_head\.regression\.weight$")


class LayerKinds:
    """The kinds of the layers of ``stack`` in ``reference``, whose configuration the output takes.

    ``held``: how many layers the reference has.
    """

    def __init__(self, reference: Model, stack: str, held: int) -> None:
        self._reference, self._stack, self._held = reference, stack, held
        self._known: dict[str, dict[int, _Kind]] = {}
        self._ours = self._of(reference)
        self._named = {frozenset(name for name, _ in kind) for kind in self._ours.values()}

    def _of(self, model: Model) -> dict[int, _Kind]:
        if model.text not in self._known:
            self._known[model.text] = _kinds(model, self._stack)
        return self._known[model.text]

    def odd(self, model: Model, j: int) -> str | None:
        """What layer ``j`` of ``model`` has or lacks, if it is like no layer of the reference."""
        theirs = frozenset(name for name, _ in self._of(model).get(j, ()))
        if theirs in self._named:
            return None
        nearest = min(self._named, key=lambda kind: len(kind ^ theirs))
        sides = (("lacks", sorted(nearest - theirs)), ("has", sorted(theirs - nearest)))
        return " and ".join(f"{verb} {_listed(names)}" for verb, names in sides if names)

    def unsaid(self, taken: Sequence[tuple[Model, int]]) -> int | None:
        """The first layer of the output whose kind the reference's configuration does not tell.

        ``taken``: a model and its layer for every layer of the output. None where the configuration
        tells all kinds, or every layer has the kind of the reference's layer at its place. Where
        the first layer alone is of another kind (RWKV, T5), every other has that of the second.
        """
        told: dict[tuple[str, ...], set[_Kind]] = {}
        for j in range(self._held):
            said = described(self._reference.checkpoint.config, j, self._held)
            told.setdefault(said, set()).add(self._ours.get(j, frozenset()))
        if all(len(kinds) == 1 for kinds in told.values()):
            return None
        others = {self._ours.get(j) for j in range(1, self._held)}
        # Of two layers either may be the odd one.
        alike = others.pop() if len(others) == 1 and self._held > 2 else None
        for k, (model, j) in enumerate(taken):
            wanted = alike if k and alike is not None else self._ours.get(k)
            if wanted is None or self._of(model).get(j) != wanted:
                return k
        return None


def of_all_layers(reference: Model) -> str | None:
    """A tensor beside the layers of ``reference`` that holds numbers for each of them."""
    return next((name for name in reference.names or {} if _ALL_LAYERS.search(name)), None)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(map(show, names[:_SHOWN]))}{more}"


def lacking(
    reference: Model, models: Sequence[Model], stack: str, written: Collection[str]
) -> tuple[str, Model] | None:
    """A tensor before or behind the layers that the output, ``written``, would be without, and a
    model that has it: what ``reference`` has, and an embedding.

    Parts that see or hear are not looked at, nor what models compute, nor layers for further
    tokens, nor heads, which :mod:`mergesafe.outline.heads` decides about.
    """
    for name, own in (reference.names or {}).items():
        shape = reference.checkpoint.tensors[own].shape
        aside = is_tower(name) or is_recomputed(name, shape) or is_counter(name) or name in HEADS
        further = is_extra_layer(name, reference.checkpoint.config)
        if in_layer(name, stack) is None and name not in written and not aside and not further:
            return name, reference
    if any(map(is_embedding, written)):
        return None
    found = ((name, model) for model in models for name in model.names or ())
    return next(((name, model) for name, model in found if is_embedding(name)), None)


def _kinds(model: Model, stack: str) -> dict[int, _Kind]:
    found: dict[int, set[tuple[str, tuple[int, ...]]]] = {}
    for name, own in (model.names or {}).items():
        shape = model.checkpoint.tensors[own].shape
        layer = in_layer(name, stack)
        if layer is not None and not is_recomputed(name, shape):
            rest = name.removeprefix(f"{stack}.").partition(".")[2]
            found.setdefault(layer, set()).add((rest, shape))
    return {layer: frozenset(kind) for layer, kind in found.items()}
