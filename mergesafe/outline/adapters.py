"""The outline of a merged adapter: the layers that some input changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mergesafe.architecture.names import layer_positions
from mergesafe.checkpoint.format.lora import LoraPair
from mergesafe.errors import CheckpointError
from mergesafe.outline.sources import Model
from mergesafe.untrusted import show


@dataclass(frozen=True)
class AdaptedLayer:
    """One layer of the merged adapter.

    ``name``: of the base's tensor. ``module``: what the adapters call the layer. ``shape``: [m, n]
    of ``B A``, the transpose of the stored tensor where that is transposed. ``pairs``: of every
    adapter in its order, None of one that leaves the layer as it is. ``position``: t in [0, 1].
    """

    name: str
    module: str
    shape: tuple[int, int]
    pairs: tuple[LoraPair | None, ...]
    position: float


def adapted_layers(base: Model, adapters: Sequence[Model]) -> tuple[AdaptedLayer, ...]:
    """The layers in the order of the base's tensors.

    Raises:
        CheckpointError: the adapters spell the names of a layer otherwise than one another.
    """
    order = {name: number for number, name in enumerate(base.checkpoint.tensors)}
    positions = layer_positions(order)
    found: dict[str, tuple[LoraPair | None, ...]] = {}
    for name in {name for model in adapters for name in _pairs(model)}:
        found[name] = tuple(_pairs(model).get(name) for model in adapters)
    layers = []
    for name in sorted(found, key=lambda name: (order.get(name, len(order)), name)):
        pairs = found[name]
        first = next(pair for pair in pairs if pair is not None)
        _check_spelling(name, adapters, pairs)
        shape = (first.b.shape[0], first.a.shape[1])
        layers.append(AdaptedLayer(name, first.module, shape, pairs, positions.get(name, 0.0)))
    return tuple(layers)


def _pairs(model: Model) -> Mapping[str, LoraPair]:
    assert model.adapter is not None  # the recipe was checked for it
    if model.adapter.whole:
        name = next(iter(model.adapter.whole))
        raise CheckpointError(
            f"{model.adapter.path}: stores '{name}' whole beside its factors (modules_to_save), "
            "and factors alone are merged here. Merge base+adapter by a method that merges models."
        )
    return model.adapter.pairs


def _check_spelling(name: str, adapters: Sequence[Model], pairs: Sequence[LoraPair | None]) -> None:
    known: dict[str, str] = {}
    for model, pair in zip(adapters, pairs, strict=True):
        if pair is not None:
            known.setdefault(pair.module, model.text)
    if len(known) > 1:
        (ours, one), (theirs, two) = list(known.items())[:2]
        raise CheckpointError(
            f"{one} calls the layer of tensor {show(name)} {show(ours)} and {two} calls it "
            f"{show(theirs)}, and a merged adapter has one name for it. Load and save one of them "
            "with the version of transformers and PEFT that wrote the other, or leave out "
            "'output: adapter'."
        )
