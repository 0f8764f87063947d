"""Untrusted JSON and untrusted values: parse strictly, show briefly.

Everything here reads bytes that a stranger may have written. Sizes are bounded before a byte is
parsed, and whatever goes into an error message is shortened and escaped first.
"""

from __future__ import annotations

import json
import reprlib
import stat
from pathlib import Path
from typing import Any, BinaryIO

from mergesafe.errors import CheckpointError

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 120
_short.maxlong = 40
_short.maxlist = _short.maxdict = _short.maxlevel = 4


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


def open_regular(path: Path) -> BinaryIO:
    """Open ``path`` for reading.

    Raises:
        CheckpointError: it does not exist, cannot be read, or is not a regular file (a named pipe
            would block for ever).
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
            raise CheckpointError(f"{path}: this is {kind}, expected a regular file.")
        return path.open("rb")
    except FileNotFoundError:
        detail = "a symbolic link to a missing file" if path.is_symlink() else "no such file"
        raise CheckpointError(
            f"{path}: {detail}. Check the path, or download the checkpoint again."
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot open the file ({reason(error)}). Check its permissions and the disk."
        ) from error


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse ``data`` as one JSON object in which no key appears twice, at any depth.

    Raises:
        ValueError: a short phrase that says what ``data`` is instead ("not UTF-8", ...).
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (bad byte at {error.start})") from None
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg} at character {error.pos})") from None
    except RecursionError:
        raise ValueError("not valid (nested too deeply)") from None
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}, not an object")
    return value


def read_json_file(path: Path, limit: int) -> dict[str, Any]:
    """The JSON object in the file ``path``, which may be at most ``limit`` bytes long.

    Raises:
        CheckpointError: the file is missing, unreadable, too large, or not one JSON object.
    """
    with open_regular(path) as file:
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot read ({reason(error)}).") from error
    if len(data) > limit:
        raise CheckpointError(
            f"{path}: larger than {limit:,} bytes, which no genuine file of this name is. "
            "Download it again from its publisher."
        )
    try:
        return parse_object(data)
    except ValueError as error:
        raise CheckpointError(
            f"{path}: {error}; expected one JSON object. Download or write the file again."
        ) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"ambiguous (the key {show(key)} appears twice)")
            seen.add(key)
    return result
