"""Models of a data recipe: what providers have, and models with something around them by file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, TypeAlias

from mergesafe.chat.providers import Model, ModelSpec, make_model, read_model_spec
from mergesafe.errors import MergesafeError
from mergesafe.recipe.model import exists_locally
from mergesafe.recipe.nodes import Node, Reporter, ScalarNode
from mergesafe.references import IN_CONTEXT, SQUAD
from mergesafe.safety.wrapped import WrappedModel, read_wrapped

AnyModel: TypeAlias = Model | WrappedModel
_WRAPPED: Final = "wrapped"


def read_any_model(node: Node, what: str, report: Reporter, folder: Path) -> ModelSpec:
    """The spec in a YAML node, ``squad:FILE`` and ``in-context:FILE`` among them.

    A relative FILE is taken from the current directory if it exists there, else from ``folder``.

    Raises:
        RecipeError: nothing can be made of it.
    """
    text = node.text if isinstance(node, ScalarNode) else ""
    kind = next((each for each in (SQUAD, IN_CONTEXT) if text.startswith(each)), None)
    if kind is None or exists_locally(text, folder):
        return read_model_spec(node, what, report)
    path = os.path.expanduser(text.removeprefix(kind))
    reference = kind + (path if os.path.exists(path) else os.path.join(folder, path))
    try:
        read_wrapped(reference)
    except MergesafeError as error:
        raise report.error(f"{what}: {error}", node.line) from None
    return ModelSpec(_WRAPPED, {"reference": reference, "label": text}, node.line)


def make_any_model(spec: ModelSpec, folder: Path) -> AnyModel:
    """The model of a spec that :func:`read_any_model` read; nothing is loaded or asked yet."""
    if spec.provider != _WRAPPED:
        return make_model(spec, folder)
    found = read_wrapped(**spec.options)
    assert found is not None
    return found


def batch_of(model: AnyModel) -> int:
    """How many conversations it answers at a time: as many as the model within."""
    batch: int = getattr(getattr(model, "inner", model), "batch", 1)
    return batch
