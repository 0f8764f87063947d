"""Positioned, checked reads of tensor bytes from any number of threads."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Final

from mergesafe.checkpoint._gate import Gate
from mergesafe.checkpoint._parse import reason, show
from mergesafe.checkpoint.safetensors import TensorInfo
from mergesafe.errors import ArgumentError, CheckpointError

#: Tensors smaller than this are not worth a system call.
_ADVISED_BYTES: Final = 128 << 10


class Reader:
    """Opens each shard once, on first use, and reads from it at explicit offsets.

    Thread-safe: reads carry their own position and share no state but the descriptors.
    :meth:`close` waits for reads in progress.
    """

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self._opened: dict[Path, tuple[int, int]] = {}  # size and time of modification then
        self._opening = Lock()
        self._gate = Gate("the reader")

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
        self._gate.shut()
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

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
        view = buffer.cast("B")
        got = 0
        with self._gate:
            descriptor = self._descriptor(info)
            while got < expected:
                # One call reads at most 2 GiB, and may be cut short by a signal or the file's end.
                try:
                    count = os.preadv(descriptor, [view[got:]], info.offset + begin + got)
                except OSError as error:
                    raise _failed(info, expected, got, reason(error)) from error
                if count == 0:
                    raise _failed(info, expected, got, "the file ends there; it has shrunk")
                got += count

    def advise(self, info: TensorInfo) -> None:
        """Ask the system to read the tensor ahead, where it supports that.

        Raises:
            CheckpointError: the shard cannot be opened.
        """
        # The system reads ahead of small reads by itself; and 0 bytes would mean "to the end".
        if not hasattr(os, "posix_fadvise") or info.nbytes < _ADVISED_BYTES:
            return
        with self._gate:
            descriptor = self._descriptor(info)
            try:
                os.posix_fadvise(descriptor, info.offset, info.nbytes, os.POSIX_FADV_WILLNEED)
            except OSError:
                return  # a hint: file systems without read-ahead refuse it, and reading still works

    def check_unchanged(self) -> None:
        """Check that no shard was written to since it was opened: its bytes would be a mixture.

        A shard that was replaced or removed is fine, since the opened one stays what it was.

        Raises:
            CheckpointError: a shard has another size or time of modification than when opened.
        """
        with self._gate:
            for path, descriptor in self._descriptors.items():
                if _state(descriptor) != self._opened[path]:
                    raise CheckpointError(
                        f"{path}: the shard was written to while it was read, so what was read may "
                        "be a mixture. Leave the checkpoint alone and run again."
                    )

    def _descriptor(self, info: TensorInfo) -> int:
        descriptor = self._descriptors.get(info.path)
        if descriptor is not None:
            return descriptor
        with self._opening:
            descriptor = self._descriptors.get(info.path)
            if descriptor is None:
                descriptor = _open(info)
                self._opened[info.path] = _state(descriptor)
                self._descriptors[info.path] = descriptor
        return descriptor


def _state(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def _open(info: TensorInfo) -> int:
    try:
        return os.open(info.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        advice = "The checkpoint changed after its headers were read: put the shard back."
        if error.errno in (errno.EMFILE, errno.ENFILE):
            advice = "Raise the limit on open files (ulimit -n)."
        raise CheckpointError(
            f"{info.path}: cannot open the shard to read tensor {show(info.name)} "
            f"({reason(error)}). {advice}"
        ) from error


def _failed(info: TensorInfo, expected: int, got: int, why: str) -> CheckpointError:
    return CheckpointError(
        f"{info.path}: tensor {show(info.name)}: expected {expected:,} bytes, got {got:,} ({why}). "
        "Check the disk, and leave the checkpoint alone while it is read."
    )
