"""JSON that somebody else may have written: strict UTF-8, and one kind of error for what is not.

Python's own ``json.loads`` guesses the encoding of bytes (UTF-8, UTF-16, UTF-32), lets encoded
surrogates pass, and raises four kinds of errors. Files of checkpoints, results and data are UTF-8:
what is not is refused here, so that no two readers take one file for different things.

Values are such that whoever uses them need not ask again: every integer can become a float, no
number has become infinite by rounding, and whatever walks the value by recursion comes to an end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Final

#: An integer of so many digits is less than the largest float; no setting has a twentieth of them.
MAX_DIGITS: Final = 308
#: Lists and objects within each other: real ones have ten; Python allows 1,000 calls.
MAX_DEPTH: Final = 100
_TOO_DEEP: Final = "not valid JSON (nested too deeply)"
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
    depth: int | None = MAX_DEPTH,
    object_pairs_hook: Callable[[Pairs], Any] | None = None,
) -> Any:
    r"""The value that ``data``, UTF-8 without a byte order mark, spells.

    A string may hold half of a surrogate pair where the text spells it as an escape (``"\ud800"``):
    models write such things, and who uses the string decides. ``constants``: whether ``NaN`` and
    ``Infinity``, which are not JSON but which Python writes, are numbers.
    ``depth``: how deep lists and objects may lie within each other; None where the caller looks at
    the outermost ones alone, and Python's own limit is enough.

    Raises:
        ValueError: a short phrase that says what ``data`` is instead; or what the hook raises.
    """
    text = decode_utf8(data)
    if text.startswith(_BOM):
        raise ValueError("not valid JSON (a byte order mark at its beginning; save it without one)")
    try:
        value = json.loads(
            text,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=None if constants else _refuse,
            object_pairs_hook=object_pairs_hook,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg} at character {error.pos})") from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if depth is not None:
        check_depth(value, depth)
    return value


def check_depth(value: Any, depth: int = MAX_DEPTH) -> None:
    """Refuse what is nested deeper than ``depth``: one level after the other, without recursion.

    Raises:
        ValueError: it is.
    """
    level: list[Any] = [value]
    for _ in range(depth):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += [item for item in each.values() if isinstance(item, dict | list)]
            elif isinstance(each, list):
                inner += [item for item in each if isinstance(item, dict | list)]
        if not inner:
            return
        level = inner
    raise ValueError(_TOO_DEEP)


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"not valid (a number of {len(digits):,} digits)")
    return int(digits)


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"not valid (the number {text[:40]} is larger than any float)")
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"not valid JSON ({constant} is not JSON)")
