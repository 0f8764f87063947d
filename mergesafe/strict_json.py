"""JSON that somebody else may have written: strict UTF-8, and one kind of error for what is not.

Python's own ``json.loads`` guesses the encoding of bytes (UTF-8, UTF-16, UTF-32), lets encoded
surrogates pass, and raises four kinds of errors. Files of checkpoints, results and data are UTF-8:
what is not is refused here, so that no two readers take one file for different things.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

#: Python's own limit, which a program may have lifted: longer integers take quadratic time.
MAX_DIGITS: Final = 4300
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_BOM: Final = "\ufeff"
Pairs = list[tuple[str, Any]]


def decode_utf8(data: bytes) -> str:
    """The text of ``data``, with a byte order mark where there is one.

    Raises:
        ValueError: a short phrase, "not UTF-8 (bad byte at 7)".
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if data.startswith(_UTF16):
            raise ValueError("not UTF-8 but UTF-16; save it as UTF-8") from None
        raise ValueError(f"not UTF-8 (bad byte at {error.start})") from None


def parse_json(
    data: bytes,
    *,
    constants: bool = False,
    object_pairs_hook: Callable[[Pairs], Any] | None = None,
) -> Any:
    r"""The value that ``data``, UTF-8 without a byte order mark, spells.

    A string may hold half of a surrogate pair where the text spells it as an escape (``"\ud800"``):
    models write such things, and who uses the string decides. ``constants``: whether ``NaN`` and
    ``Infinity``, which are not JSON but which Python writes, are numbers.

    Raises:
        ValueError: a short phrase that says what ``data`` is instead; or what the hook raises.
    """
    text = decode_utf8(data)
    if text.startswith(_BOM):
        raise ValueError("not valid JSON (a byte order mark at its beginning; save it without one)")
    try:
        return json.loads(
            text,
            parse_int=_integer,
            parse_constant=None if constants else _refuse,
            object_pairs_hook=object_pairs_hook,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg} at character {error.pos})") from None
    except RecursionError:
        raise ValueError("not valid JSON (nested too deeply)") from None


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"not valid (a number of {len(digits):,} digits)")
    return int(digits)


def _refuse(constant: str) -> Any:
    raise ValueError(f"not valid JSON ({constant} is not JSON)")
