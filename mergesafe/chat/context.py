"""How long a conversation a model of this process can read."""

from __future__ import annotations

from typing import Any

from mergesafe.chat.declared import settings_of
from mergesafe.chat.hf import HfModel


def context_length(model: HfModel) -> int | None:
    """The tokens of the model's context, by its configuration; None where that does not say.

    No weights are read.
    """
    settings: dict[str, Any] = settings_of(model.place)
    for part in (settings.get("text_config"), settings):
        found = part.get("max_position_embeddings") if isinstance(part, dict) else None
        if isinstance(found, int) and not isinstance(found, bool) and found > 0:
            return found
    return None
