"""Whether the merged model has an output head of its own, and where each input's comes from.

What is stored decides, not what config.json says of it: transformers uses a head that is stored.
A head is left out only when every input ties it to the embedding and no stored one differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mergesafe.architecture.tying import embedding_of, head_beside
from mergesafe.checkpoint.compare import same_bytes
from mergesafe.engine.sources import Model
from mergesafe.errors import CheckpointError


@dataclass(frozen=True)
class HeadPlan:
    """``models``: those that store no head, with their embedding in its place if it is written."""

    written: bool
    models: tuple[Model, ...]
    notes: tuple[str, ...] = ()


def plan_head(head: str, models: Sequence[Model]) -> HeadPlan:
    """Decide about the output tensor ``head``, which at least one input stores or adapts.

    Raises:
        CheckpointError: an input has no head, and nothing says that it shares its embedding.
    """
    stored = [model for model in models if _stored(head, model)]
    for model in models:
        if model not in stored and model.checkpoint.tied is not True:
            raise _headless(head, model, stored[0] if stored else None)
    tied = all(model.checkpoint.tied for model in models)
    # Comparing reads the tensors, so only where it decides something.
    own = [model for model in models if tied and _differs(head, model)]
    if tied and not own:
        holders = ", ".join(dict.fromkeys(model.text for model in stored))
        note = f"{head} of {holders} is left out: it equals the input embedding that it is tied to"
        return HeadPlan(False, tuple(models), (note,))
    notes = []
    if tied:
        texts = ", ".join(dict.fromkeys(model.text for model in own))
        notes.append(
            f"{head} of {texts} differs from its input embedding although config.json ties the "
            "two, so the merged model has a head of its own (tie_word_embeddings: false)"
        )
    borrowed = [m if m in stored else replace(m, borrowed_head=head) for m in models]
    return HeadPlan(True, tuple(borrowed), tuple(notes))


def _stored(head: str, model: Model) -> bool:
    return model.own_name(head) is not None


def _differs(head: str, model: Model) -> bool:
    """Whether the model's head is not its embedding: by an adapter, or by its bytes."""
    tensors = model.checkpoint.tensors
    embedding = embedding_of(tensors)
    own = model.own_name(head)
    adapted = own or (head_beside(embedding) if embedding else head)
    if model.adapter is not None and adapted in model.adapter.pairs:
        return True
    if own is None:
        return False
    return embedding is None or not same_bytes(tensors[own], tensors[embedding])


def _headless(head: str, model: Model, holder: Model | None) -> CheckpointError:
    other = f"; {holder.text} has one" if holder is not None else ""
    said = (
        "config.json says that it does not share the input embedding"
        if model.checkpoint.tied is False
        else "nothing says that it shares the input embedding"
    )
    return CheckpointError(
        f"{model.checkpoint.path}: the output head '{head}' is missing{other}, and {said}. Use "
        "the whole model; or, if it does share it, set tie_word_embeddings to true in its "
        "config.json."
    )
