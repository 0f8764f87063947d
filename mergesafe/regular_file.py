"""Files that are read whole: regular ones, of bounded size.

A pipe would be waited for and a device may never end, and either may bear the name of a result or
lie behind a link. Both are refused by what the opened file is, as its name may be exchanged.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, cast


class UnreadableError(OSError):
    """What bears the name is no file to read; ``strerror`` says what it is."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(number, what)


def open_regular(path: Path | str) -> BinaryIO:
    """The file, for reading; links are followed.

    Raises:
        OSError: it is missing, no regular file, or cannot be opened; with ``strerror``.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError as error:  # a zero byte in the name
        raise UnreadableError(errno.EINVAL, str(error)) from None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise UnreadableError(errno.EINVAL, "a device, pipe or socket, not a regular file")
        return cast(BinaryIO, os.fdopen(descriptor, "rb"))
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path | str, limit: int) -> bytes:
    """The content of the file, at most ``limit`` bytes.

    Raises:
        OSError: as :func:`open_regular`; or it is larger, or cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UnreadableError(errno.EFBIG, f"more than {limit:,} bytes")
    return content
