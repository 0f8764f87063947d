"""Files and folders below an open folder, by names such as ``a/b.json``; no link is followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress

from mergesafe import private


def folder_in(folder: int, name: str) -> int:
    """Descriptor of the folder ``name``, which is made where it is missing."""
    with suppress(FileExistsError):
        return private.make_folder(name, folder)
    return private.open_folder(name, folder)


def size_in(folder: int, name: str) -> int | None:
    """The size of a file in or below an open folder; None where a link or another thing is."""
    first, _, rest = name.partition("/")
    if rest:
        below = private.open_folder(first, folder)
        try:
            return size_in(below, rest)
        finally:
            private.close(below)
    found = os.stat(first, dir_fd=folder, follow_symlinks=False)
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def sync_folders(folder: int, names: Iterable[str]) -> None:
    """Make the names in an open folder and those below it durable, the deepest first."""
    inner = [each.partition("/") for each in names if "/" in each]
    for first in sorted({each[0] for each in inner}):
        below = private.open_folder(first, folder)
        try:
            sync_folders(below, [rest for name, _, rest in inner if name == first])
        finally:
            private.close(below)
    os.fsync(folder)
