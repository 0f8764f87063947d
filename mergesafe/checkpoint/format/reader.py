"""Positioned, checked reads of tensor bytes from any number of threads."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock
from types import TracebackType
from typing import Final

from mergesafe.checkpoint.format.safetensors import TensorInfo, header_sha256
from mergesafe.checkpoint.places.files import OpenFile
from mergesafe.checkpoint.places.location import Location, at
from mergesafe.checkpoint.places.open_files import OpenFiles
from mergesafe.checkpoint.places.remote_cache import RemoteCache
from mergesafe.checkpoint.places.seen import Change, ShardState
from mergesafe.errors import ArgumentError, ChangedInputError, CheckpointError, UnreadableError
from mergesafe.untrusted import reason, show

#: Tensors smaller than this are not worth a system call.
_ADVISED_BYTES: Final = 128 << 10


class Reader:
    """Opens each shard once, on first use, and reads from it at explicit offsets.

    Thread-safe: reads carry their own position and share no state but the open files.
    :meth:`close` waits for reads in progress.
    """

    def __init__(self) -> None:
        self._files: dict[Location, OpenFile] = {}
        #: By identity: one object stands for all tensors of a header.
        self._compared: dict[int, ShardState] = {}
        self._cache = RemoteCache()
        self._opening = Lock()
        self._open_files = OpenFiles("the reader")

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every shard; later reads raise :class:`~mergesafe.errors.ArgumentError`."""
        self._open_files.shut()
        self._cache.close()
        while self._files:
            self._files.popitem()[1].close()

    def read_into(self, info: TensorInfo, begin: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the tensor's bytes from ``begin`` (bytes from the tensor's start).

        Raises:
            ArgumentError: the range leaves the tensor, ``buffer`` is read-only, or closed reader.
            CheckpointError: the shard vanished, shrank or failed; names file, tensor and bytes.
        """
        expected = buffer.nbytes
        if begin < 0 or begin + expected > info.nbytes:
            raise ArgumentError(
                f"tensor {show(info.name)}: bytes {begin} to {begin + expected} were asked for, "
                f"it has {info.nbytes}"
            )
        if buffer.readonly:
            raise ArgumentError(f"tensor {show(info.name)}: the buffer to read into is read-only")
        if not expected:  # nothing to read, and a view of no elements cannot be cast
            return
        with self._open_files:
            self._fill(self._file(info), info, begin, buffer.cast("B"))

    def read_pieces(
        self, info: TensorInfo, pieces: Iterable[tuple[int, int]], buffer: memoryview
    ) -> None:
        """Fill ``buffer`` with pieces of the tensor, (first byte, bytes) each, one after the other.

        Raises:
            ArgumentError: a piece leaves the tensor or the buffer, or the reader is closed.
            CheckpointError: the shard vanished, shrank or failed; names file, tensor and bytes.
        """
        view, at = buffer.cast("B"), 0
        with self._open_files:
            file = self._file(info)
            for begin, count in pieces:
                if begin < 0 or begin + count > info.nbytes or at + count > len(view):
                    raise ArgumentError(
                        f"tensor {show(info.name)}: bytes {begin} to {begin + count} of "
                        f"{info.nbytes} do not fit the buffer"
                    )
                self._fill(file, info, begin, view[at : at + count])
                at += count

    def _fill(self, file: OpenFile, info: TensorInfo, begin: int, view: memoryview) -> None:
        expected, got = len(view), 0
        while got < expected:
            try:
                count = self._read(file, info.offset + begin + got, view[got:] if got else view)
            except OSError as error:
                raise _failed(info, expected, got, reason(error), file.advice) from error
            if count == 0:
                why = "the file ends there; it has shrunk"
                raise _failed(info, expected, got, why, file.advice)
            got += count

    def advise(self, info: TensorInfo, begin: int, count: int) -> None:
        """Ask the system to read ``count`` bytes from the tensor's byte ``begin`` ahead.

        Raises:
            CheckpointError: the shard cannot be opened.
        """
        # The system reads ahead of small reads by itself.
        if count < _ADVISED_BYTES:
            return
        with self._open_files:
            self._file(info).advise(info.offset + begin, count)

    def check_unchanged(self, *, remote: bool = True) -> None:
        """Check that no shard was written to since it was opened: its bytes would be a mixture.

        A shard that was replaced or removed is fine, since the opened one stays what it was, and is
        the one whose header was read before.
        ``remote``: ask servers too.

        Raises:
            ChangedInputError: a shard has another size or time of modification than when opened.
        """
        with self._open_files:
            for location, file in self._files.items():
                if (file.local or remote) and file.changed():
                    raise ChangedInputError(
                        f"{location}: the shard was written to while it was read, so what was read "
                        "may be a mixture. Leave the checkpoint alone and run again."
                    )

    def _read(self, file: OpenFile, begin: int, view: memoryview) -> int:
        return file.read(begin, view) if file.local else self._cache.read(file, begin, view)

    def _file(self, info: TensorInfo) -> OpenFile:
        file = self._files.get(info.path)
        if file is None:
            with self._opening:
                file = self._files.get(info.path)
                if file is None:
                    file = self._files[info.path] = _open(info)
        if info.seen is not None and id(info.seen) not in self._compared:
            check_seen(info, file)
            self._compared[id(info.seen)] = info.seen
        return file


def check_seen(info: TensorInfo, file: OpenFile) -> None:
    """Check that an open shard is still the one whose header was read.

    Raises:
        ChangedInputError: it was written to or replaced meanwhile.
    """
    before = info.seen.state if info.seen is not None else None
    if info.seen is None or before is None or file.state is None:
        return  # stores of remote files compare versions themselves
    change = before.until(file.state)
    if change is Change.NONE:
        return
    try:
        if change is Change.LABEL and header_sha256(file) == info.seen.header_sha256:
            return
    except OSError as error:
        raise UnreadableError(
            f"{info.path}: cannot read the header again ({reason(error)}). {file.advice}"
        ) from error
    raise ChangedInputError(
        f"{info.path}: the shard was written to or replaced after its header was read, so tensors "
        "may lie elsewhere in it. Leave the checkpoint alone and run again."
    )


def _open(info: TensorInfo) -> OpenFile:
    try:
        return at(info.path).open()
    except CheckpointError as error:
        name = show(info.name)
        raise CheckpointError(
            f"{error} Its header could be read before, now mergesafe cannot open the shard to read "
            f"tensor {name}. If the checkpoint changed meanwhile, put the shard back."
        ) from error


def _failed(info: TensorInfo, expected: int, got: int, why: str, advice: str) -> CheckpointError:
    return CheckpointError(
        f"{info.path}: tensor {show(info.name)}: expected {expected:,} bytes, got {got:,} ({why}). "
        f"{advice}"
    )
