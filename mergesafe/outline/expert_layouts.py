"""Experts one by one in one model, in one tensor in another: layouts of transformers 4 and 5.

A model takes the layout of the one whose names the output takes. Matrices of its own become one
tensor, or one tensor becomes its matrices, without a copy of either: views read them where they
lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mergesafe.architecture.experts import expert_layout, joined_names, matrices
from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.views.joined import Joined
from mergesafe.checkpoint.views.stored import Range, Stored
from mergesafe.checkpoint.views.view import View
from mergesafe.dtypes import SIZES
from mergesafe.outline.sources import Model


def experts_alike(models: Sequence[Model], reference: Model) -> list[Model]:
    """The models with the experts of each layer stored as ``reference`` stores its own.

    A model is left as it is where that is not known to be possible: one of another family, with
    8-bit experts or an adapter on them, or made by another document.
    """
    wanted = expert_layout(reference.checkpoint.tensors)
    known: dict[int, Model | None] = {}
    result = []
    for model in models:
        held = expert_layout(model.checkpoint.tensors)
        plain = model.document is None and model.adapter is None and not model.scales
        if wanted is None or held is None or held == wanted or not plain:
            result.append(model)
            continue
        key = id(model.checkpoint)
        if key not in known:
            known[key] = _joined(model) if wanted == "fused" else _parted(model)
        other = known[key]
        result.append(model if other is None else _as(model, other, reference))
    return result


def _as(model: Model, other: Model, reference: Model) -> Model:
    note = (
        f"{model.text}: the experts of its layers are stored otherwise than those of "
        f"{reference.text} (one by one, or in one tensor, as transformers 4 and 5 do); the same "
        "matrices are paired"
    )
    return replace(
        model, checkpoint=other.checkpoint, views=other.views, notes=(*model.notes, note)
    )


def _joined(model: Model) -> Model | None:
    """The model with the experts of each layer in one tensor; None where that is not known."""
    tensors, config = model.checkpoint.tensors, model.checkpoint.config
    groups = joined_names({name: info.shape for name, info in tensors.items()}, config)
    if groups is None:
        return None
    made: dict[str, dict[str, View]] = {}
    for name, (parts, shape) in groups.items():
        infos = tuple(tensors[part] for part in parts)
        if len({info.dtype for info in infos}) > 1:
            return None
        made |= {part: {} for part in parts[1:]}
        made[parts[0]] = {name: Joined(infos, shape)}
    return with_views(model, made)


def _parted(model: Model) -> Model | None:
    """The model with the experts of each layer one by one; None where that is not known."""
    made: dict[str, dict[str, View]] = {}
    for name, info in model.checkpoint.tensors.items():
        found = matrices(name, info.shape, model.checkpoint.config)
        if found is not None:
            stored = Stored(info)
            made[name] = {each.name: Range(stored, each.begin, each.shape, True) for each in found}
    rest = (name for name in model.checkpoint.tensors if name not in made)
    names = (name for views in made.values() for name in views)
    if expert_layout(names) != "separate" or expert_layout(rest) is not None:
        return None
    return with_views(model, made)


def with_views(model: Model, made: Mapping[str, Mapping[str, View]]) -> Model:
    """The model with other tensors, in the order of the file, in place of some of its own."""
    tensors: dict[str, TensorInfo] = {}
    for name, info in model.checkpoint.tensors.items():
        if name not in made:
            tensors[name] = info
            continue
        for other, view in made[name].items():
            nbytes = view.numel * SIZES[view.dtype]
            tensors[other] = TensorInfo(other, view.dtype, view.shape, info.path, 0, nbytes)
    views = {name: view for name, view in model.views.items() if name not in made}
    views |= {name: view for each in made.values() for name, view in each.items()}
    return replace(model, checkpoint=replace(model.checkpoint, tensors=tensors), views=views)
