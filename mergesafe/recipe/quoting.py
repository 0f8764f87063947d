"""Text as a YAML scalar that every version of YAML reads back as that text."""

from __future__ import annotations

import json
import re

from mergesafe.recipe.nodes import BOOLEANS, NOT_FINITE, NULLS, NUMBER

#: Text that no YAML version takes for anything but text, so that it needs no quotes.
BARE = re.compile(r"[A-Za-z_./][A-Za-z0-9_./+-]*", re.ASCII)


def quoted(text: str) -> str:
    """``text``, in quotes where it needs some."""
    special = text in NULLS or text.lower() in BOOLEANS
    special = special or any(form.fullmatch(text) for form in (NUMBER, NOT_FINITE))
    return text if BARE.fullmatch(text) and not special else json.dumps(text, ensure_ascii=False)
