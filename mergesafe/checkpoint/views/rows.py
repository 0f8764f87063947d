"""A tensor whose rows are those of another in another order: an embedding under a new vocabulary.

Rows that the other does not have are filled: with zeros, with the mean of all its rows (float64
sums in order, rounded once to float32 and then to the view's type), or with one of its rows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Final, Literal

from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.views.adapted import convert
from mergesafe.checkpoint.views.stored import Stored
from mergesafe.checkpoint.views.view import ByteRange, Memory, OpenView, Room, View, ViewOver, heap
from mergesafe.dtypes import SIZES
from mergesafe.errors import ArgumentError

#: What a row without a source holds; a number is that row of the source.
Fill = Literal["zero", "mean"] | int
#: Elements that are summed at a time for a mean.
_SUMMED: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Run:
    """``count`` neighbouring rows, from row ``source`` on, that become rows from ``target`` on."""

    source: int
    target: int
    count: int


@dataclass(frozen=True, slots=True)
class Rows(ViewOver):
    """``count`` rows of ``view``: ``runs``, whose targets ascend, and ``fill`` between them.

    Raises:
        ArgumentError: runs overlap, or leave the source or the target.
    """

    view: View
    runs: tuple[Run, ...]
    count: int
    fill: Fill = "zero"

    def __post_init__(self) -> None:
        rows = self.view.shape[0] if self.view.shape else 0
        end = 0
        for run in self.runs:
            inside = 0 <= run.source <= rows - run.count and run.target + run.count <= self.count
            if run.count < 1 or run.target < end or not inside:
                raise ArgumentError(
                    f"{run} does not fit {rows} rows that become {self.count}, of which {end} are "
                    "given before"
                )
            end = run.target + run.count
        if isinstance(self.fill, int) and not 0 <= self.fill < rows:
            raise ArgumentError(f"row {self.fill} is to fill gaps, but there are {rows} rows")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count, *self.view.shape[1:])

    @property
    def stored_size(self) -> int:
        return SIZES[self.view.dtype]

    @property
    def made_size(self) -> int:
        return 0

    @property
    def bytes_per_element(self) -> int:
        # computed rows are made in memory of their own and gathered from there
        return self.stored_size + (0 if self.direct else self.view.bytes_per_element)

    @property
    def areas(self) -> int:
        return 1 + (0 if self.direct else self.view.areas)

    @property
    def fixed_bytes(self) -> int:
        # the row that fills gaps, while it is found; not 0, so that it is found once for a tensor
        row = 0 if self.fill == "zero" else 16 * self.columns + 8 * _SUMMED
        return self.view.fixed_bytes + row

    @property
    def direct(self) -> bool:
        """Whether rows are read to where they belong, not made elsewhere first."""
        return isinstance(self.view, Stored)

    @property
    def columns(self) -> int:
        """Elements of a row."""
        return prod(self.view.shape[1:])

    def segments(self, begin: int, n: int) -> Iterator[tuple[int, int, int | None]]:
        """Elements [begin, begin + n): where each piece begins in them, how many, and the source's
        first element; None where the rule for gaps decides.
        """
        columns, at, end = self.columns, begin, begin + n
        number = bisect_right(self.runs, at // max(1, columns), key=lambda run: run.target) - 1
        number = max(0, number)
        while at < end:
            while number < len(self.runs) and _end(self.runs[number]) * columns <= at:
                number += 1
            if number == len(self.runs):
                yield at - begin, end - at, None
                return
            run = self.runs[number]
            first = run.target * columns
            if at < first:
                count = min(end, first) - at
                yield at - begin, count, None
            else:
                count = min(end, _end(run) * columns) - at
                yield at - begin, count, run.source * columns + at - first
            at += count

    def ranges(self, begin: int, n: int) -> Iterator[ByteRange]:
        for _, count, source in self.segments(begin, n):
            if source is not None:
                yield from self.view.ranges(source, count)

    def identity(self) -> list[object]:
        runs = [(run.source, run.target, run.count) for run in self.runs]
        return [*self.view.identity(), "rows", runs, self.count, self.fill]

    def moved(self, move: Callable[[TensorInfo], TensorInfo]) -> Rows:
        return Rows(self.view.moved(move), self.runs, self.count, self.fill)

    def open(self, room: Room) -> OpenView:
        return _OpenRows(self, room)


class _OpenRows(OpenView):
    """What is fetched is what is gathered: digests cover the view's own elements."""

    def __init__(self, view: Rows, room: Room) -> None:
        self._view, self._room = view, room
        self._below = None if view.direct else view.view.open(room)
        self._address, self._memory = room.take(room.tile * view.stored_size)
        self._fill = self._filling()
        self.digests = self._below.digests if self._below is not None else {}

    def fetch(self, begin: int, n: int) -> Memory:
        view, size = self._view, self._view.stored_size
        for at, count, source in view.segments(begin, n):
            into = self._memory[at * size : (at + count) * size]
            if source is None:
                self._gap((begin + at) % view.columns * size, into)
            elif self._below is None:
                for info, first, _ in view.view.ranges(source, count):
                    self._room.reader.read_into(info, first, into)
            else:
                self._below.fetch(source, count)
                into[:] = self._below.make(source, count)[1]
        return self.make(begin, n)

    def make(self, begin: int, n: int) -> Memory:
        return self._address, self._memory[: n * self._view.stored_size]

    def _gap(self, column: int, into: memoryview) -> None:
        """Fill with the row again and again, from byte ``column`` of it on."""
        done, row = 0, self._fill
        while done < len(into):
            piece = row[column : column + len(into) - done]
            into[done : done + len(piece)] = piece
            done, column = done + len(piece), 0

    def _filling(self) -> bytes:
        """The bytes of a row that fills gaps."""
        view, columns = self._view, self._view.columns
        gaps = sum(run.count for run in view.runs) < view.count
        if not gaps or view.fill == "zero":
            return bytes(columns * view.stored_size)
        tile = max(1, min(_SUMMED, view.view.numel))
        below = view.view.open(Room(self._room.reader, tile))
        if view.fill == "mean":
            return self._mean(below, tile)
        found = bytearray()
        for at in range(0, columns, tile):
            n = min(tile, columns - at)
            below.fetch(view.fill * columns + at, n)
            found += below.make(view.fill * columns + at, n)[1]
        return bytes(found)

    def _mean(self, below: OpenView, tile: int) -> bytes:
        import numpy as np

        view, columns = self._view, self._view.columns
        sums = np.zeros(columns, np.float64)
        address, memory = heap(4 * tile)
        made = np.frombuffer(memory, np.float32)
        for at in range(0, view.view.numel, tile):
            n = min(tile, view.view.numel - at)
            below.fetch(at, n)
            convert(below.make(at, n)[0], view.dtype, address, "F32", n)
            done = 0
            while done < n:  # one row, or what the tile has of it
                column = (at + done) % columns
                count = min(columns - column, n - done)
                sums[column : column + count] += made[done : done + count]
                done += count
        mean = (sums / max(1, view.view.shape[0])).astype(np.float32)
        pointer, result = heap(columns * view.stored_size)
        convert(mean.ctypes.data, "F32", pointer, view.dtype, columns)
        return bytes(result)


def _end(run: Run) -> int:
    return run.target + run.count
