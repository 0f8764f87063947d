"""Small results: a file appears whole or not at all, and replaces what was there."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from mergesafe.errors import OutputError


def write_whole(path: Path, content: str | bytes, advice: str = "") -> None:
    """Write ``content`` durably through a hidden sibling that takes the place of ``path``.

    Text is UTF-8. Half a surrogate pair, which a model's response may hold, becomes its escape.

    Raises:
        OutputError: it cannot be written; ``advice`` is added to the message. What was at ``path``
            is still there.
    """
    data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    sibling = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            with sibling.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(sibling, path)
        except BaseException:
            with suppress(OSError):
                sibling.unlink(missing_ok=True)
            raise
    except OSError as error:
        hint = f". {advice}" if advice else ""
        raise OutputError(f"{path}: cannot be written ({error.strerror}){hint}") from None
