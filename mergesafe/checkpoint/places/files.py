"""What a file offers that is being read, and a place that can be asked: on disks and networks."""

from __future__ import annotations

from typing import Any, Protocol

from mergesafe.checkpoint.places.seen import FileState


class OpenFile(Protocol):
    """A file that is being read, from any number of threads."""

    #: What to do when reading fails.
    advice: str

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""

    @property
    def local(self) -> bool:
        """Whether small reads are cheap: the system reads ahead and caches."""

    def read(self, begin: int, view: memoryview) -> int:
        """Read bytes from ``begin`` into ``view``; how many, which may be few; 0 at the end.

        Raises:
            OSError: with a ``strerror`` that says why.
        """

    def advise(self, begin: int, count: int) -> None:
        """Hint that these bytes will be read soon."""

    def changed(self) -> bool:
        """Whether the file was written to since it was opened."""

    @property
    def state(self) -> FileState | None:
        """What the file was when it was opened; None where it is not local."""

    def close(self) -> None:
        """Release it; no thread reads any more."""


class Place(Protocol):
    """A location that can be asked."""

    def exists(self) -> bool:
        """Whether something that can be read lies there."""

    def present(self) -> bool:
        """Whether there is such a name, be it a link to a missing file."""

    def is_dir(self) -> bool:
        """Whether it is a folder."""

    def names(self) -> list[str] | None:
        """What the folder holds; None where a place has no listing (HTTP).

        Raises:
            UnreadableError: it cannot be listed.
        """

    def open(self) -> OpenFile:
        """Open the file.

        Raises:
            CheckpointError: it is missing, not a regular file, or cannot be read.
        """

    def fingerprint(self) -> dict[str, Any]:
        """Size and version of the file, as text and numbers; another content has another one.

        A local file has ``size`` and ``mtime_ns``, a remote one ``size`` and what its server
        offers: ``etag``, ``sha256``, ``modified``, ...

        Raises:
            CheckpointError: as :meth:`open`.
        """
