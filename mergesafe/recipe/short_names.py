"""Short names of models, for tables."""

from __future__ import annotations

from collections.abc import Iterable


def short_names(texts: Iterable[str]) -> dict[str, str]:
    """The last parts of every model's path, as many as it takes to tell them apart.

    ``/models/llama/base+/adapters/code`` is ``base+code``.
    """
    listed = list(dict.fromkeys(texts))
    for count in range(1, 4):
        found = {text: _end(text, count) for text in listed}
        if len(set(found.values())) == len(listed):
            return found
    return {text: text for text in listed}


def _end(text: str, count: int) -> str:
    if text.startswith("{"):  # a mapping, whose paths hold what separates others
        return text
    return "+".join("/".join(path.rstrip("/").split("/")[-count:]) for path in text.split("+"))
