"""Models that store the same tensors otherwise: transformers 4 and 5 rename, cut and join them.

A model takes the layout of the one whose names the output takes. What is only renamed keeps its
tensor; what is cut or joined is read by views where it lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from mergesafe.architecture.cross_attention import text_layers
from mergesafe.architecture.depth import count_of, in_layer, main_stack, moved
from mergesafe.architecture.layouts import Group, Move, counterpart, groups_of, moves
from mergesafe.checkpoint.views.joined import Joined
from mergesafe.checkpoint.views.stored import Range, Stored
from mergesafe.checkpoint.views.view import View
from mergesafe.outline.expert_layouts import experts_alike, with_views
from mergesafe.outline.sources import Model
from mergesafe.untrusted import show


def laid_out_alike(
    models: Sequence[Model], reference: Model, *, renumber: bool = True
) -> list[Model]:
    """The models with their tensors called, cut and joined as ``reference`` stores its own.

    Tensors are cut and joined of plain models alone: without an adapter or 8-bit weights, and not
    made by another document. Where a layout is not known the model is left as it is. ``renumber``:
    layers of a text model go where a model with layers of cross-attention has them (Mllama).
    """
    known: dict[tuple[int, bool], Model] = {}
    result = []
    for model in experts_alike(models, reference):
        key = id(model.checkpoint), _is_plain(model)
        if key not in known:
            found = _relaid(model, reference)
            known[key] = _renumbered(found, reference) if renumber else found
        made = known[key]
        if made.names is None:
            result.append(model)
            continue
        told = [
            (*ours, *(text for text in theirs if text not in ours))
            for ours, theirs in ((model.notes, made.notes), (model.warnings, made.warnings))
        ]
        result.append(
            replace(
                model,
                checkpoint=made.checkpoint,
                views=made.views,
                names=made.names,
                notes=told[0],
                warnings=told[1],
            )
        )
    return result


def other_layout(name: str, configs: Sequence[Mapping[str, Any]]) -> str | None:
    """What to say of a tensor that one model lacks, if it has other names in another layout."""
    found = counterpart(name, _groups(configs))
    if found is None:
        return None
    other, alike = found
    why = (
        "Tensors are renamed, cut and joined where one model has one layout throughout and the "
        "other the other, and cut or joined only without an adapter and 8-bit weights"
        if alike
        else "Its rows lie in another order there, which mergesafe does not put in order"
    )
    return (
        f"{show(name)} is what ends in {other} in the other layout of transformers 4 and 5. {why}. "
        "Load and save one of the models with the version that wrote the other."
    )


def _groups(configs: Sequence[Mapping[str, Any]]) -> tuple[Group, ...]:
    return tuple(dict.fromkeys(group for config in configs for group in groups_of(config)))


def _is_plain(model: Model) -> bool:
    return model.document is None and model.adapter is None and not model.scales


def _relaid(model: Model, reference: Model) -> Model:
    ours, theirs = (each.checkpoint.tensors for each in (reference, model))
    if model is reference or ours.keys() == theirs.keys():
        return model
    groups = _groups([reference.checkpoint.config, model.checkpoint.config])
    if not groups:
        return model
    shapes = [{name: info.shape for name, info in each.items()} for each in (ours, theirs)]
    found = moves(shapes[0], shapes[1], groups)
    renamed = {move.own[0]: move.made[0][0] for move in found if _is_rename(move)}
    made: dict[str, dict[str, View]] = {}
    for move in found if _is_plain(model) else ():
        infos = [theirs[name] for name in move.own]
        alike = len({info.dtype for info in infos}) == 1
        if _is_rename(move) or not alike or any(name in model.views for name in move.own):
            continue
        made |= {name: {} for name in move.own[1:]}
        if len(infos) > 1:
            ((name, shape),) = move.made
            made[move.own[0]] = {name: Joined(tuple(infos), shape)}
        else:
            made[move.own[0]] = _parts(Stored(infos[0]), move)
    if not renamed and not made:
        return model
    result = with_views(model, made) if made else model
    names = {renamed.get(name, name): name for name in result.checkpoint.tensors}
    if len(names) < len(result.checkpoint.tensors):
        return model
    own, new = next(iter(renamed.items()), (next(iter(made), ""), ""))
    new = new or next(iter(made[own]))
    note = (
        f"{model.text}: {len(renamed) + len(made)} tensors have other names, or are cut otherwise, "
        f"than those of {reference.text} ({show(own)} for {show(new)}, ...), as transformers 4 and "
        "5 do; the same numbers are paired"
    )
    return replace(result, names=names, notes=(*model.notes, note))


def _renumbered(model: Model, reference: Model) -> Model:
    """The model with its layers numbered as the reference's, if one of the two alone has layers of
    cross-attention among them.
    """
    ours, theirs = (text_layers(each.checkpoint.config) for each in (reference, model))
    names = model.names or {name: name for name in model.checkpoint.tensors}
    stack = main_stack(names)
    if (ours is None) == (theirs is None) or stack is None:
        return model
    text = model if theirs is None else reference
    kept = theirs if ours is None else ours
    assert kept is not None  # one of them has some
    if count_of(text.checkpoint.config) != len(kept):
        return model
    place = dict(enumerate(kept)) if ours is not None else {j: k for k, j in enumerate(kept)}
    moved_names = {}
    for name, own in names.items():
        layer = in_layer(name, stack)
        if layer is None:
            moved_names[name] = own
        elif layer in place:
            moved_names[moved(name, stack, place[layer])] = own
    if ours is not None:
        note = f"{model.text}: its layers are those of {reference.text} that look at no pictures"
        return replace(model, names=moved_names, notes=(*model.notes, note))
    warning = (
        f"layers of cross-attention of {model.text} are left out: {reference.text}, whose "
        "architecture the merged model has, has none; its other layers are numbered without them"
    )
    return replace(model, names=moved_names, warnings=(*model.warnings, warning))


def _is_rename(move: Move) -> bool:
    return len(move.own) == len(move.made) == 1


def _parts(stored: Stored, move: Move) -> dict[str, View]:
    parts: dict[str, View] = {}
    begin = 0
    for name, shape in move.made:
        parts[name] = Range(stored, begin, shape, True)
        begin += prod(shape)
    return parts
