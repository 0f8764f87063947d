"""The rows of embeddings and heads, aligned by token where the recipe asks for it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mergesafe.architecture.names import is_tower, layer_of
from mergesafe.architecture.tying import HEADS, is_embedding, text_config
from mergesafe.architecture.vocabulary import reads_first_row, vocabulary_axis
from mergesafe.checkpoint.views.gathered import Gathered
from mergesafe.checkpoint.views.row_map import ZERO, RowMap
from mergesafe.checkpoint.views.view import View
from mergesafe.dtypes import FLOATS
from mergesafe.errors import CheckpointError
from mergesafe.outline.sources import Model, Operand
from mergesafe.recipe.model import Recipe
from mergesafe.recipe.nodes import Reporter
from mergesafe.untrusted import show


def by_token(
    name: str,
    merge: Recipe,
    origins: Sequence[Model],
    references: Sequence[Model],
    lenders: Sequence[Model],
    stored: Sequence[Operand],
) -> list[Operand]:
    """``stored``, of the origins and then of the references, with a row for each token of the
    output. Rows that a model lacks are those of the origins, which ``merge`` merges; of tokens that
    none of these has, those of the ``lenders``.

    A tensor without tokens stays as it is, and so do models whose rows agree already.

    Raises:
        RecipeError: a row is to come from a model that has no such tensor.
        CheckpointError: integers are to be averaged.
    """
    found = list(stored)
    table = origins[0].tokens
    axis = token_axis(name, [*origins, *references], stored)
    if table is None or axis is None:
        return found
    shapes = [source.view.shape for source in stored]
    rest = [_beside(shape, axis) for shape in shapes]
    if len(set(rest)) > 1:
        return found  # refused with both shapes
    count = len(origins)
    base = None if merge.base_model is None else merge.base_model.key
    lent_by = [(m, source) for m in lenders if (source := m.source(name)) is not None]
    lending = [(m, s) for m, s in lent_by if _beside(s.view.shape, axis) == rest[0]]
    keys = [model.ref.key for model in origins]
    lent_keys = [model.ref.key for model, _ in lending]
    counts = [shape[axis] for shape in shapes]
    first = reads_first_row(name)
    held = name in HEADS and any(map(_has_short_head, origins, counts))
    for lent in table.lent.values():
        if lent.model is not None and lent.model not in [*keys, *lent_keys]:
            names = {index: token for token, index in table.vocabulary.items()}
            token = next(names[index] for index, each in table.lent.items() if each is lent)
            raise Reporter(merge.source).error(
                f"'tokens' takes the row of {show(token)} from {_text(lent.model)}, which has no "
                f"'{name}' that is merged. Name a model that has it",
                lent.line,
            )
    views = tuple(source.view for source in stored)
    lent_views = tuple(source.view for _, source in lending)
    maps = table.maps(
        [*keys, *lent_keys], [*counts[:count], *(view.shape[axis] for view in lent_views)], base,
        len(lending), first=first, held=held,
    )  # fmt: skip
    if any(rows.averaged for rows in maps):
        _check_averaged(name, stored[:count])
    for k, rows in enumerate(maps):
        moved = _gathered(found[k], (*views[:count], *lent_views), k, rows, axis)
        found[k] = replace(moved, lenders=tuple(source.model for _, source in lending))
    for number, model in enumerate(references, count):
        beside = [*keys, model.ref.key], [*counts[:count], counts[number]]
        rows = table.maps(*beside, base, first=first, held=held)[-1]
        if rows.averaged:
            _check_averaged(name, [*stored[:count], stored[number]])
        found[number] = _gathered(found[number], (*views[:count], views[number]), count, rows, axis)
    return found


def _has_short_head(model: Model, rows: int) -> bool:
    """Whether the model's head has fewer rows than its embedding: Mllama's, which has none for the
    tokens of pictures.
    """
    embedding = model.embedding()
    return embedding is not None and bool(embedding.shape) and rows < embedding.shape[0]


def _check_averaged(name: str, stored: Sequence[Operand]) -> None:
    """Refuse means of numbers that are no floating-point numbers."""
    whole = next((source for source in stored if source.view.nominal not in FLOATS), None)
    if whole is not None:
        raise CheckpointError(
            f"{whole.view.info.path}: tensor {show(name)} is {whole.view.nominal} and has numbers "
            "for every token; those of tokens that several models have, or of padding, would be a "
            "mean, which integers do not have. Use 'tokenizer_source: base' without "
            "'pad_to_multiple_of', or leave the tensor out of the models."
        )


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


def _beside(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """A shape without the dimension that counts tokens."""
    return (*shape[:axis], *shape[axis + 1 :])


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
    if axis is not None and (name in HEADS or is_embedding(name) or reads_first_row(name)):
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
