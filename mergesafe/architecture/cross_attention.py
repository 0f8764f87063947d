"""Layers of cross-attention among those of a text model: Mllama's, which shift all later ones.

Mllama is a Llama between whose layers others were put that look at pictures. Layer k of the Llama
is the k-th of Mllama's layers that are not among ``cross_attention_layers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mergesafe.architecture.names import is_tower, layer_of
from mergesafe.architecture.tying import text_config

_TYPES: Final = ("mllama", "mllama_text_model")
_LISTED: Final = "cross_attention_layers"
_COUNT: Final = "num_hidden_layers"


def text_layers(config: Mapping[str, Any]) -> list[int] | None:
    """The numbers of the layers that a text model has as well; None without others."""
    level = text_config(config)
    listed, count = level.get(_LISTED), level.get(_COUNT)
    if level.get("model_type") not in _TYPES or not isinstance(listed, list):
        return None
    return [k for k in range(count) if k not in listed] if isinstance(count, int) else None


def is_cross_attention(name: str, config: Mapping[str, Any]) -> bool:
    """Whether the tensor is in a layer of cross-attention of the model."""
    layer, kept = layer_of(name), text_layers(config)
    return layer is not None and kept is not None and not is_tower(name) and layer[1] not in kept


def without_cross_attention(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The text part's settings, its layers counted as in a text model."""
    level, kept = text_config(config), text_layers(config)
    return level if kept is None else {**level, _COUNT: len(kept)}
