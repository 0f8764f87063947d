"""A tensor as a file holds it, and ranges of elements of a view that are tensors of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod

from mergesafe.checkpoint.format.lora import LoraPair
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.views.view import (
    AsStored,
    ByteRange,
    Memory,
    OpenView,
    Room,
    View,
    ViewOver,
)


@dataclass(frozen=True, slots=True)
class Stored(AsStored):
    """The elements as they are stored; ``counts_as``: the type that an output takes from them."""

    tensor: TensorInfo
    counts_as: str | None = None

    @property
    def info(self) -> TensorInfo:
        return self.tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def nominal(self) -> str:
        return self.counts_as or self.info.dtype

    def ranges(self, begin: int, n: int) -> Iterator[ByteRange]:
        yield self.info, begin * self.stored_size, n * self.stored_size

    def identity(self) -> list[object]:
        return [self.info.path.name, self.info.name, self.info.offset, self.info.dtype]

    def moved(self, move: Callable[[TensorInfo], TensorInfo]) -> Stored:
        return replace(self, tensor=move(self.info))

    def read_into(self, reader: Reader, into: memoryview) -> None:
        reader.read_into(self.tensor, 0, into)

    def open(self, room: Room) -> OpenView:
        return _OpenStored(self, room)


class _OpenStored(OpenView):
    def __init__(self, view: Stored, room: Room) -> None:
        self._info, self._size, self._reader = view.info, view.stored_size, room.reader
        self._address, self._memory = room.take(room.tile * self._size)

    def fetch(self, begin: int, n: int) -> Memory:
        self._reader.read_into(self._info, begin * self._size, self._memory[: n * self._size])
        return self.make(begin, n)

    def make(self, begin: int, n: int) -> Memory:
        return self._address, self._memory[: n * self._size]


@dataclass(frozen=True, slots=True)
class Range(ViewOver):
    """A tensor of the shape ``size``, the elements of ``view`` from ``begin`` on.

    ``told``: the manifest says which they are; else it describes the whole of ``view``.
    """

    view: View
    begin: int
    size: tuple[int, ...]
    told: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size

    @property
    def areas(self) -> int:
        return self.view.areas

    @property
    def lora(self) -> LoraPair | None:
        return self.view.lora

    @property
    def plain(self) -> View:
        return Range(self.view.plain, self.begin, self.size, self.told)

    def ranges(self, begin: int, n: int) -> Iterator[ByteRange]:
        return self.view.ranges(self.begin + begin, n)

    def identity(self) -> list[object]:
        return [*self.view.identity(), "part", self.begin, *self.size]

    def moved(self, move: Callable[[TensorInfo], TensorInfo]) -> Range:
        return Range(self.view.moved(move), self.begin, self.size, self.told)

    def described(self) -> dict[str, object]:
        elements = {"elements": [self.begin, self.begin + self.numel]} if self.told else {}
        return {**self.view.described(), **elements}

    def open(self, room: Room) -> OpenView:
        return _OpenPart(self.begin, self.view.open(room))


class _OpenPart(OpenView):
    def __init__(self, begin: int, view: OpenView) -> None:
        self._begin, self._view = begin, view
        self.digests = view.digests

    def fetch(self, begin: int, n: int) -> Memory:
        return self._view.fetch(self._begin + begin, n)

    def make(self, begin: int, n: int) -> Memory:
        return self._view.make(self._begin + begin, n)


def part_of(view: View, begin: int, shape: tuple[int, ...]) -> View:
    """``shape`` elements of ``view`` from element ``begin`` on, as a view of their own."""
    if not isinstance(view, Stored):
        return Range(view.window(begin, prod(shape)), begin, shape)
    size = view.stored_size
    offset = view.info.offset + begin * size
    part = replace(view.info, shape=shape, offset=offset, nbytes=prod(shape) * size)
    return replace(view, tensor=part)


def whole_of(view: View, begin: int, shape: tuple[int, ...]) -> View:
    """The view of ``shape`` that :func:`part_of` took the elements from ``begin`` on of."""
    if isinstance(view, Range):
        return view.view.unwindowed
    return part_of(view, -begin, shape)
