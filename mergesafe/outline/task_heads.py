"""The heads of single tasks: classifiers, poolers, scorers of answers, what fills gaps in a text.

Models of one backbone are fine-tuned for different tasks, with different heads on it. The backbones
are merged. A head is merged where every model has it; else the output, which is a model of the
reference's class, has the reference's, as it is stored.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mergesafe.architecture.names import task_head
from mergesafe.architecture.tying import HEADS
from mergesafe.outline.heads import may_have_head
from mergesafe.outline.sources import Model


@dataclass(frozen=True)
class TaskHead:
    """A head that is not merged: ``holders`` have one, ``others`` not the reference's.

    ``kept``: those of its tensors that the reference has; ``dropped``: the rest.
    ``what`` the others have in its place: "another" or "no such".
    """

    part: str
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    holders: tuple[int, ...]
    others: tuple[int, ...]
    what: str


def unmerged_heads(
    models: Sequence[Model], reference: int, names: Collection[str]
) -> list[TaskHead]:
    """The heads among ``names`` that some of the models lack, or have with other shapes.

    The head of a language model is one of them only where a model of another class lacks it
    (``...ForSequenceClassification``, ``BertModel``): a language model without one shares its
    embedding, see :mod:`mergesafe.outline.heads`.
    """
    parts: dict[str, list[str]] = {}
    for name in names:
        if (part := task_head(name)) is not None:
            parts.setdefault(part, []).append(name)
    found = []
    for part, members in parts.items():
        if _alike(models, members):
            continue
        ours = models[reference].names or {}
        kept = [name for name in members if name in ours]
        first = models[reference]
        others = [
            i for i, model in enumerate(models)
            if _lacks(model, members) or _shaped_otherwise(model, first, kept)
        ]  # fmt: skip
        others = [i for i in others if i != reference]
        holders = [i for i, model in enumerate(models) if _holds_any(model, members)]
        found.append(
            TaskHead(
                part,
                tuple(kept),
                tuple(name for name in members if name not in ours),
                tuple(holders),
                tuple(others),
                "another" if set(others) & set(holders) else "no such",
            )
        )
    return found


def _alike(models: Sequence[Model], members: Sequence[str]) -> bool:
    """Whether the head can be merged, or others decide about it: it is a language model's."""
    if any(_lacks(model, members) for model in models):
        return False
    if any(map(_of_tokens, members)):  # rows are aligned by token
        return True
    return not any(_shaped_otherwise(model, models[0], members) for model in models)


def _holds_any(model: Model, members: Sequence[str]) -> bool:
    return any(name in (model.names or {}) for name in members)


def _lacks(model: Model, members: Sequence[str]) -> bool:
    """Whether the model has no such head, or one of other tensors.

    Language models share theirs with the embedding, or something of it is missing.
    """
    if any(map(_of_tokens, members)):
        return not _holds_any(model, members) and not may_have_head(model.checkpoint.config)
    return any(name not in (model.names or {}) for name in members)


def _of_tokens(name: str) -> bool:
    """Whether the tensor is of a head that has a row for each token."""
    return name in HEADS or name.startswith(("cls.predictions.", "lm_head.", "predictions."))


def _shaped_otherwise(model: Model, other: Model, members: Sequence[str]) -> bool:
    return any(_shape(model, name) != _shape(other, name) for name in members)


def _shape(model: Model, name: str) -> tuple[int, ...] | None:
    own = (model.names or {}).get(name)
    return None if own is None else model.checkpoint.tensors[own].shape
