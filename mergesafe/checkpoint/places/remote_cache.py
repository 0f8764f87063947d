"""Blocks of remote files in memory, fetched ahead, so that small reads make few large requests.

A merge reads tiles of some hundred kilobytes from every input in turn, and a request to a server
costs milliseconds whatever its size. Files are therefore fetched in blocks of :data:`BLOCK` bytes,
a few ahead of the reader and several at a time; all files together keep at most :data:`BLOCKS`.

Not by fsspec's ``BackgroundBlockCache``: it is a file's own, so that the memory would grow with the
number of shards, and it fetches one block ahead, which does not hide the time of a request.
"""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mergesafe.checkpoint.places.files import OpenFile

BLOCK: Final = 4 << 20
#: 256 MiB. Workers that share a tensor share blocks; each one on its own tensor needs three.
BLOCKS: Final = 64
AHEAD: Final = 2
MOST_AHEAD: Final = 8
CONNECTIONS: Final = 16


class RemoteCache:
    """The blocks of all remote files of a reader. Thread-safe."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._lock = Lock()
        self._kept: OrderedDict[tuple[int, int], Future[bytes]] = OrderedDict()

    def read(self, file: OpenFile, begin: int, view: memoryview) -> int:
        """As ``file.read``: what the block at ``begin`` holds, and no more."""
        index, skip = divmod(begin, BLOCK)
        if begin >= file.size:
            return 0
        data = self._want(file, index, max(AHEAD, min(len(view) // BLOCK, MOST_AHEAD))).result()
        got = min(len(view), len(data) - skip)
        view[:got] = memoryview(data)[skip : skip + got]
        return got

    def close(self) -> None:
        """Drop what is kept and wait for requests in progress."""
        with self._lock:
            pool, self._pool = self._pool, None
            self._kept.clear()
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def _want(self, file: OpenFile, index: int, ahead: int) -> Future[bytes]:
        """The block, on its way or there; ``ahead`` next ones are asked for too."""
        last = (file.size - 1) // BLOCK
        with self._lock:
            wanted = self._get(file, index)
            for following in range(index + 1, min(index + ahead, last) + 1):
                self._get(file, following)
            while len(self._kept) > BLOCKS:
                self._kept.popitem(last=False)
        return wanted

    def _get(self, file: OpenFile, index: int) -> Future[bytes]:
        key = id(file), index  # the reader keeps its files until it is closed
        future = self._kept.get(key)
        if future is None or (future.done() and (future.cancelled() or future.exception())):
            if self._pool is None:
                self._pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="fetch")
            future = self._kept[key] = self._pool.submit(_fetch, file, index)
        self._kept.move_to_end(key)
        return future


def _fetch(file: OpenFile, index: int) -> bytes:
    begin = index * BLOCK
    data = bytearray(min(BLOCK, file.size - begin))
    file.read(begin, memoryview(data))  # a remote file reads all or raises
    return bytes(data)
