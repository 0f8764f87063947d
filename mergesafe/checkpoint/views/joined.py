"""Several tensors, one behind the other, as one: experts that are stored one by one, q, k and v."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.views.view import AsStored, ByteRange, Memory, OpenView, Room
from mergesafe.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Joined(AsStored):
    """A tensor of the shape ``size``: the elements of ``parts`` in order.

    Raises:
        ArgumentError: the parts have several types, or are not as many elements.
    """

    parts: tuple[TensorInfo, ...]
    size: tuple[int, ...]
    #: The element behind the last one of every part.
    _ends: tuple[int, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        kinds = {part.dtype for part in self.parts}
        sizes = {part.numel for part in self.parts}
        if len(kinds) != 1 or sum(part.numel for part in self.parts) != self.numel:
            raise ArgumentError(
                f"{len(self.parts)} tensors of the types {sorted(kinds)} and sizes {sorted(sizes)} "
                f"do not make one of shape {list(self.size)}"
            )
        ends = tuple(accumulate(part.numel for part in self.parts))
        object.__setattr__(self, "_ends", ends)

    @property
    def info(self) -> TensorInfo:
        return self.parts[0]

    @property
    def infos(self) -> tuple[TensorInfo, ...]:
        return self.parts

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size

    def ranges(self, begin: int, n: int) -> Iterator[ByteRange]:
        ends, size, end = self._ends, self.stored_size, begin + n
        number = bisect_right(ends, begin)
        while begin < end:
            part = self.parts[number]
            first = begin - (ends[number] - part.numel)
            count = min(end - begin, part.numel - first)
            yield part, first * size, count * size
            begin, number = begin + count, number + 1

    def identity(self) -> list[object]:
        names = [[part.path.name, part.name, part.offset, part.dtype] for part in self.parts]
        return ["joined", names, *self.size]

    def moved(self, move: Callable[[TensorInfo], TensorInfo]) -> Joined:
        return Joined(tuple(map(move, self.parts)), self.size)

    def described(self) -> dict[str, object]:
        return {"joined": [{"file": part.path.name, "tensor": part.name} for part in self.parts]}

    def open(self, room: Room) -> OpenView:
        return _OpenJoined(self, room)


class _OpenJoined(OpenView):
    def __init__(self, view: Joined, room: Room) -> None:
        self._view, self._reader = view, room.reader
        self._address, self._memory = room.take(room.tile * view.stored_size)

    def fetch(self, begin: int, n: int) -> Memory:
        at = 0
        for info, first, nbytes in self._view.ranges(begin, n):
            self._reader.read_into(info, first, self._memory[at : at + nbytes])
            at += nbytes
        return self.make(begin, n)

    def make(self, begin: int, n: int) -> Memory:
        return self._address, self._memory[: n * self._view.stored_size]
