"""Where every row of a table comes from: rows of several tables, means of rows, zeros.

A map of 128,000 rows is a few arrays, not as many objects: vocabularies are large.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np

    IntArray = np.ndarray[Any, np.dtype[np.int32]]

#: In place of a table's number: zeros; the mean of the rows that the tables have for it (float32,
#: added in the order of the tables); the mean of the result's first :attr:`RowMap.summed` rows.
ZERO: Final = -1
MEAN: Final = -2
WHOLE_MEAN: Final = -3


@dataclass(frozen=True)
class Piece:
    """``count`` neighbouring rows of the result from ``target`` on: of ``table`` from ``row`` on,
    or as the rule says that stands in place of a table.
    """

    target: int
    count: int
    table: int
    row: int


@dataclass(frozen=True, eq=False)
class RowMap:
    """Row r of the result is row ``row[r]`` of table ``table[r]``, or what the rule there says.

    ``owned[k][r]``: the row that table k has for row r, -1 where it has none; for means.
    """

    table: IntArray
    row: IntArray
    owned: tuple[IntArray, ...]
    summed: int = 0
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = sha256(f"{len(self.owned)} {self.summed} ".encode())
        averaged = self.table == MEAN
        for part in (self.table, self.row, *(own[averaged] for own in self.owned)):
            digest.update(part.tobytes())
        object.__setattr__(self, "digest", digest.hexdigest())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowMap) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def tables(self) -> tuple[int, ...]:
        """The tables that are read, in order."""
        import numpy as np

        averaged = self.table == MEAN
        used = {int(k) for k in np.unique(self.table) if k >= 0}
        used |= {k for k, own in enumerate(self.owned) if (own[averaged] >= 0).any()}
        return tuple(sorted(used))

    @cached_property
    def averaged(self) -> bool:
        """Whether some row is a mean."""
        return bool((self.table <= MEAN).any())

    @cached_property
    def padded(self) -> bool:
        """Whether some row is the mean of the rows before."""
        return bool((self.table == WHOLE_MEAN).any())

    def is_identity(self, table: int, rows: int) -> bool:
        """Whether the result is table ``table``, of so many rows, as it is."""
        import numpy as np

        same = len(self) == rows and bool((self.table == table).all())
        return same and bool((self.row == np.arange(rows, dtype=np.int32)).all())

    def pieces(self, begin: int, end: int) -> Iterator[Piece]:
        """Rows [begin, end) of the result, neighbours of one table together."""
        import numpy as np

        table, row = self.table[begin:end], self.row[begin:end]
        if not len(table):
            return
        steps = (np.diff(row) != 1) & (table[1:] >= 0)
        cuts = np.flatnonzero((np.diff(table) != 0) | steps) + 1
        starts = [0, *cuts.tolist()]
        for first, stop in zip(starts, [*starts[1:], len(table)], strict=True):
            yield Piece(begin + first, stop - first, int(table[first]), int(row[first]))

    def rows_of(self, target: int) -> list[tuple[int, int]]:
        """Table and row of everything that the mean at row ``target`` is of."""
        found = ((k, int(own[target])) for k, own in enumerate(self.owned))
        return [(k, row) for k, row in found if row >= 0]

    def counts(self, begin: int, end: int) -> dict[int, int]:
        """How many rows of each table rows [begin, end) are made of; not what whole means read."""
        table = self.table[begin:end]
        averaged = table == MEAN
        found = {}
        for k in self.tables:
            found[k] = int((table == k).sum())
            if self.owned:
                found[k] += int((self.owned[k][begin:end][averaged] >= 0).sum())
        return found
