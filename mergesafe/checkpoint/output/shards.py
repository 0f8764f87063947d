"""The shards of an unfinished output, written at explicit offsets by any thread of any process."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from mergesafe.checkpoint.output._writeback import Writeback
from mergesafe.checkpoint.output.layout import ShardFile
from mergesafe.checkpoint.places.open_files import OpenFiles
from mergesafe.errors import ArgumentError, OutputError
from mergesafe.private import close, create_file, is_same, open_file
from mergesafe.system_faults import advice
from mergesafe.untrusted import reason

#: posix_fallocate is an optimisation; these mean that the file system does not have it.
_NO_FALLOCATE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Shards:
    """``files`` in the folder that is to become ``target``, which errors name."""

    def __init__(self, files: Sequence[ShardFile], target: Path) -> None:
        self.open_files = OpenFiles("the output folder")
        self._files, self._target = files, target
        self._descriptors: list[int] = []
        self._writebacks = [Writeback() for _ in files]

    def __enter__(self) -> Shards:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def create(self, folder: int) -> None:
        """Make every file in the open ``folder``, at its full size and with its header.

        Raises:
            OutputError: the system could not.
        """
        for file in self._files:
            with failing(self._target / file.name, "create"):
                descriptor = create_file(file.name, folder)
                self._descriptors.append(descriptor)
                _allocate(descriptor, file.size)
            self._write_header(file, descriptor)

    def reopen(self, folder: int) -> None:
        """Open the files that an earlier run made, and write their headers again.

        Raises:
            OutputError: the system could not.
        """
        self._open(folder, os.O_RDWR)
        for file, descriptor in zip(self._files, self._descriptors, strict=True):
            self._write_header(file, descriptor)

    def join(self, folder: int) -> None:
        """Open the files that another process made, for writing beside it.

        Raises:
            OutputError: the system could not.
        """
        # Opened for reading too, NFS would read a page before it writes a part of it, and send all
        # of it later, which undoes what another machine wrote there meanwhile.
        self._open(folder, os.O_WRONLY)

    def pwrite(self, shard: int, offset: int, data: memoryview) -> None:
        """Write ``data`` at the absolute byte ``offset`` of a shard. Thread-safe.

        Raises:
            ArgumentError: no such shard, outside its data, or closed.
            OutputError: the system could not write; names the file and the bytes.
        """
        count = data.nbytes
        if not 0 <= shard < len(self._files):
            raise ArgumentError(f"there is no shard {shard}; {len(self._files)} are planned")
        file = self._files[shard]
        if offset < len(file.header) or offset + count > file.size:
            raise ArgumentError(
                f"{file.name}: bytes {offset} to {offset + count} lie outside the data, which is "
                f"{len(file.header)} to {file.size}"
            )
        if not count:  # nothing to write, and a view of no elements cannot be cast
            return
        with self.open_files:
            descriptor = self._descriptors[shard]
            write_all(self._target / file.name, descriptor, offset, data.cast("B"))
            self._writebacks[shard].wrote(descriptor, count)

    def pread(self, shard: int, offset: int, buffer: memoryview) -> None:
        """Read back what was written; bytes beyond the file's end stay as they are."""
        with self.open_files, failing(self._target / self._files[shard].name, "read"):
            os.preadv(self._descriptors[shard], [buffer], offset)

    def sync(self) -> None:
        """Make what is written so far durable, and visible to other machines.

        Raises:
            OutputError: the system could not.
        """
        with self.open_files:
            for file, descriptor in zip(self._files, self._descriptors, strict=True):
                with failing(self._target / file.name, "sync"):
                    os.fsync(descriptor)

    def check(self, folder: int) -> None:
        """Check that the files still bear their names in the open ``folder``.

        Raises:
            OutputError: another file or a link took the place of one.
        """
        with self.open_files:
            for file, descriptor in zip(self._files, self._descriptors, strict=True):
                if not is_same(descriptor, file.name, folder):
                    raise OutputError(
                        f"{self._target / file.name}: something else took the place of this file "
                        "during the merge. Give a folder that others cannot write to."
                    )

    def close(self) -> None:
        """Wait for writes in progress and close every file. May be called again."""
        self.open_files.shut()
        while self._descriptors:
            close(self._descriptors.pop())

    def _open(self, folder: int, flags: int) -> None:
        for file in self._files:
            with failing(self._target / file.name, "open"):
                self._descriptors.append(open_file(file.name, folder, flags))

    def _write_header(self, file: ShardFile, descriptor: int) -> None:
        write_all(self._target / file.name, descriptor, 0, memoryview(file.header))


def write_all(path: Path, descriptor: int, offset: int, view: memoryview) -> None:
    """Write every byte of ``view`` at ``offset``.

    Raises:
        OutputError: the system could not; it names ``path``.
    """
    done, count = 0, len(view)
    while done < count:
        # One call writes at most 2 GiB, and less when a signal arrives or the disk fills up.
        try:
            written = os.pwrite(descriptor, view[done:], offset + done)
            if not written:
                raise OSError(errno.EIO, "nothing was written")
            done += written
        except OSError as error:
            raise OutputError(
                f"{path}: wrote {done:,} of {count:,} bytes at byte {offset:,} "
                f"({reason(error)}). {advice(error)}"
            ) from error


@contextmanager
def failing(path: Path, action: str) -> Iterator[None]:
    """Turn an OSError of the block into an OutputError: could not ``action`` ``path``."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path}: could not {action} it ({reason(error)}). {advice(error)}"
        ) from error


def _allocate(descriptor: int, size: int) -> None:
    """Reserve the blocks now, so that a full disk shows before hours of work, not after."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in _NO_FALLOCATE:
                raise
    os.ftruncate(descriptor, size)
