"""Where a checkpoint's files lie, and how they are read: one interface for disks and networks.

A :data:`Location` names a file or folder: a :class:`~pathlib.Path`, or a
:class:`~mergesafe.checkpoint.places.remote.RemotePath`, which has the same ``/``, ``name``,
``parent`` and ``suffix``. :func:`at` gives the :class:`Place` that answers questions about it and
opens it.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias, cast

from mergesafe.checkpoint.places.files import OpenFile, Place
from mergesafe.checkpoint.places.local_file import LocalFile, check_regular
from mergesafe.checkpoint.places.remote import RemotePath
from mergesafe.errors import CheckpointError, UnreadableError
from mergesafe.untrusted import parse_object, reason

Location: TypeAlias = Path | RemotePath
#: What the system says of a name that leads to nothing.
_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)


def at(location: Location) -> Place:
    """The place that ``location`` names."""
    return _LocalPlace(location) if isinstance(location, Path) else location


def in_hub_cache(folder: Location) -> bool:
    """Whether the folder is a model in the cache of the Hub's client, which holds what was asked
    for and not all that the Hub has.
    """
    return isinstance(folder, Path) and folder.parent.name == "snapshots"


def open_regular(location: Location) -> BinaryIO:
    """Open the file for sequential reading; reading raises OSError.

    Raises:
        CheckpointError: it does not exist, cannot be read, or is not a regular file (a named pipe
            would block for ever).
    """
    return stream_of(at(location).open())


def stream_of(file: OpenFile) -> BinaryIO:
    """An open file from its beginning; closing this closes the file, which is done once."""
    return cast(BinaryIO, io.BufferedReader(_Stream(file), 1 << 20))


def read_json_file(location: Location, limit: int) -> dict[str, Any]:
    """The JSON object in the file, which may be at most ``limit`` bytes long.

    Raises:
        CheckpointError: the file is missing, unreadable, too large, or not one JSON object.
    """
    with open_regular(location) as file:
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise UnreadableError(f"{location}: cannot read ({reason(error)}).") from error
    if len(data) > limit:
        raise CheckpointError(
            f"{location}: larger than {limit:,} bytes, which no genuine file of this name is. "
            "Download it again from its publisher."
        )
    try:
        return parse_object(data)
    except ValueError as error:
        raise CheckpointError(
            f"{location}: {error}; expected one JSON object. Download or write the file again."
        ) from None


def same_content(first: Location, second: Location) -> bool:
    """Whether two files hold the same bytes; hashes that a server names spare reading them.

    Raises:
        CheckpointError: one of them cannot be read.
    """
    ours, theirs = at(first).fingerprint(), at(second).fingerprint()
    if ours["size"] != theirs["size"]:
        return False
    for key in ("sha256", "git_sha1"):
        if key in ours and key in theirs:
            return bool(ours[key] == theirs[key])
    with open_regular(first) as one, open_regular(second) as two:
        try:
            while (piece := one.read(1 << 20)) == two.read(1 << 20):
                if not piece:
                    return True
        except OSError as error:
            raise UnreadableError(
                f"{first}: cannot compare it with {second} ({reason(error)})."
            ) from error
    return False


class _Stream(io.RawIOBase):
    """An open file read from its beginning to its end."""

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        got = self._file.read(self._at, memoryview(buffer).cast("B"))
        self._at += got
        return got

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@dataclass(frozen=True, slots=True)
class _LocalPlace:
    """A path of this machine. Unlike Path's, its questions are answered for odd names too."""

    path: Path

    def exists(self) -> bool:
        return self._status() is not None

    def present(self) -> bool:
        return self._status(links=False) is not None

    def is_dir(self) -> bool:
        status = self._status()
        return status is not None and stat.S_ISDIR(status.st_mode)

    def names(self) -> list[str] | None:
        try:
            return os.listdir(self.path)
        except OSError as error:
            raise UnreadableError(
                f"{self.path}: cannot list the folder ({reason(error)}). Check its permissions and "
                "the disk."
            ) from error

    def open(self) -> OpenFile:
        self._regular()
        try:
            return LocalFile(self.path)
        except OSError as error:
            raise self._cannot_open(error) from error

    def fingerprint(self) -> dict[str, Any]:
        status = self._regular()
        return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}

    def _status(self, *, links: bool = True) -> os.stat_result | None:
        """None where there is no such thing; what cannot be looked at may be there."""
        try:
            return os.stat(self.path, follow_symlinks=links)
        except ValueError:  # no name of a file
            return None
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise UnreadableError(
                f"{self.path}: cannot be looked at ({reason(error)}). Check its permissions and "
                "the disk."
            ) from error

    def _regular(self) -> os.stat_result:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            detail = (
                "a symbolic link to a missing file" if self.path.is_symlink() else "no such file"
            )
            raise CheckpointError(
                f"{self.path}: {detail}. Check the path, or download the checkpoint again."
            ) from None
        except OSError as error:
            raise self._cannot_open(error) from error
        check_regular(self.path, status)
        return status

    def _cannot_open(self, error: OSError) -> CheckpointError:
        advice = "Check its permissions and the disk."
        if error.errno in (errno.EMFILE, errno.ENFILE):
            advice = "Raise the limit on open files (ulimit -n)."
        return UnreadableError(f"{self.path}: cannot open the file ({reason(error)}). {advice}")
