"""Tensors read tile by tile into one worker's memory, for passes that only look at them."""

from __future__ import annotations

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.views.adapted import WithLora
from mergesafe.checkpoint.views.view import Memory, OpenView, Room
from mergesafe.engine.memory import Slice, aligned
from mergesafe.engine.run.kernels import Buffer
from mergesafe.outline.sources import Operand


class Area:
    """One worker's memory, given out anew for every tensor; tiles have up to ``tile`` elements."""

    def __init__(self, memory: Slice, tile: int) -> None:
        self.tile = tile
        self._address, self._view = memory.take(memory.size)
        self._used = 0

    def clear(self) -> None:
        self._used = 0

    def take(self, nbytes: int) -> tuple[int, memoryview]:
        """The next ``nbytes``: address and writable view."""
        begin, self._used = self._used, self._used + aligned(nbytes)
        if self._used > len(self._view):
            raise AssertionError(f"area of {len(self._view)} bytes, {self._used} asked for")
        return self._address + begin, self._view[begin : begin + nbytes]


class TileReader:
    """The values of one operand, tile by tile, with its adapter's delta added in float32.

    What ``base`` reads of the same stored tensor is read once.
    """

    def __init__(
        self, operand: Operand, area: Area, reader: Reader, base: TileReader | None = None
    ) -> None:
        self.view = view = operand.view
        room = Room(reader, area.tile, area.take)
        shared = base.plain if base is not None and base.view.plain == view.plain else None
        self._shared = shared is not None
        self.plain: OpenView = view.plain.open(room) if shared is None else shared
        self._open = view.over(self.plain, room) if isinstance(view, WithLora) else self.plain

    def read(self, begin: int, n: int) -> Buffer:
        """Elements [begin, begin + n) for kernels, once the base has read them."""
        return Buffer(*self.memory(begin, n), self.view.dtype, self.view.dtype)

    def memory(self, begin: int, n: int) -> Memory:
        """The same for any type: address and bytes."""
        if not self._shared:
            self._open.fetch(begin, n)
        return self._open.make(begin, n)
