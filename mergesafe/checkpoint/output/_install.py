"""Put a finished folder in its place in one step, durably."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from dataclasses import dataclass

from mergesafe import private

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@dataclass(frozen=True)
class Installation:
    """A folder in its place. ``aside``: what the folder that was there is called now, and in which
    open folder, or None.
    """

    working: private.Place
    target: private.Place
    aside: private.Place | None

    def undo(self) -> None:
        """Put everything back to where it was.

        Raises:
            OSError: it cannot be; what is at ``target`` then is complete.
        """
        if self.aside is None:
            _rename(self.target, self.working)
        elif self.aside == self.working:
            if not _exchange(self.working, self.target):
                raise OSError("the folders could not be exchanged")
        else:
            _rename(self.target, self.working)
            _rename(self.aside, self.target)


def install(working: private.Place, target: private.Place, *, replace: bool) -> Installation:
    """Rename ``working`` to ``target``; with ``replace``, what was there is moved aside first.

    A missing or empty ``target`` needs no ``replace``. If anything fails, ``target`` is what it
    was.

    Raises:
        OSError: renaming failed, for instance because ``target`` got content meanwhile.
    """
    if not replace:
        _rename(working, target)
        return Installation(working, target, None)
    if _exchange(working, target):
        return Installation(working, target, working)
    name = private.random_name(target.name, "mergesafe-old")
    aside = private.Place(target.folder, name, target.path.with_name(name))
    _rename(target, aside)
    try:
        _rename(working, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.stat(target.name, dir_fd=target.folder, follow_symlinks=False)
            raise  # an interrupt may arrive just after the rename succeeded
        _rename(aside, target)
        raise
    return Installation(working, target, aside)


def _rename(source: private.Place, target: private.Place) -> None:
    os.rename(source.name, target.name, src_dir_fd=source.folder, dst_dir_fd=target.folder)


def _exchange(first: private.Place, second: private.Place) -> bool:
    """Swap two names atomically; False where the system or file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    one, two = os.fsencode(first.name), os.fsencode(second.name)
    here, there = (_AT_FDCWD if p.folder is None else p.folder for p in (first, second))
    return bool(renameat2(here, one, there, two, _RENAME_EXCHANGE) == 0)
