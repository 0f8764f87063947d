"""The hidden folder beside an output in which it is made: found again after a crash, and locked.

``.NAME.mergesafe-XXXXXXXX`` holds ``model`` (what becomes NAME), ``journal`` (what is finished, for
a later run that resumes) and ``lock``. Its name is a function of NAME, so that a second process
meets the first one's lock and a resumed merge finds its work.

Where others may write to the folder above, that name may be anything: a link, a folder of somebody
else, one of ours that was moved there. Only a folder of this user that nobody else can write to,
and that holds nothing but those three, is used. Beside anything else, which is left alone, a name
is taken that nobody can foresee: ``.NAME.mergesafe-XXXXXXXX-RANDOM``. Later runs of the same user
find that one by listing the folder and looking at owners; two that begin at the same moment there
do not see each other, and one of them fails when its output is to be put in place.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from typing import Final

from mergesafe import private
from mergesafe.errors import OutputError
from mergesafe.file_lock import take_lock

MODEL: Final = "model"
JOURNAL: Final = "journal"
_LOCK: Final = "lock"
#: What lies in such a folder, and nothing else.
_HELD: Final = {MODEL: stat.S_ISDIR, _LOCK: stat.S_ISREG} | dict.fromkeys(
    (JOURNAL, f"{JOURNAL}.new"), stat.S_ISREG
)
#: What NFS calls an open file whose name was removed, until it is closed.
_LEFT_BY_NFS: Final = re.compile(r"\.nfs[0-9a-f]+")
#: Somebody who takes the folder away as often as this does so on purpose.
_ATTEMPTS: Final = 100


class StagingFolder:
    """The hidden folder of the output ``target``, between :meth:`open` and :meth:`close`."""

    def __init__(self, target: Path) -> None:
        mark = blake2b(os.fsencode(target.name), digest_size=4).hexdigest()
        # Long names are cut to fit the usual 255 bytes.
        self._named = f".{target.name[:50]}.mergesafe-{mark}"
        self._name = self._named
        self._target = target
        self._parent = self._lock = -1
        #: Whether the lock keeps others out: not all file systems have locks.
        self._alone = False
        #: Descriptor of the folder.
        self.folder = -1

    @property
    def held(self) -> bool:
        return self._lock >= 0

    @property
    def alone(self) -> bool:
        """Whether it is held and no other process can hold it, too."""
        return self.held and self._alone

    @property
    def path(self) -> Path:
        return self._target.parent / self._name

    @property
    def journal(self) -> private.Place:
        return private.Place(self.folder, JOURNAL, self.path / JOURNAL)

    def open(self, parent: int) -> None:
        """Find or make the folder in ``parent``, the folder above the output, and lock it.

        Raises:
            OSError: the folder or the lock cannot be made.
            OutputError: another process holds the lock.
        """
        self._parent = parent
        for _ in range(_ATTEMPTS):
            name, folder = self._found_or_made()
            try:
                locked = self._locked(name, folder)
            except BaseException:
                # interrupted, or another process's: no empty folder stays behind
                self._abandon(name, folder)
                private.close(folder)
                raise
            if locked:
                self._name, self.folder = name, folder
                return
            private.close(folder)  # whoever held it finished just now and removed the folder
        raise OutputError(
            f"{self.path}: something removes this folder, in which the output is made, again and "
            "again. Give a folder that others cannot write to."
        )

    def _found_or_made(self) -> tuple[str, int]:
        """The name and the descriptor of the folder to work in."""
        pattern = re.compile(re.escape(self._named) + "-[0-9a-f]{16}")
        for name in sorted(filter(pattern.fullmatch, os.listdir(self._parent))):
            folder = self._own(name)
            if folder is not None:
                return name, folder
        try:
            return self._named, private.make_folder(self._named, self._parent, 0o700)
        except FileExistsError:
            folder = self._own(self._named)
        if folder is not None:
            return self._named, folder
        name = f"{self._named}-{token_hex(8)}"
        return name, private.make_folder(name, self._parent, 0o700)

    def _own(self, name: str) -> int | None:
        """The folder of that name where it is one of ours as above."""
        try:
            folder = private.open_folder(name, self._parent)
        except OSError:
            return None
        if _is_staging(folder, self._parent):
            return folder
        private.close(folder)
        return None

    def _locked(self, name: str, folder: int) -> bool:
        """Lock the folder; False where it is no longer the one of that name."""
        try:
            lock = private.open_own_file(_LOCK, os.O_RDWR | os.O_CREAT, folder)
        except FileNotFoundError:
            return False
        try:
            self._acquire(lock)
            same = private.is_same(lock, _LOCK, folder)
            if same and private.is_same(folder, name, self._parent):
                self._lock, lock = lock, -1
                return True
        finally:
            if lock >= 0:
                private.close(lock)
        return False

    def _abandon(self, name: str, folder: int) -> None:
        with suppress(OSError):
            lock = private.open_own_file(_LOCK, os.O_RDWR, folder)
            try:
                take_lock(lock)
                if os.listdir(folder) == [_LOCK]:
                    os.unlink(_LOCK, dir_fd=folder)
            finally:
                private.close(lock)
        self._remove_empty(name, folder)

    def _remove_empty(self, name: str, folder: int) -> None:
        with suppress(OSError):
            if private.is_same(folder, name, self._parent):
                os.rmdir(name, dir_fd=self._parent)

    def _acquire(self, descriptor: int) -> None:
        try:
            self._alone = take_lock(descriptor)
        except BlockingIOError:
            owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            raise OutputError(
                f"{self._target}: another merge into this folder is running"
                f"{f' (process {owner})' if owner.isdigit() else ''}. Wait for it, or give another "
                "folder."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def has_model(self) -> bool:
        return self.held and MODEL in os.listdir(self.folder)

    def allocated(self) -> int:
        """Bytes on the disk of what an earlier run left, which is continued or removed first."""
        try:
            model = private.open_folder(MODEL, self.folder)
        except OSError:
            return 0
        try:
            with os.scandir(model) as entries:
                return sum(each.stat(follow_symlinks=False).st_blocks * 512 for each in entries)
        finally:
            private.close(model)

    def remove(self) -> None:
        """Remove the folder and give the lock back; a warning says what cannot be removed."""
        if not self.held:
            return
        failed = None
        for name in (MODEL, f"{JOURNAL}.new", JOURNAL, _LOCK):
            try:
                private.remove_tree(name, self.folder)
            except FileNotFoundError:
                continue
            except OSError as error:
                failed = error
        if failed is None and self._holds_leftovers_alone():
            self._close_lock()  # which takes them away
        try:
            if private.is_same(self.folder, self._name, self._parent):
                os.rmdir(self._name, dir_fd=self._parent)
        except OSError as error:
            failed = failed or error
        if failed is not None:
            warnings.warn(
                f"{self.path}: could not be removed ({failed.strerror}); remove it by hand",
                stacklevel=3,
            )
        self.close()

    def _holds_leftovers_alone(self) -> bool:
        with suppress(OSError):
            names = os.listdir(self.folder)
            return bool(names) and all(map(_LEFT_BY_NFS.fullmatch, names))
        return False

    def close(self) -> None:
        """Give the lock back."""
        self._close_lock()
        if self.folder >= 0:
            folder, self.folder = self.folder, -1
            private.close(folder)

    def _close_lock(self) -> None:
        if self.held:
            lock, self._lock = self._lock, -1
            private.close(lock)


def remove_abandoned(target: Path) -> None:
    """Remove the hidden folder of a merge that was killed when its output ``target`` was in place
    already; that of a running one is left alone.
    """
    staging = StagingFolder(target)
    with suppress(OSError, OutputError):
        parent = private.open_folder(target.parent, follow=True)
        try:
            if any(name.startswith(staging.path.name) for name in os.listdir(parent)):
                staging.open(parent)
                if staging.alone:
                    staging.remove()
                else:  # it may be a running one's
                    staging.close()
        finally:
            private.close(parent)


def _is_staging(folder: int, parent: int) -> bool:
    status = os.fstat(folder)
    if not private.is_ours(status, parent):
        return False
    if private.others_may_write(status) and private.keeps_modes(parent):
        return False
    with os.scandir(folder) as entries:
        return all(
            each.name in _HELD and _HELD[each.name](each.stat(follow_symlinks=False).st_mode)
            for each in entries
        )
