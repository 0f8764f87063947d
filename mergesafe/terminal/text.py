"""Text of strangers as a terminal may show it."""

from __future__ import annotations

from mergesafe.references import redact_text


def printable(message: str) -> str:
    """One line without secrets: names of tensors and files come from strangers and may hold
    terminal commands.
    """
    return redact_text("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))
