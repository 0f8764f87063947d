"""Files and folders in places that others may write to: made and opened so that nobody else's are
taken for ours.

In such a folder a name can be taken beforehand, by a link to somebody's file, by a pipe, or by a
folder of somebody else, and be exchanged at any time. So a name is looked at once, by opening it
without following links; everything else is asked of the descriptor, and names below a folder are
used relative to the folder's descriptor, which no renaming changes. What can only be made anew
(``O_EXCL``) or bears a random name is nobody's trap.

Names *above* a folder are followed as they are: whoever gives a path trusts the folders in it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: For the permission bits of those who are not the owner and may write.
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
#: A pipe must not be waited for, a terminal not become ours, a link not be followed.
_PLAIN: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: Bytes of a name that most file systems allow, less the mark that is added.
_NAME_BYTES: Final = 255
_DEEPEST: Final = 1000


@dataclass(frozen=True)
class Place:
    """A name in an open folder, or a path (None); ``path`` is for messages."""

    folder: int | None
    name: str
    path: Path


class NotPrivateError(OSError):
    """What bears a name is not a file or folder of this user's; ``strerror`` says what it is."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EPERM, what)


def refuse_planted(path: Path) -> None:
    """Refuse a link that somebody else put into a folder that others may write to, as Linux does
    where ``fs.protected_symlinks`` is set: it leads where they like, and what is there would be
    replaced.

    Raises:
        NotPrivateError: it is one.
    """
    try:
        found, above = path.lstat(), path.parent.stat()
    except OSError:
        return  # whoever uses the path says what is wrong with it
    trusted = (os.geteuid(), above.st_uid, 0)
    if stat.S_ISLNK(found.st_mode) and others_may_write(above) and found.st_uid not in trusted:
        raise NotPrivateError(f"a link that user {found.st_uid} put there")


def open_folder(name: str | Path, parent: int | None = None, *, follow: bool = False) -> int:
    """Descriptor of a folder; ``name`` lies in the folder ``parent`` or is a path.

    Raises:
        OSError: it is missing, no folder, or a link where none is to be followed.
    """
    flags = _FOLDER if follow else _FOLDER | os.O_NOFOLLOW
    return os.open(name, flags, dir_fd=parent)


def make_folder(name: str, parent: int, mode: int = 0o777) -> int:
    """Descriptor of a new folder ``name`` in the folder ``parent``; the umask narrows ``mode``.

    Raises:
        OSError: the name is taken, or it cannot be made; another one than ours took its place.
    """
    os.mkdir(name, mode, dir_fd=parent)
    descriptor = open_folder(name, parent)
    try:
        if not is_ours(os.fstat(descriptor), parent):
            raise NotPrivateError(f"the new folder was replaced by one of {owner_of(descriptor)}")
    except BaseException:
        close(descriptor)
        raise
    return descriptor


def create_file(name: str | Path, parent: int | None = None, mode: int = 0o666) -> int:
    """Descriptor of a new file, for reading and writing; the umask narrows ``mode``.

    Raises:
        OSError: the name is taken, be it by a link, or the file cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _PLAIN
    return os.open(name, flags, mode, dir_fd=parent)


def open_file(name: str | Path, parent: int | None = None, flags: int = os.O_RDONLY) -> int:
    """Descriptor of an existing regular file, whoever owns it; never waits.

    Raises:
        NotPrivateError: it is a folder, pipe, device or socket.
        OSError: it is missing, a link, or cannot be opened.
    """
    return _regular(os.open(name, flags | _PLAIN, dir_fd=parent))


def open_own_file(name: str | Path, flags: int, parent: int | None = None) -> int:
    """Descriptor of a regular file of this user's that has no other name; made, for this user
    alone, where it is missing and ``flags`` has ``O_CREAT``.

    Raises:
        NotPrivateError: it is anything else, or somebody else's.
        OSError: it is a link, or cannot be opened.
    """
    descriptor = _regular(os.open(name, flags | _PLAIN, 0o600, dir_fd=parent))
    try:
        status = os.fstat(descriptor)
        if not _is_ours_in(status, Path(name), parent):
            raise NotPrivateError(f"the file belongs to {owner_of(descriptor)}")
        if status.st_nlink > 1:  # of somebody's file, which would be written to
            raise NotPrivateError("the file has another name as well (a hard link)")
    except BaseException:
        close(descriptor)
        raise
    return descriptor


def _regular(descriptor: int) -> int:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        close(descriptor)
        raise NotPrivateError("not a regular file")
    return descriptor


def close(descriptor: int) -> None:
    """Close it. What a file system has to complain of then (a full disk, a lost server) does not
    matter: what must last was synced, and the rest is about to be removed.
    """
    try:
        os.close(descriptor)
    except OSError as error:
        if error.errno == errno.EBADF:  # a mistake of ours
            raise


def is_ours(status: os.stat_result, parent: int | None = None) -> bool:
    """Whether something belongs to this user. ``parent``: a folder of its file system, where this
    user may go by another number (root on NFS, some mounts); asked by making a file.
    """
    if _is_own(status) or parent is None:
        return _is_own(status)
    made = _made_in(parent)
    return made is not None and status.st_uid == made.st_uid


def _is_ours_in(status: os.stat_result, path: Path, parent: int | None) -> bool:
    """The same of what lies in the folder ``parent``, or at a path."""
    if _is_own(status) or parent is not None:
        return is_ours(status, parent)
    with folder_of(path) as folder:
        return is_ours(status, folder)


def _is_own(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid()


def keeps_modes(folder: int) -> bool:
    """Whether the file system of an open folder has modes, and does not show the same for all."""
    made = _made_in(folder)
    return made is None or not others_may_write(made)


def _made_in(folder: int) -> os.stat_result | None:
    """The status of a file that this user makes in ``folder``; None where none can be made."""
    name = random_name("", "mergesafe-probe")
    with suppress(OSError):
        descriptor = create_file(name, folder, 0o600)
        try:
            return os.fstat(descriptor)
        finally:
            close(descriptor)
            os.unlink(name, dir_fd=folder)
    return None


def others_may_write(status: os.stat_result) -> bool:
    return bool(status.st_mode & _OTHERS_WRITE)


def owner_of(descriptor: int) -> str:
    """Who owns an open file or folder, for messages."""
    number = os.fstat(descriptor).st_uid
    try:
        import pwd

        return f"{pwd.getpwuid(number).pw_name} (user {number})"
    except (ImportError, KeyError):
        return f"user {number}"


def random_name(stem: str, mark: str) -> str:
    """A hidden name that nobody can foresee, cut to what file systems allow."""
    ending = f".{mark}-{os.urandom(8).hex()}"
    room = _NAME_BYTES - len(ending) - 1
    return f".{os.fsdecode(os.fsencode(stem)[:room])}{ending}"


def is_same(descriptor: int, name: str, parent: int | None = None) -> bool:
    """Whether what is open still bears the name, and no link does."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(os.fstat(descriptor), found)


def make_folders(path: Path) -> tuple[int, list[Path]]:
    """Descriptor of the folder ``path``, and those that were made since they were missing.

    Raises:
        OSError: one cannot be made or opened, or a link took the place of one that was made.
    """
    missing: list[str] = []
    while path.name and not os.path.lexists(path):
        missing.append(path.name)
        path = path.parent
    folder, made = open_folder(path, follow=True), []
    try:
        for name in reversed(missing):
            path = path / name
            try:
                below = make_folder(name, folder)
                made.append(path)
            except FileExistsError:  # by another process, just now
                below = open_folder(name, folder)
            close(folder)
            folder = below
    except BaseException:
        close(folder)
        for each in reversed(made):
            with suppress(OSError):
                each.rmdir()
        raise
    return folder, made


@contextmanager
def folder_of(path: Path) -> Iterator[int]:
    """The folder that ``path`` lies in, open for the time of the block.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        descriptor = open_folder(path.parent, follow=True)
    except PermissionError:
        if not hasattr(os, "O_PATH"):
            raise
        # A folder that may be written to and not listed: this can be used for names in it alone.
        descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        close(descriptor)


def remove_tree(name: str, parent: int | None, descriptor: int | None = None) -> None:
    """Remove the folder, file or link ``name`` in the folder ``parent`` and all that is in it.

    No link is followed and no other file system entered. ``descriptor``: what must bear the name.

    Raises:
        OSError: something cannot be removed, or another thing bears the name; what could be removed
            is.
    """
    if descriptor is not None and not is_same(descriptor, name, parent):
        raise NotPrivateError("another file or folder has taken its place")
    device = os.stat(name, dir_fd=parent, follow_symlinks=False).st_dev
    _remove(name, parent, device, _DEEPEST)


def _remove(name: str, parent: int | None, device: int, depth: int) -> None:
    try:
        descriptor = open_folder(name, parent)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.EMLINK):
            raise
        os.unlink(name, dir_fd=parent)  # of a link: the link
        return
    failed = None
    try:
        if os.fstat(descriptor).st_dev != device:
            raise OSError(errno.EXDEV, "another file system is mounted there")
        if not depth:
            raise OSError(errno.ELOOP, "folders are nested too deeply")
        for each in os.listdir(descriptor):
            try:
                _remove(each, descriptor, device, depth - 1)
            except FileNotFoundError:
                continue
            except OSError as error:
                failed = error
    finally:
        close(descriptor)
    if failed is not None:
        raise failed
    os.rmdir(name, dir_fd=parent)
