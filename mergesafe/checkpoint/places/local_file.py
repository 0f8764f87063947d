"""Files on disks of this machine, which any number of threads read at explicit offsets."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mergesafe.checkpoint.places.seen import Change, FileState
from mergesafe.errors import CheckpointError
from mergesafe.private import close
from mergesafe.regular_file import open_descriptor


class LocalFile:
    """An open file of this machine, and what it was when it was opened."""

    advice = "Check the disk, and leave the checkpoint alone while it is read."
    local = True

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            OSError: it is missing, no regular file, or cannot be opened.
        """
        self._descriptor = open_descriptor(path)
        self._state = FileState.of(os.fstat(self._descriptor))

    @property
    def size(self) -> int:
        return self._state.size

    @property
    def state(self) -> FileState | None:
        return self._state

    def read(self, begin: int, view: memoryview) -> int:
        # One call reads at most 2 GiB, and may be cut short by a signal.
        return os.preadv(self._descriptor, [view], begin)

    def advise(self, begin: int, count: int) -> None:
        if not hasattr(os, "posix_fadvise") or not count:  # 0 bytes would mean "to the end"
            return
        try:
            os.posix_fadvise(self._descriptor, begin, count, os.POSIX_FADV_WILLNEED)
        except OSError:
            return  # a hint: file systems without read-ahead refuse it, and reading still works

    def changed(self) -> bool:
        return self._state.until(FileState.of(os.fstat(self._descriptor))) is Change.CONTENT

    def close(self) -> None:
        close(self._descriptor)


def check_regular(path: Path, status: os.stat_result) -> None:
    """Refuse what is no regular file.

    Raises:
        CheckpointError: it is none.
    """
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, pipe or socket"
        raise CheckpointError(f"{path}: this is {kind}, expected a regular file.")
