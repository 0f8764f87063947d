"""Small results: a file appears whole or not at all, and replaces what was there."""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from mergesafe.errors import OutputError
from mergesafe.file_lock import take_lock
from mergesafe.private import (
    NotPrivateError,
    create_file,
    folder_of,
    is_same,
    open_own_file,
    random_name,
)

_MARK: Final = "mergesafe-new"
_DIGITS: Final = "0123456789abcdef"
#: File systems on which a folder cannot be synced.
_NO_SYNC: Final = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)


def write_whole(path: Path, content: str | bytes, advice: str = "") -> None:
    """Write ``content`` durably through a hidden sibling that takes the place of ``path``.

    Text is UTF-8. Half a surrogate pair, which a model's response may hold, becomes its escape. A
    process that is killed leaves the sibling, which the next one that writes ``path`` removes.

    Raises:
        OutputError: it cannot be written; ``advice`` is added to the message. What was at ``path``
            is still there.
    """
    data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    try:
        with folder_of(path) as folder:
            _remove_abandoned(path.name, folder)
            _write(path.name, data, folder)
    except OSError as error:
        hint = f". {advice}" if advice else ""
        raise OutputError(f"{path}: cannot be written ({error.strerror}){hint}") from None


def _write(name: str, data: bytes, folder: int) -> None:
    sibling, descriptor = _begin(name, folder)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
        os.replace(sibling, name, src_dir_fd=folder, dst_dir_fd=folder)
        if not is_same(descriptor, name, folder):
            raise NotPrivateError("something else took its place while it was written")
    except BaseException:
        with suppress(OSError):
            os.unlink(sibling, dir_fd=folder)
        raise
    finally:
        with suppress(OSError):  # its bytes are on the disk, or an error is on its way
            os.close(descriptor)
    sync_folder(folder)


def sync_folder(folder: int) -> None:
    """Make the names in an open folder durable, where its file system can.

    Raises:
        OSError: it fails.
    """
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _begin(name: str, folder: int) -> tuple[str, int]:
    """A new sibling and its descriptor, locked for as long as it is open."""
    while True:
        sibling = random_name(name, _MARK)
        descriptor = create_file(sibling, folder)
        try:
            take_lock(descriptor)
            if is_same(descriptor, sibling, folder):
                return sibling, descriptor
        except BlockingIOError:
            pass  # whoever tidies up has it, and removes it
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):
                os.unlink(sibling, dir_fd=folder)
            raise
        os.close(descriptor)


def _remove_abandoned(name: str, folder: int) -> None:
    """Remove siblings of processes that were killed: nobody has them locked."""
    start = random_name(name, _MARK).rstrip(_DIGITS)
    ours = re.compile(rf"{re.escape(start)}[{_DIGITS}]{{16}}")
    with suppress(OSError):  # of a folder that may not be listed
        for each in filter(ours.fullmatch, os.listdir(folder)):
            with suppress(OSError):  # another process's, or another user's
                descriptor = open_own_file(each, os.O_RDWR, folder)
                try:
                    if take_lock(descriptor):  # without locks it may be of one that runs
                        os.unlink(each, dir_fd=folder)
                finally:
                    os.close(descriptor)
