"""What a log says of one question to one model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

#: The families of metrics that a log's scores can be.
FAMILIES: Final = ("safe_rate", "refusal_rate", "over_refusal", "domain")
_OTHER: Final = re.compile(r"[^\w-]+", re.ASCII)


@dataclass(frozen=True)
class Outcome:
    """``score``: from 0 to 1, 1 is what the metric counts; None: the tool could not decide.

    ``family``: of the metric; ``set``: which questions; ``judge``: what scored it.
    """

    model: str
    family: str
    set: str
    question: str
    response: str
    score: float | None
    judge: str


def set_name(text: str) -> str:
    """A name that a requirement can name: letters, digits, ``_`` and ``-``."""
    return _OTHER.sub("-", text).strip("-")[:80] or "unnamed"


def message_text(value: Any) -> str:
    """The text of a message, or of the last message of a conversation, as tools write them.

    A string; ``{"content": ...}`` or ``{"text": ...}``, whose content is text or a list of parts;
    ``{"turns": [...]}``; or a list of messages. What is none of them is no text.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        users = [each for each in value if isinstance(each, dict) and each.get("role") == "user"]
        return message_text((users or value)[-1]) if value else ""
    if isinstance(value, dict):
        for key in ("text", "content", "turns"):
            if value.get(key):
                return message_text(value[key])
    return ""
