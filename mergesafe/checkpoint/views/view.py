"""What every view answers, and where an open one puts what it reads.

A view is one input tensor of a merge. It knows its shape, which bytes of which files its elements
lie in, and how much memory reading takes. Whoever plans, reads, times or resumes asks the view;
nobody else computes offsets from names and types.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from mergesafe.checkpoint.format.digest import BLOCK, add, digest_at
from mergesafe.checkpoint.format.lora import LoraPair
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.dtypes import SIZES

#: Address and writable bytes of reserved memory.
Memory = tuple[int, memoryview]
#: Bytes of a stored tensor: the tensor, the first byte in it, and how many.
ByteRange = tuple[TensorInfo, int, int]
#: Elements that a digest reads at a time; whole blocks for every size of element.
_PIECE = 64 * BLOCK


def heap(nbytes: int) -> Memory:
    """Memory of its own, which lives as long as the bytes that are returned."""
    raw = bytearray(max(1, nbytes))
    return ctypes.addressof(ctypes.c_char.from_buffer(raw)), memoryview(raw)[:nbytes]


@dataclass(frozen=True)
class Room:
    """What an open view reads with: tiles of at most ``tile`` elements into memory from ``take``.

    ``read``: told of bytes that were read as a whole beside the elements.
    ``made``: told of bytes that such a tensor was converted from.
    ``moved``: told of bytes of files that were read for elements, by views that tell.
    """

    reader: Reader
    tile: int
    take: Callable[[int], Memory] = heap
    threads: int = 1
    read: Callable[[int], None] = lambda _: None
    made: Callable[[int], None] = lambda _: None
    moved: Callable[[int], None] = lambda _: None


class OpenView(ABC):
    """A view with memory for a tile; not thread-safe.

    ``digests``: of the tensors that were read as a whole, by their part (:attr:`View.companions`).
    """

    digests: Mapping[str, int] = {}

    @abstractmethod
    def fetch(self, begin: int, n: int) -> Memory:
        """Read the bytes of elements [begin, begin + n), which digests cover, as they are stored.

        Raises:
            CheckpointError: they cannot be read.
        """

    @abstractmethod
    def make(self, begin: int, n: int) -> Memory:
        """The elements that :meth:`fetch` has just read, as numbers of :attr:`View.dtype`."""


class View(ABC):
    """One input tensor; immutable, and equal to another that reads the same bytes alike."""

    __slots__ = ()

    @property
    @abstractmethod
    def info(self) -> TensorInfo:
        """The stored tensor that the elements come from, for messages and the manifest."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of the view."""

    @property
    @abstractmethod
    def dtype(self) -> str:
        """The type of the elements as kernels get them."""

    @property
    @abstractmethod
    def nominal(self) -> str:
        """The type that an output takes from this input: what is computed to read it aside."""

    @property
    @abstractmethod
    def stored_size(self) -> int:
        """Bytes of one element as it is fetched."""

    @property
    @abstractmethod
    def made_size(self) -> int:
        """Further bytes of memory per element of a tile, for numbers that are computed."""

    @abstractmethod
    def ranges(self, begin: int, n: int) -> Iterator[ByteRange]:
        """The bytes of files that elements [begin, begin + n) are read from."""

    @abstractmethod
    def identity(self) -> list[object]:
        """What the elements are made of, as plain data: a resumed merge needs the same."""

    @abstractmethod
    def moved(self, move: Callable[[TensorInfo], TensorInfo]) -> View:
        """The same view of files that lie elsewhere."""

    @abstractmethod
    def open(self, room: Room) -> OpenView:
        """Reserve memory, and read what is needed for all elements.

        Raises:
            CheckpointError: it cannot be read, or is not what it has to be.
        """

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def lora(self) -> LoraPair | None:
        """The adapter that changes the tensor."""
        return None

    @property
    def plain(self) -> View:
        """The view without its adapter."""
        return self

    def window(self, begin: int, n: int) -> View:
        """A view of which elements [begin, begin + n) alone are read, numbered as before; it may
        take less memory and work to open.
        """
        return self

    @property
    def unwindowed(self) -> View:
        """The view that :meth:`window` was asked of."""
        return self

    @property
    def below(self) -> tuple[View, ...]:
        """The views that this one is over; none where it reads files itself."""
        return ()

    @property
    def companions(self) -> Mapping[str, TensorInfo]:
        """The tensors that are read as a whole beside the elements, by what digests call them."""
        return {}

    @property
    def tells(self) -> bool:
        """Whether an open view tells :attr:`Room.moved` what it reads; else that are the bytes that
        are fetched.
        """
        return False

    @property
    def fixed_bytes(self) -> int:
        """Bytes of memory that do not depend on the size of tiles."""
        return 0

    @property
    def areas(self) -> int:
        """How many pieces of memory a tile takes, each of which may be aligned."""
        return 1 + self.made_size // 4

    @property
    def bytes_per_element(self) -> int:
        """Bytes of memory per element of a tile."""
        return self.stored_size + self.made_size

    @property
    def infos(self) -> tuple[TensorInfo, ...]:
        """Every stored tensor that is read."""
        first = [info for view in self.below for info in view.infos] or [self.info]
        return tuple(dict.fromkeys((*first, *self.companions.values())))

    @property
    def stored_bytes(self) -> int:
        """Bytes on disk, companions included."""
        beside = sum(info.nbytes for info in self.companions.values())
        return self.bytes_needed(0, self.numel) + beside

    def bytes_needed(self, begin: int, n: int) -> int:
        """Bytes of files that elements [begin, begin + n) are read from."""
        return sum(nbytes for _, _, nbytes in self.ranges(begin, n))

    def advise(self, reader: Reader, begin: int, n: int) -> None:
        """Ask the system to read elements [begin, begin + n) ahead."""
        for info, first, nbytes in self.ranges(begin, n):
            reader.advise(info, first, nbytes)

    def read_into(self, reader: Reader, into: memoryview) -> None:
        """All elements as numbers of :attr:`dtype`."""
        size = SIZES[self.dtype]
        opened = self.open(Room(reader, min(_PIECE, self.numel)))
        for begin in range(0, self.numel, _PIECE):
            n = min(_PIECE, self.numel - begin)
            opened.fetch(begin, n)
            _, elements = opened.make(begin, n)
            into[begin * size : (begin + n) * size] = elements

    def described(self) -> dict[str, object]:
        """What the manifest says of the input besides model, file and tensor."""
        return {}


class AsStored(View):
    """A view that gives numbers of the type of :attr:`View.info`, and computes none of them."""

    __slots__ = ()

    @property
    def dtype(self) -> str:
        return self.info.dtype

    @property
    def nominal(self) -> str:
        return self.info.dtype

    @property
    def stored_size(self) -> int:
        return SIZES[self.info.dtype]

    @property
    def made_size(self) -> int:
        return 0


class ViewOver(View):
    """A view of the elements of another, :attr:`view`, which answers what this one does not."""

    __slots__ = ()
    view: View

    @property
    def info(self) -> TensorInfo:
        return self.view.info

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.shape

    @property
    def dtype(self) -> str:
        return self.view.dtype

    @property
    def nominal(self) -> str:
        return self.view.nominal

    @property
    def stored_size(self) -> int:
        return self.view.stored_size

    @property
    def made_size(self) -> int:
        return self.view.made_size

    @property
    def companions(self) -> Mapping[str, TensorInfo]:
        return self.view.companions

    @property
    def below(self) -> tuple[View, ...]:
        return (self.view,)

    @property
    def tells(self) -> bool:
        return self.view.tells

    @property
    def fixed_bytes(self) -> int:
        return self.view.fixed_bytes

    def ranges(self, begin: int, n: int) -> Iterator[ByteRange]:
        return self.view.ranges(begin, n)

    def described(self) -> dict[str, object]:
        return self.view.described()


def digest_of_view(reader: Reader, view: View) -> int:
    """Digest of the bytes that :meth:`OpenView.fetch` gives, of all elements in order."""
    opened = view.open(Room(reader, min(_PIECE, view.numel)))
    total = 0
    for begin in range(0, view.numel, _PIECE):
        n = min(_PIECE, view.numel - begin)
        address, _ = opened.fetch(begin, n)
        size = view.stored_size
        total = add(total, digest_at(address, n * size, begin * size // BLOCK))
    return total
