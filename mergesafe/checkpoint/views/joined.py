"""Several tensors, one behind the other, as one: experts of a layer that are stored one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.views.view import AsStored, ByteRange, Memory, OpenView, Room
from mergesafe.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Joined(AsStored):
    """A tensor of the shape ``size``: the elements of ``parts`` in order.

    Raises:
        ArgumentError: the parts have several types or sizes, or are not as many elements.
    """

    parts: tuple[TensorInfo, ...]
    size: tuple[int, ...]

    def __post_init__(self) -> None:
        kinds = {(part.dtype, part.numel) for part in self.parts}
        if len(kinds) != 1 or sum(part.numel for part in self.parts) != self.numel:
            raise ArgumentError(
                f"{len(self.parts)} tensors of the types and sizes {sorted(kinds)} do not make one "
                f"of shape {list(self.size)}"
            )

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
        each, size, end = self.info.numel, self.stored_size, begin + n
        while begin < end:
            number, first = divmod(begin, each)
            count = min(end - begin, each - first)
            yield self.parts[number], first * size, count * size
            begin += count

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
