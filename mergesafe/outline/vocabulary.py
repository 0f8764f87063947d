"""The rows of embeddings and heads, aligned by token where the recipe asks for it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mergesafe.architecture.names import is_tower, layer_of
from mergesafe.architecture.tying import HEADS, is_embedding, text_config
from mergesafe.architecture.vocabulary import vocabulary_axis
from mergesafe.checkpoint.views.gathered import Gathered
from mergesafe.checkpoint.views.row_map import ZERO, RowMap
from mergesafe.checkpoint.views.view import View
from mergesafe.errors import CheckpointError
from mergesafe.outline.sources import Model, Operand
from mergesafe.untrusted import show


def by_token(
    name: str,
    origins: Sequence[Model],
    references: Sequence[Model],
    stored: Sequence[Operand],
    base: Hashable | None,
) -> list[Operand]:
    """``stored``, of the origins and then of the references, with a row for each token of the
    output. Rows that a model lacks are those of the origins, whose base model is ``base``.

    A tensor without tokens stays as it is, and so do models whose rows agree already.

    Raises:
        CheckpointError: the tensors differ beside their rows, or a row is to come from a model that
            has no part in the tensor.
    """
    found = list(stored)
    table = origins[0].tokens
    axis = token_axis(name, [*origins, *references], stored)
    if table is None or axis is None:
        return found
    shapes = [source.view.shape for source in stored]
    rest = [(*shape[:axis], *shape[axis + 1 :]) for shape in shapes]
    if len(set(rest)) > 1:
        return found  # refused with both shapes
    count = len(origins)
    keys = [model.ref.key for model in origins]
    counts = [shape[axis] for shape in shapes]
    for lent in table.lent.values():
        if lent.model is not None and lent.model not in keys:
            names = {index: token for token, index in table.vocabulary.items()}
            token = next(names[index] for index, each in table.lent.items() if each is lent)
            raise CheckpointError(
                f"'tokens' of the recipe takes the row of {show(token)} from {_text(lent.model)}, "
                f"which has no part in '{name}'. Name a model that is merged there."
            )
    maps = table.maps(keys, counts[:count], base)
    views = tuple(source.view for source in stored)
    for k, rows in enumerate(maps):
        found[k] = _gathered(found[k], views[:count], k, rows, axis)
    for number, model in enumerate(references, count):
        rows = table.maps([*keys, model.ref.key], [*counts[:count], counts[number]], base)[-1]
        found[number] = _gathered(found[number], (*views[:count], views[number]), count, rows, axis)
    return found


def calibration_by_token(calibration: Operand, source: Operand) -> Operand:
    """Numbers about the rows of ``source``, in its order: 0 where the model has no such row."""
    view = source.view
    if not isinstance(view, Gathered) or calibration.view.shape == view.shape:
        return calibration
    import numpy as np

    own = view.rows.table == view.which
    table, row = np.where(own, 0, ZERO), np.where(own, view.rows.row, 0)
    rows = RowMap(table.astype(np.int16), row.astype(np.int32), ())
    return replace(calibration, view=Gathered((calibration.view,), 0, rows, view.last))


def _gathered(
    operand: Operand, views: tuple[View, ...], which: int, rows: RowMap, axis: int
) -> Operand:
    shape = views[which].shape
    if rows.is_identity(which, shape[axis]) or not operand.view.numel:
        return operand
    return replace(operand, view=Gathered(views, which, rows, axis > 0))


def token_axis(name: str, models: Sequence[Model], stored: Sequence[Operand]) -> int | None:
    """The dimension that counts tokens: by the tensor's name, else by its size in every model."""
    shape = stored[0].view.shape
    axis = vocabulary_axis(name, shape)
    if axis is not None and (name in HEADS or is_embedding(name)):
        return axis
    if axis is None and (is_tower(name) or layer_of(name) is not None or not shape):
        return None
    for model, source in zip(models, stored, strict=True):
        embedding = model.embedding()
        rows = embedding.shape[0] if embedding is not None and embedding.shape else None
        if rows is None or len(source.view.shape) <= (axis or 0):
            return axis
        if source.view.shape[axis or 0] != rows:
            return None
        if axis is None and rows in set(_sizes(model.checkpoint.config)):
            return None
    return axis or 0


def _sizes(config: Mapping[str, Any]) -> Iterator[int]:
    """The sizes that a configuration names beside that of the vocabulary."""
    for level in (config, text_config(config)):
        yield from (
            value for key, value in level.items()
            if isinstance(value, int) and not key.startswith("vocab_size") and "token" not in key
        )  # fmt: skip


def _text(key: Hashable) -> str:
    """What an error calls a model by its key."""
    path, adapter = key if isinstance(key, tuple) else (key, None)
    return f"{path}" if adapter is None else f"{path}+{adapter}"
