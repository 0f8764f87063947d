"""A table whose rows are gathered from several: an embedding under another vocabulary.

Rows are copied bit for bit where all tables that are read have one type and none is a mean; else
they are float32, in which every type is exact. Memory is that of a tile and of a
few :data:`SEGMENT`, however large the tables are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final

from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.views.adapted import convert
from mergesafe.checkpoint.views.row_map import MEAN, WHOLE_MEAN, Piece, RowMap
from mergesafe.checkpoint.views.stored import Stored
from mergesafe.checkpoint.views.view import ByteRange, Memory, OpenView, Room, View, heap
from mergesafe.dtypes import SIZES

if TYPE_CHECKING:
    import numpy as np

    Numbers = np.ndarray[Any, np.dtype[np.integer[Any]]]
    ByteArray = np.ndarray[Any, np.dtype[np.uint8]]
    Truths = np.ndarray[Any, np.dtype[np.bool_]]

#: Bytes of rows that are made in one go, those between wanted ones included; of small types those
#: of float32, to which they may be converted.
SEGMENT: Final = 1 << 18
_FLOAT: Final = 4
#: Bytes between two wanted rows that are read rather than skipped.
_GAP: Final = 1 << 14
#: Elements of a computed table that are made at a time.
_MADE: Final = 1 << 15
#: Runs of fewer bytes are not announced to the system before they are read.
_ADVISED: Final = 1 << 17
#: Neighbouring rows of so many bytes that stay neighbours are read where they belong.
_DIRECT: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Gathered(View):
    """The rows of ``views`` by ``rows``; ``which``: the number of the one that it stands for.

    A table is a tensor whose rows are its first dimension, or the last where ``last``, which is for
    shapes like [1, rows].
    """

    views: tuple[View, ...]
    which: int
    rows: RowMap
    last: bool = False

    @property
    def _own(self) -> View:
        return self.views[self.which]

    @property
    def info(self) -> TensorInfo:
        return self._own.info

    @property
    def shape(self) -> tuple[int, ...]:
        own = self._own.shape
        return (*own[:-1], len(self.rows)) if self.last else (len(self.rows), *own[1:])

    @property
    def columns(self) -> int:
        """Elements of a row."""
        return 1 if self.last else prod(self._own.shape[1:])

    @property
    def dtype(self) -> str:
        kinds = {self.views[k].dtype for k in self.rows.tables} or {self._own.dtype}
        return kinds.pop() if len(kinds) == 1 and not self.rows.averaged else "F32"

    @property
    def nominal(self) -> str:
        return self._own.nominal

    @property
    def stored_size(self) -> int:
        return SIZES[self.dtype]

    @property
    def made_size(self) -> int:
        return 0

    @property
    def companions(self) -> Mapping[str, TensorInfo]:
        found = dict(self._own.companions)
        for k in self.rows.tables:
            if k != self.which:
                found |= {f"{part}.{k}": info for part, info in self.views[k].companions.items()}
        return found

    @property
    def fixed_bytes(self) -> int:
        computed = [self.views[k] for k in self.rows.tables if not self.is_direct(k)]
        made = sum(view.fixed_bytes + _MADE * view.bytes_per_element for view in computed)
        return 8 * SEGMENT + made + 16 * self.columns

    @property
    def below(self) -> tuple[View, ...]:
        return (self._own, *(self.views[k] for k in self.rows.tables if k != self.which))

    @property
    def tells(self) -> bool:
        return any(view.tells for view in self.below)

    def is_direct(self, table: int) -> bool:
        """Whether the rows of that table are copied as they are stored."""
        view = self.views[table]
        return isinstance(view, Stored) and view.dtype == self.dtype

    def pieces(self, begin: int, n: int) -> Iterator[tuple[int, int, Piece]]:
        """Elements [begin, begin + n): the first column, the number of elements, and the rows, of
        which the first and last may be incomplete.
        """
        columns = self.columns
        first, end = begin // columns, -(-(begin + n) // columns)
        for piece in self.rows.pieces(first, end):
            start = max(begin, piece.target * columns)
            stop = min(begin + n, (piece.target + piece.count) * columns)
            yield start - piece.target * columns, stop - start, piece

    def ranges(self, begin: int, n: int) -> Iterator[ByteRange]:
        for column, count, piece in self.pieces(begin, n):
            if piece.table >= 0:
                yield from self.views[piece.table].ranges(piece.row * self.columns + column, count)
            elif piece.table == MEAN:
                for target in range(piece.target, piece.target + piece.count):
                    for k, row in self.rows.rows_of(target):
                        yield from self.views[k].ranges(row * self.columns, self.columns)

    def bytes_needed(self, begin: int, n: int) -> int:
        first, end = begin // self.columns, -(-(begin + n) // self.columns)
        counts = self.rows.counts(first, end)
        row = {k: self.views[k].bytes_needed(0, self.columns) for k in counts}
        whole = sum(count * row[k] for k, count in counts.items())
        return whole * n // max(1, (end - first) * self.columns)

    def advise(self, reader: Any, begin: int, n: int) -> None:
        for column, count, piece in self.pieces(begin, n):
            if piece.table >= 0 and count * self.stored_size >= _ADVISED:
                self.views[piece.table].advise(reader, piece.row * self.columns + column, count)

    def identity(self) -> list[object]:
        read = [self.views[k].identity() for k in self.rows.tables]
        return [*self._own.identity(), "gathered", self.rows.digest, *read]

    def moved(self, move: Callable[[TensorInfo], TensorInfo]) -> Gathered:
        views = tuple(view.moved(move) for view in self.views)
        return Gathered(views, self.which, self.rows, self.last)

    def described(self) -> dict[str, object]:
        return {**self._own.described(), "rows": self.rows.digest}

    def open(self, room: Room) -> OpenView:
        return _OpenGathered(self, room)


class _OpenGathered(OpenView):
    """What is fetched is what is gathered: digests cover the view's own elements."""

    def __init__(self, view: Gathered, room: Room) -> None:
        self._view, self._reader = view, room.reader
        self._size, self._columns = view.stored_size, view.columns
        self._address, self._memory = room.take(room.tile * self._size)
        #: Bytes of a row in the largest type that it is made in.
        self._width = self._columns * max(self._size, _FLOAT)
        below = Room(
            room.reader, _MADE, threads=room.threads,
            read=room.read, made=room.made, moved=room.moved,
        )  # fmt: skip
        self._open = {
            k: view.views[k].open(below) for k in view.rows.tables if not view.is_direct(k)
        }
        self._segment, self._converted = (heap(2 * SEGMENT)[1] for _ in range(2))
        self.digests = {
            part if k == view.which else f"{part}.{k}": digest
            for k, opened in self._open.items()
            for part, digest in opened.digests.items()
        }
        self._mean = bytes(self._columns * self._size)
        if view.rows.padded:
            self._mean = self._whole_mean()

    def fetch(self, begin: int, n: int) -> Memory:
        self._gather(begin, n, self._memory)
        return self.make(begin, n)

    def make(self, begin: int, n: int) -> Memory:
        return self._address, self._memory[: n * self._size]

    def _gather(self, begin: int, n: int, out: memoryview) -> None:
        """Elements [begin, begin + n) at the start of ``out``: whole rows together."""
        size, columns = self._size, self._columns
        first, last = -(-begin // columns), (begin + n) // columns
        if last <= first or self._width > SEGMENT:
            self._pieces(begin, n, out)
            return
        head, tail = first * columns - begin, begin + n - last * columns
        self._pieces(begin, head, out)
        self._rows(first, last, out[head * size : (n - tail) * size])
        self._pieces(last * columns, tail, out[(n - tail) * size :])

    def _pieces(self, begin: int, n: int, out: memoryview) -> None:
        """Elements [begin, begin + n), rows that are cut and very long ones among them."""
        for column, count, piece in self._view.pieces(begin, n) if n else ():
            at = (piece.target * self._columns + column - begin) * self._size
            into = out[at : at + count * self._size]
            if piece.table < 0:
                self._rule(piece, column, into)
            else:
                self._read(piece.table, piece.row * self._columns + column, into)

    def _rows(self, first: int, last: int, out: memoryview) -> None:
        """Rows [first, last), table by table."""
        import numpy as np

        rows = self._view.rows
        table, row = rows.table[first:last], rows.row[first:last]
        result = np.frombuffer(out, np.uint8).reshape(last - first, -1)
        left = self._runs(table, row, out)
        for k in np.unique(table[left]).tolist():
            target = np.flatnonzero((table == k) & left)
            if k >= 0:
                self._take(k, row[target], result, target)
            elif k == MEAN:
                self._mean_rows(first, target, result)
            else:
                mean = np.frombuffer(self._mean, np.uint8)
                result[target] = mean if k == WHOLE_MEAN else 0

    def _runs(self, table: Numbers, row: Numbers, out: memoryview) -> Truths:
        """Read long runs of rows that are copied as they are; which rows are left."""
        import numpy as np

        size, left = self._columns * self._size, np.ones(len(table), bool)
        cuts = np.flatnonzero((np.diff(table) != 0) | (np.diff(row) != 1)) + 1
        starts = np.concatenate([[0], cuts])
        ends = np.append(cuts, len(table))
        long = ((ends - starts) * size >= _DIRECT) & (table[starts] >= 0)
        for a, b in zip(starts[long].tolist(), ends[long].tolist(), strict=True):
            if self._view.is_direct(int(table[a])):
                self._read(int(table[a]), int(row[a]) * self._columns, out[a * size : b * size])
                left[a:b] = False
        return left

    def _take(self, table: int, rows: Numbers, result: ByteArray, target: Numbers) -> None:
        """Rows of a table to the rows ``target`` of the result, in the order of the table.

        Rows that lie close together are read in one go.
        """
        import numpy as np

        most = max(1, SEGMENT // self._width)
        stored = isinstance(self._view.views[table], Stored)
        near = max(1, _GAP // (self._columns * self._size)) if stored else 1
        order = np.argsort(rows, kind="stable")
        rows, target = rows[order], target[order]
        far = np.concatenate([[True], np.diff(rows) > near])
        begun = rows[far][np.cumsum(far) - 1]
        part = (rows - begun) // most
        cut = far | np.concatenate([[True], np.diff(part) != 0])
        begins = np.flatnonzero(cut)
        first = rows[begins]
        count = rows[np.append(begins[1:], len(rows)) - 1] - first + 1
        ends = np.cumsum(count)
        place = (ends - count - first)[np.cumsum(cut) - 1] + rows  # of each row in all that is read
        batch = (ends - 1) // most
        edges = np.flatnonzero(np.diff(batch, prepend=-1, append=batch[-1] + 1))
        limits = np.append(begins, len(rows))
        for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            made = self._load(table, first[a:b], count[a:b])
            low, high = limits[a], limits[b]
            into, wanted = target[low:high], place[low:high] - (ends[a] - count[a])
            # Sorted rows without doubles, as many as were read, are all of them in order.
            alone = len(wanted) == len(made) and bool((np.diff(wanted) == 1).all())
            result[into] = made if alone else made[wanted]

    def _load(self, table: int, first: Numbers, count: Numbers) -> ByteArray:
        """Runs of rows one behind the other, at most twice :data:`SEGMENT` bytes."""
        import numpy as np

        view, size = self._view.views[table], self._columns * self._size
        total = int(count.sum())
        if not isinstance(view, Stored):
            at = 0
            for row, rows in zip(first.tolist(), count.tolist(), strict=True):
                into = self._segment[at * size : (at + rows) * size]
                self._read(table, row * self._columns, into)
                at += rows
            return np.frombuffer(self._segment[: total * size], np.uint8).reshape(total, size)
        stored = self._columns * view.stored_size
        memory = self._segment[: total * stored]
        begins, sizes = first.astype(np.int64) * stored, count * stored
        pieces = zip(begins.tolist(), sizes.tolist(), strict=True)
        self._reader.read_pieces(view.info, pieces, memory)
        if view.dtype != self._view.dtype:
            memory = self._converted[: total * size]
            convert(
                _address_of(self._segment), view.dtype, _address_of(memory), self._view.dtype,
                total * self._columns,
            )  # fmt: skip
        return np.frombuffer(memory, np.uint8).reshape(total, size)

    def _mean_rows(self, begin: int, target: Numbers, result: ByteArray) -> None:
        """Means to the rows ``target`` of the result, which begins with row ``begin``."""
        import numpy as np

        step = max(1, SEGMENT // self._width)
        for at in range(0, len(target), step):
            part = target[at : at + step]
            total = np.zeros((len(part), self._columns), np.float32)
            held = np.zeros((len(part), 1), np.float32)
            row = np.empty((len(part), self._columns), np.float32)
            for table, own in enumerate(self._view.rows.owned):
                rows = own[begin + part]
                having = np.flatnonzero(rows >= 0)
                if len(having):
                    self._take(table, rows[having], row.view(np.uint8), having)
                    with np.errstate(all="ignore"):  # what is not finite is found by kernels
                        total[having] += row[having]
                    held[having] += 1
            with np.errstate(all="ignore"):
                result[part] = (total / held).view(np.uint8)

    def _read(self, table: int, first: int, into: memoryview) -> None:
        """Elements of a table from ``first`` on, in the view's type."""
        view, size = self._view, self._size
        opened = self._open.get(table)
        if opened is None:
            for info, begin, _ in view.views[table].ranges(first, len(into) // size):
                self._reader.read_into(info, begin, into)
            return
        dtype = view.views[table].dtype
        for at in range(0, len(into) // size, _MADE):
            n = min(_MADE, len(into) // size - at)
            opened.fetch(first + at, n)
            address, made = opened.make(first + at, n)
            if dtype == view.dtype:
                into[at * size : (at + n) * size] = made
            else:
                target = _address_of(into[at * size : (at + n) * size])
                convert(address, dtype, target, view.dtype, n)

    def _rule(self, piece: Piece, column: int, into: memoryview) -> None:
        if piece.table == MEAN:
            self._means(piece, column, into)
            return
        done, size = 0, self._columns * self._size
        row = self._mean if piece.table == WHOLE_MEAN else bytes(size)
        column *= self._size
        while done < len(into):
            part = row[column : column + len(into) - done]
            into[done : done + len(part)] = part
            done, column = done + len(part), 0

    def _means(self, piece: Piece, column: int, into: memoryview) -> None:
        """Means of rows, float32, from ``column`` of the first of them on."""
        import numpy as np

        columns, out = self._columns, np.frombuffer(into, np.float32)
        row = np.empty(columns, np.float32)
        done = 0
        while done < len(out):
            target, first = divmod(piece.target * columns + column + done, columns)
            count = min(columns - first, len(out) - done)
            total = np.zeros(count, np.float32)
            found = self._view.rows.rows_of(target)
            with np.errstate(all="ignore"):  # what is not finite is found by kernels
                for table, number in found:
                    self._read(table, number * columns + first, row[:count].data.cast("B"))
                    total += row[:count]
                out[done : done + count] = total / np.float32(len(found))
            done += count

    def _whole_mean(self) -> bytes:
        """The mean of the rows that belong to tokens, float64 sums rounded once."""
        import numpy as np

        columns, summed = self._columns, self._view.rows.summed
        sums = np.zeros(columns, np.float64)
        step = max(1, _MADE // columns)
        buffer = heap(step * columns * self._size)[1]
        for at in range(0, summed, step):
            rows = min(step, summed - at)
            self._gather(at * columns, rows * columns, buffer)
            made = np.frombuffer(buffer[: rows * columns * self._size], np.float32)
            sums += made.reshape(rows, columns).sum(0, dtype=np.float64)
        return (sums / max(1, summed)).astype(np.float32).tobytes()


def _address_of(memory: memoryview) -> int:
    import numpy as np

    return int(np.frombuffer(memory, np.uint8).ctypes.data)
