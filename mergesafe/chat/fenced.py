"""An answer that is one fenced block of code."""

from __future__ import annotations

_FENCE = "```"


def unfenced(answer: str) -> str:
    """What stands in the code fence, marked ``json`` or not, that is all of ``answer``, else all of
    it; in linear time, which a regular expression with white space on both sides does not take.
    """
    text = answer.strip()
    if len(text) < 2 * len(_FENCE) or not (text.startswith(_FENCE) and text.endswith(_FENCE)):
        return text
    return text[len(_FENCE) : -len(_FENCE)].removeprefix("json").strip()
