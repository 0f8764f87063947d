"""Reads samples of the inputs and tells the page cache from the disk."""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate, count, islice
from threading import Lock
from typing import Final

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.places.location import Location

#: Places at which the page cache is asked whether it has the inputs.
PROBES: Final = 64
_PAGE: Final = 4096
#: Bytes between two looks at the clock.
_CHUNK: Final = 1 << 20
#: The golden ratio's fraction: multiples of it are spread evenly, however many are taken.
_GOLDEN: Final = 0.6180339887498949


def places(first: float) -> Iterator[float]:
    """Numbers in [0, 1), spread evenly."""
    return ((first + i * _GOLDEN) % 1.0 for i in count())


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of ``intervals``."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


class SampleReader(Reader):
    """Times copies from the page cache, and apart from them what :meth:`fetch` brings there.

    After ``deadline`` (of ``time.perf_counter``) the disk is left alone, once it has been asked.
    :meth:`forget_fetched` leaves the page cache as it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.deadline = float("inf")
        self._lock = Lock()
        self._descriptors: dict[Location, int] = {}
        self._copied, self._copying = 0, 0.0
        self._fetched: list[tuple[TensorInfo, int]] = []
        self._waits: list[tuple[float, float]] = []

    def __enter__(self) -> SampleReader:
        return self

    def close(self) -> None:
        super().close()
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def read_into(self, info: TensorInfo, begin: int, buffer: memoryview) -> None:
        started = time.perf_counter()
        super().read_into(info, begin, buffer)
        with self._lock:
            self._copied += buffer.nbytes
            self._copying += time.perf_counter() - started

    def fetch(self, info: TensorInfo) -> bool:
        """Bring the tensor to the page cache; False where that would take too long."""
        scratch = memoryview(bytearray(_CHUNK))
        for begin in range(0, info.nbytes, _CHUNK):
            first = scratch[: min(_PAGE, info.nbytes - begin)]
            if self.read_cached(info, begin, first) < first.nbytes:
                rest = replace(info, offset=info.offset + begin, nbytes=info.nbytes - begin)
                return self._from_disk(rest, scratch)
        return True

    def take_copied(self) -> tuple[int, float]:
        """Bytes and seconds, over all threads, of copies since the last call."""
        copied = self._copied, self._copying
        self._copied, self._copying = 0, 0.0
        return copied

    def disk_rate(self) -> float | None:
        """Bytes per second while any thread waited for the disk; None where it gave hardly any."""
        nbytes = sum(nbytes for _, nbytes in self._fetched)
        return nbytes / max(covered(self._waits), 1e-9) if nbytes >= _CHUNK else None

    def forget_fetched(self) -> None:
        for rest, nbytes in self._fetched:
            self.forget(rest, 0, nbytes)

    def cached_share(self, infos: Sequence[TensorInfo]) -> float:
        """The share of :data:`PROBES` places all over ``infos`` that are in the page cache."""
        ends = list(accumulate(info.nbytes for info in infos))
        if not ends or not ends[-1]:
            return 1.0
        page = memoryview(bytearray(_PAGE))
        found = 0
        for place in islice(places(0.25), PROBES):
            at = int(place * ends[-1])
            index = bisect_right(ends, at)
            info = infos[index]
            begin = max(0, min(at - ends[index] + info.nbytes, info.nbytes - _PAGE))
            view = page[: min(_PAGE, info.nbytes)]
            if self.read_cached(info, begin, view) == view.nbytes:
                found += 1
            else:
                self.forget(info, begin, view.nbytes)  # the system may have begun to read it
        return found / PROBES

    def read_cached(self, info: TensorInfo, begin: int, buffer: memoryview) -> int:
        """Read from the page cache, up to the first byte that is not there: how many bytes.

        0 also where the system cannot tell.
        """
        flag = getattr(os, "RWF_NOWAIT", None)
        if flag is None:
            return 0
        try:
            return os.preadv(self._descriptor(info), [buffer], info.offset + begin, flag)
        except OSError:  # not there, or a file system that does not know the flag
            return 0

    def forget(self, info: TensorInfo, begin: int, nbytes: int) -> None:
        """Take bytes out of the page cache, where the system supports that."""
        if hasattr(os, "posix_fadvise") and nbytes:
            with suppress(OSError):
                os.posix_fadvise(
                    self._descriptor(info), info.offset + begin, nbytes, os.POSIX_FADV_DONTNEED
                )

    def _descriptor(self, info: TensorInfo) -> int:
        """Raises OSError."""
        with self._lock:
            if info.path not in self._descriptors:
                self._descriptors[info.path] = os.open(str(info.path), os.O_RDONLY | os.O_CLOEXEC)
            return self._descriptors[info.path]

    def _from_disk(self, rest: TensorInfo, scratch: memoryview) -> bool:
        started = time.perf_counter()
        if started > self.deadline and self._fetched:
            return False
        self.advise(rest, 0, rest.nbytes)
        done = 0
        while done < rest.nbytes and (not done or time.perf_counter() <= self.deadline):
            piece = scratch[: min(_CHUNK, rest.nbytes - done)]
            super().read_into(rest, done, piece)
            done += piece.nbytes
        with self._lock:
            self._fetched.append((rest, done))
            self._waits.append((started, time.perf_counter()))
        return done == rest.nbytes


class BlankReader(Reader):
    """Leaves buffers as they are: kernels can be timed where the disk is too slow."""

    def read_into(self, info: TensorInfo, begin: int, buffer: memoryview) -> None:
        pass
