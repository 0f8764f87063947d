"""How a recipe names a model: a local path, a URL, or a model on the Hugging Face Hub.

URLs may carry secrets (``https://user:password@host/x?signature=...``), and messages, model cards
and manifests are shown to others: whatever is shown goes through :func:`redact` first.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: What fsspec, too, takes for a place on this machine.
_LOCAL: Final = re.compile(r"(?:file|local):(?://(?:localhost(?=/))?|(?=/))", re.IGNORECASE)
#: A URL in running text; a query that is hidden already is left as it is, with what follows it.
_IN_TEXT: Final = re.compile(_URL.pattern + r"[^\s'\"?]+(?:\?(?!\*\*\*)[^\s'\"]*)?")
_HUB_ID: Final = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w.][\w./-]*))?", re.ASCII
)
HIDDEN: Final = "***"


def is_url(reference: str) -> bool:
    """Whether ``reference`` is ``scheme://...`` and leads elsewhere, unlike ``file://``."""
    return _URL.match(reference) is not None and _LOCAL.match(reference) is None


def local_path(reference: str) -> str:
    """The path in ``file:///x``, ``file:/x`` or ``local:///x``; other text unchanged."""
    match = _LOCAL.match(reference)
    return unquote(reference[match.end() :]) if match else reference


def hub_id(reference: str) -> tuple[str, str | None] | None:
    """``(org/name, revision)`` of ``[hf://]org/name[@revision]``; None for anything else."""
    match = _HUB_ID.fullmatch(reference.removeprefix("hf://"))
    return (match["repo"], match["revision"]) if match else None


def redact(reference: str) -> str:
    """``reference`` with a URL's password and query replaced by ``***``; other text unchanged."""
    if not is_url(reference):
        return reference
    place, mark, _ = reference.partition("?")
    scheme, _, rest = place.partition("://")
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    if at and ":" in user:
        user = f"{user.partition(':')[0]}:{HIDDEN}"
    return f"{scheme}://{user}{at}{host}{slash}{path}{mark}{HIDDEN if mark else ''}"


def redact_text(text: str) -> str:
    """``text`` with every URL in it redacted."""
    return _IN_TEXT.sub(lambda match: redact(match[0]), text)
