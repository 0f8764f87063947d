"""The hidden folder beside an output in which it is made: found again after a crash, and locked.

``.NAME.mergesafe-XXXXXXXX`` holds ``model`` (what becomes NAME), ``journal`` (what is finished, for
a later run that resumes) and ``lock``. Its name is a function of NAME, so that a second process
meets the first one's lock and a resumed merge finds its work.
"""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from mergesafe.errors import OutputError
from mergesafe.file_lock import take_lock


class Area:
    """The hidden folder of the output ``target``, between :meth:`open` and :meth:`close`."""

    def __init__(self, target: Path) -> None:
        mark = blake2b(os.fsencode(target.name), digest_size=4).hexdigest()
        # Long names are cut to fit the usual 255 bytes.
        self.path = target.parent / f".{target.name[:50]}.mergesafe-{mark}"
        self.model = self.path / "model"
        self.journal = self.path / "journal"
        self._target = target
        self._lock = -1

    @property
    def held(self) -> bool:
        return self._lock >= 0

    def open(self) -> None:
        """Create the folder where it is missing, and lock it.

        Raises:
            OSError: the folder or the lock cannot be made.
            OutputError: another process holds the lock.
        """
        try:
            self._open()
        except BaseException:
            if not self.held:  # interrupted, or another process's: no empty folder stays behind
                self._abandon()
            raise

    def _open(self) -> None:
        while True:
            self.path.mkdir(exist_ok=True)
            lock = self.path / "lock"
            try:
                descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:
                continue  # whoever held it finished just now and removed the folder
            try:
                self._acquire(descriptor)
                if _same(descriptor, lock):
                    self._lock = descriptor
                    return
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _abandon(self) -> None:
        lock = self.path / "lock"
        with suppress(OSError):
            descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
            try:
                take_lock(descriptor)
                if os.listdir(self.path) == [lock.name]:
                    lock.unlink()
            finally:
                os.close(descriptor)
        with suppress(OSError):
            self.path.rmdir()

    def _acquire(self, descriptor: int) -> None:
        try:
            take_lock(descriptor)
        except BlockingIOError:
            owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            raise OutputError(
                f"{self._target}: another merge into this folder is running"
                f"{f' (process {owner})' if owner.isdigit() else ''}. Wait for it, or give another "
                "folder."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Give the lock back."""
        if self.held:
            descriptor, self._lock = self._lock, -1
            os.close(descriptor)


def _same(descriptor: int, path: Path) -> bool:
    """Whether the locked file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
