"""Files behind a URL or on the Hugging Face Hub: what they are called and how they are fetched.

A :class:`RemotePath` is a name below the root of a :class:`RemoteStore`. The stores are
:class:`~mergesafe.checkpoint.places.file_system.FileSystemStore` (anything that fsspec reaches),
:class:`~mergesafe.checkpoint.places.http.HttpStore` and
:class:`~mergesafe.checkpoint.places.hub.HubStore`.
"""

from __future__ import annotations

import errno
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from mergesafe.checkpoint.places.files import OpenFile

#: Seconds to wait before trying again what may be a passing failure; one more try than entries.
DELAYS: tuple[float, ...] = (0.25, 1.0, 4.0)
#: Bytes a second that a server must send, over each :data:`WINDOW` of seconds: one that sends a
#: byte now and then would hold a merge for ever.
LEAST_SPEED: int = 10_240
WINDOW: float = 10.0
#: Seconds that a request may take besides, where nothing says how fast bytes come.
PATIENCE: float = 60.0
ADVICE: Final = "Check the connection and the server, and run again."
Result = TypeVar("Result")


class RemoteStore(Protocol):
    """A model's folder elsewhere. Names are relative to it; ``""`` is the folder itself."""

    @property
    def text(self) -> str:
        """What the folder is called in messages; no secrets."""

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of that name."""

    def is_dir(self, name: str) -> bool:
        """Whether it is a folder."""

    def names(self, name: str) -> list[str] | None:
        """What the folder holds; None where the store has no listing."""

    def open(self, name: str) -> OpenFile:
        """Open the file; raises CheckpointError."""

    def fingerprint(self, name: str) -> dict[str, Any]:
        """Size and version of the file; raises CheckpointError."""


@dataclass(frozen=True)
class RemotePath:
    """The file or folder ``inner`` of ``store``; ``str`` of it is fit to be shown."""

    store: RemoteStore
    inner: str = ""

    def __str__(self) -> str:
        return f"{self.store.text}/{self.inner}" if self.inner else self.store.text

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self.store, f"{self.inner}/{name}" if self.inner else name)

    def __hash__(self) -> int:
        return hash(self.inner)  # of a string it is computed once

    @property
    def name(self) -> str:
        return PurePosixPath(str(self)).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.inner).suffix

    @property
    def parent(self) -> RemotePath:
        folder, _, _ = self.inner.rpartition("/")
        return RemotePath(self.store, folder)

    def with_suffix(self, suffix: str) -> RemotePath:
        return RemotePath(self.store, str(PurePosixPath(self.inner).with_suffix(suffix)))

    def exists(self) -> bool:
        return self.store.exists(self.inner)

    def present(self) -> bool:
        return self.store.exists(self.inner)

    def is_dir(self) -> bool:
        return self.store.is_dir(self.inner)

    def names(self) -> list[str] | None:
        return self.store.names(self.inner)

    def open(self) -> OpenFile:
        return self.store.open(self.inner)

    def fingerprint(self) -> dict[str, Any]:
        return self.store.fingerprint(self.inner)


class PassingError(Exception):
    """A failure that may pass: worth another try. The message says what happened."""


class RemoteError(OSError):
    """A remote file cannot be read; ``strerror`` says why, without secrets."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.EIO, why)


def retried(attempt: Callable[[], Result]) -> Result:
    """The result of ``attempt``, which is repeated after a :class:`PassingError`.

    (Ten lines, so that remote files need no tenacity.)

    Raises:
        RemoteError: it failed to the end.
    """
    for delay in DELAYS:
        try:
            return attempt()
        except PassingError:
            time.sleep(delay * random.uniform(0.75, 1.25))
    try:
        return attempt()
    except PassingError as error:
        raise RemoteError(f"{error}; gave up after {len(DELAYS) + 1} tries") from None


def within(action: Callable[[], Result], size: int = 0) -> Result:
    """The result of ``action``, which fetches ``size`` bytes by a library that sets no least speed.

    It gets :data:`PATIENCE` seconds and what the bytes take at :data:`LEAST_SPEED`; then it is left
    to itself, in a thread that keeps no process alive.

    Raises:
        PassingError: it took longer.
    """
    seconds = PATIENCE + max(size, 0) / LEAST_SPEED
    done: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def work() -> None:
        try:
            done.put((True, action()))
        except BaseException as error:
            done.put((False, error))

    threading.Thread(target=work, daemon=True, name="fetch").start()
    try:
        fine, found = done.get(timeout=seconds)
    except queue.Empty:
        raise PassingError(
            f"not done within {seconds:.0f} s, as {LEAST_SPEED:,} bytes a second would be"
        ) from None
    if not fine:
        raise found
    result: Result = found
    return result


class RemoteFile:
    """A file read by ranges: ``fetch(begin, end)`` gives exactly those bytes or raises OSError."""

    advice = ADVICE
    local = False

    def __init__(
        self,
        size: int,
        fetch: Callable[[int, int], bytes],
        changed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._size, self._fetch, self._changed = size, fetch, changed

    @property
    def size(self) -> int:
        return self._size

    def read(self, begin: int, view: memoryview) -> int:
        end = min(begin + len(view), self._size)
        if begin >= end:
            return 0
        view[: end - begin] = self._fetch(begin, end)
        return end - begin

    def advise(self, begin: int, count: int) -> None:
        """Nothing: whoever reads small pieces keeps blocks (see ``remote_cache``)."""

    def changed(self) -> bool:
        return self._changed()

    @property
    def state(self) -> None:
        """None: stores compare versions by themselves when a file is opened again."""

    def close(self) -> None:
        """Nothing is held."""
