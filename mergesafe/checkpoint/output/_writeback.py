"""Start writing to the disk while the merge goes on: the last sync then has little left to do."""

from __future__ import annotations

import ctypes
from threading import Lock
from typing import Any, Final

#: Written bytes after which the system is asked to start.
STEP: Final = 64 << 20
_SYNC_FILE_RANGE_WRITE: Final = 2


def _system_call() -> Any:
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError):  # not Linux: the last sync does all of it
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call


_sync_file_range: Final = _system_call()


class Writeback:
    """Counts what is written to one file. Thread-safe; a hint, so failures are left to fsync."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._pending = 0

    def wrote(self, descriptor: int, nbytes: int) -> None:
        """Every :data:`STEP` bytes, start writing all that the file's cache holds."""
        with self._lock:
            self._pending += nbytes
            if self._pending < STEP:
                return
            self._pending = 0
        if _sync_file_range is not None:
            _sync_file_range(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)
