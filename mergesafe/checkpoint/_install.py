"""Put a finished folder in its place in one step, durably."""

from __future__ import annotations

import ctypes
import os
import secrets
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def sibling(target: Path, mark: str) -> Path:
    """A new hidden name beside ``target``; long names are cut to fit the usual 255 bytes."""
    return target.parent / f".{target.name[:50]}.{mark}-{secrets.token_hex(4)}"


def install(working: Path, target: Path, *, replace: bool) -> Path | None:
    """Rename ``working`` to ``target``; with ``replace``, what was there is moved aside first.

    Returns where the old folder is now, or None. A missing or empty ``target`` needs no
    ``replace``. If anything fails, ``target`` is what it was.

    Raises:
        OSError: renaming failed, for instance because ``target`` got content meanwhile.
    """
    if not replace:
        os.rename(working, target)
        return None
    if _exchange(working, target):
        return working
    aside = sibling(target, "mergesafe-old")
    os.rename(target, aside)
    try:
        os.rename(working, target)
    except BaseException:
        if not os.path.lexists(target):  # an interrupt may arrive just after the rename succeeded
            os.rename(aside, target)
        raise
    return aside


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names atomically; False where the system or file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    names = os.fsencode(first), os.fsencode(second)
    return bool(renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable.

    Raises:
        OSError: the folder cannot be opened or synced.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
