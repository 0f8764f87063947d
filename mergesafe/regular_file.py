"""Files that are read: regular ones, and where they are read whole, of bounded size.

A pipe would be waited for and a device may never end, and either may bear the name of a result or
lie behind a link. Both are refused by what the opened file is, as its name may be exchanged.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final, cast

_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def open_descriptor(path: Path | str) -> int:
    """Descriptor of the file, for reading; links are followed, and nothing is waited for.

    Raises:
        OSError: it is missing, no regular file, or cannot be opened; with ``strerror``.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except ValueError as error:  # a zero byte in the name
        raise OSError(errno.EINVAL, str(error)) from None
    try:
        refuse_irregular(os.fstat(descriptor).st_mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def refuse_irregular(mode: int) -> None:
    """Raise OSError unless ``mode`` is a regular file's; ``strerror`` says what it is."""
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a device, pipe or socket, not a regular file")


def open_regular(path: Path | str) -> BinaryIO:
    """The file, for reading.

    Raises:
        OSError: as :func:`open_descriptor`.
    """
    return cast(BinaryIO, os.fdopen(open_descriptor(path), "rb"))


def read_regular(path: Path | str, limit: int) -> bytes:
    """The content of the file, at most ``limit`` bytes.

    Raises:
        OSError: as :func:`open_descriptor`; or it is larger, or cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"more than {limit:,} bytes")
    return content
