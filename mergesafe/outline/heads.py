"""Whether the merged model has an output head of its own, and where each input's comes from.

What is stored decides, not what config.json says of it: transformers uses a head that is stored.
A head is left out only when every input ties it to the embedding and no stored one differs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from mergesafe.architecture.names import layer_of
from mergesafe.architecture.settings import class_of
from mergesafe.architecture.tying import (
    HEADS,
    bias_beside,
    embedding_of,
    head_beside,
    says_tying,
    shared_with,
)
from mergesafe.checkpoint.format.compare import same_bytes
from mergesafe.errors import CheckpointError
from mergesafe.outline.sources import Model

#: Ends of the names of classes that have an output head, and of those that fill gaps in a text.
_GENERATES: Final = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
_FILLS: Final = ("ForMaskedLM", "ForPreTraining")


@dataclass(frozen=True)
class HeadPlan:
    """``models``: those that store no head, with their embedding in its place if it is written.

    ``added``: the head's bias where it is written and no model stores it; ``dropped``: where all
    that store it hold what it is shared with, and no head is written.
    """

    written: bool
    models: tuple[Model, ...]
    notes: tuple[str, ...] = ()
    added: str | None = None
    dropped: tuple[str, ...] = ()


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
    known: dict[object, bool] = {}
    own = [model for model in models if tied and _differs(head, model, known)]
    if tied and not own:
        holders = ", ".join(dict.fromkeys(model.text for model in stored))
        note = f"{head} of {holders} is left out: it equals the input embedding that it is tied to"
        return HeadPlan(False, tuple(models), (note,), dropped=_copied_bias(head, models))
    notes = []
    if tied:
        texts = ", ".join(dict.fromkeys(model.text for model in own))
        notes.append(
            f"{head} of {texts} differs from its input embedding although config.json ties the "
            "two, so the merged model has a head of its own (tie_word_embeddings: false)"
        )
    lending = [model for model in models if model not in stored]
    if stored and lending:
        texts = ", ".join(dict.fromkeys(model.text for model in lending))
        notes.append(
            f"{head}: {texts} shares the input embedding, which is merged as its head; the merged "
            "model has a head of its own (tie_word_embeddings: false)"
        )
    added = None if stored else bias_beside(head, models[0].names or {})
    borrowed = [m if m in stored else lend_head(m, head, added) for m in models]
    return HeadPlan(True, tuple(borrowed), tuple(notes), added)


def lend_head(model: Model, head: str, bias: str | None) -> Model:
    """The model with its embedding as ``head``, and as ``bias`` the tensor that this is shared
    with.

    Raises:
        CheckpointError: it is not known which of its tensors is the embedding.
    """
    if model.embedding() is None:
        raise CheckpointError(
            f"{model.checkpoint.path}: stores no output head '{head}', and which of its tensors is "
            "the embedding that the head shares is not known. Save the model with a head of its "
            "own (tie_word_embeddings: false, and a copy of the embedding as the head)."
        )
    names = dict(model.names or {})
    if bias is not None and (shared := shared_with(bias)) in names:
        names[bias] = names[shared]
    return replace(model, borrowed_head=head, names=names)


def lenders(name: str, members: Sequence[Model], models: Sequence[Model]) -> list[Model]:
    """Of ``models`` those that do not merge the output tensor ``name``, and may lend it rows of
    tokens: tied ones with their embedding as the head.
    """
    own = {model.ref.key for model in members}
    others = [model for model in models if model.ref.key not in own]
    if name not in HEADS:
        return others
    lending = (m.own_name(name) is None and m.checkpoint.tied and m.embedding() for m in others)
    return [
        lend_head(model, name, bias_beside(name, model.names or {})) if lends else model
        for model, lends in zip(others, lending, strict=True)
    ]


def _copied_bias(head: str, models: Sequence[Model]) -> tuple[str, ...]:
    """The bias of ``head`` if it is stored, and holds what it is shared with wherever it is."""
    bias = f"{head.removesuffix('weight')}bias"
    shared = shared_with(bias)
    pairs = [(model, model.own_name(bias), model.own_name(shared)) for model in models if shared]
    if not any(own for _, own, _ in pairs):
        return ()
    tensors = [(m.checkpoint.tensors, own, other) for m, own, other in pairs]
    same = all(other and (own is None or own == other or same_bytes(known[own], known[other]))
               for known, own, other in tensors)  # fmt: skip
    return (bias,) if same else ()


def may_have_head(config: Mapping[str, Any]) -> bool:
    """Whether the model's class has an output head, as far as its configuration tells.

    A model of embeddings (``BertModel``) and a classifier have none.
    """
    kind = class_of(config)
    return not isinstance(kind, str) or kind.endswith((*_GENERATES, *_FILLS))


def headless_warning(names: Collection[str], models: Sequence[Model]) -> str | None:
    """What to say of language models none of which has a head, though one is not tied.

    Their merge is as they are: transformers makes a head of random numbers for each.
    """
    embedding = embedding_of(names)
    for model in models:
        own = model.own_name(embedding) if embedding is not None else None
        kind = class_of(model.checkpoint.config)
        if model.checkpoint.tied is not False or own is None or not isinstance(kind, str):
            continue
        shape = model.checkpoint.tensors[own].shape
        others = [
            name for name, info in model.checkpoint.tensors.items()
            if name != own and info.shape == shape and layer_of(name) is None
        ]  # fmt: skip
        if kind.endswith(_GENERATES) and not others:  # a head may have a name that is not known
            head = head_beside(own, model.checkpoint.tensors, model.checkpoint.config)
            return (
                f"no model stores the output head {head!r}, and by its configuration {model.text} "
                "does not share the input embedding: the merged model has no head either, and "
                "transformers gives it one of random numbers"
            )
    return None


def _stored(head: str, model: Model) -> bool:
    return model.own_name(head) is not None


def _differs(head: str, model: Model, known: dict[object, bool]) -> bool:
    """Whether the model's head is not its embedding: by an adapter, or by its bytes.

    ``known``: answers by checkpoint, of which one is often named several times with adapters.
    """
    tensors = model.checkpoint.tensors
    embedding = embedding_of(tensors)
    own = model.own_name(head)
    config = model.checkpoint.config
    adapted = own or (head_beside(embedding, tensors, config) if embedding else head)
    if model.adapter is not None and adapted in model.adapter.pairs:
        return True
    if own is None:
        return False
    if embedding is None or model.document is not None:  # a document writes no head that is tied
        return True
    place = tensors[own].path, tensors[embedding].path
    if place not in known:
        known[place] = not same_bytes(tensors[own], tensors[embedding])
    return known[place]


def _headless(head: str, model: Model, holder: Model | None) -> CheckpointError:
    other = f"; {holder.text} has one" if holder is not None else ""
    said = "nothing says that it shares the input embedding"
    if model.checkpoint.tied is False:
        said = (
            "config.json says that it does not share the input embedding"
            if says_tying(model.checkpoint.config)
            else "models of its type do not share the input embedding unless config.json says so"
        )
    return CheckpointError(
        f"{model.checkpoint.path}: the output head '{head}' is missing{other}, and {said}. Use "
        "the whole model; or, if it does share it, set tie_word_embeddings to true in its "
        "config.json."
    )
