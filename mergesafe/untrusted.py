"""Untrusted JSON and untrusted values: parse strictly, show briefly.

Everything here reads bytes that a stranger may have written. Sizes are bounded before a byte is
parsed, and whatever goes into an error message is shortened and escaped first.
"""

from __future__ import annotations

import reprlib
from typing import Any, Final

from mergesafe.strict_json import MAX_DEPTH, parse_json

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 120
_short.maxlong = 40
_short.maxlist = _short.maxdict = _short.maxlevel = 4


#: Lists and objects in one file: those of a million tensors. Each takes twenty times its bytes.
_MOST: Final = 4_000_000


def show(value: object) -> str:
    """``repr`` of an untrusted value, at most a line long, whatever its size."""
    return _short.repr(value)


def is_text(value: object) -> bool:
    """Whether ``value`` is a string that can be printed, written as UTF-8 and passed to C."""
    if not isinstance(value, str) or "\0" in value:
        return False
    # JSON can spell half of a surrogate pair ("\ud800"); such a string has no UTF-8 form.
    return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)


def reason(error: OSError) -> str:
    """The operating system's words for ``error``, without the path (messages name it anyway)."""
    return error.strerror or type(error).__name__


def parse_object(
    data: bytes, *, constants: bool = True, depth: int | None = MAX_DEPTH
) -> dict[str, Any]:
    """Parse ``data`` as one JSON object in which no key appears twice, at any depth.

    ``constants``: whether NaN and Infinity, which JSON does not have, are read all the same:
    configurations in the wild hold Infinity (a range of time steps); Python reads and writes it.
    ``depth``: as of :func:`~mergesafe.strict_json.parse_json`.

    Raises:
        ValueError: a short phrase that says what ``data`` is instead ("not UTF-8", ...).
    """
    if data.count(b"{") + data.count(b"[") > _MOST:
        raise ValueError(f"too much: it holds more than {_MOST:,} lists and objects")
    value = parse_json(data, constants=constants, depth=depth, object_pairs_hook=_unique)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}, not an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"ambiguous (the key {show(key)} appears twice)")
            seen.add(key)
    return result
