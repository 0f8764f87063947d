"""The sums of one tensor: tile by tile, read and reduced."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.dtypes import SIZES
from mergesafe.engine.memory import Slice, aligned
from mergesafe.engine.run.kernels import Buffer, Factor, compare, low_rank, to_float32, transpose
from mergesafe.outline.sources import Source

#: In :attr:`TensorSums.nonfinite`, the base.
BASE: Final = -1

Matrix = list[list[float]]
Counts = list[list[int]]


@dataclass(frozen=True)
class TensorInput:
    """A tensor of the base, and of those of the experts that have it, by their number."""

    name: str
    base: Source
    experts: dict[int, Source]

    @property
    def numel(self) -> int:
        return self.base.info.numel

    @property
    def changed(self) -> dict[int, Source]:
        """The experts that may differ from the base: all but those that are the same bytes."""
        same = self.base.info.path, self.base.info.offset
        return {
            number: source
            for number, source in self.experts.items()
            if source.lora != self.base.lora or (source.info.path, source.info.offset) != same
        }

    @property
    def stored_bytes(self) -> int:
        """Bytes that are read."""
        sources = [self.base, *self.changed.values()]
        factors = sum(s.lora.a.nbytes + s.lora.b.nbytes for s in sources if s.lora)
        return len(sources) * self.base.info.nbytes + factors


@dataclass(frozen=True)
class TensorSums:
    """Sums over the elements of one tensor; rows and columns follow ``experts``.

    ``gram``: the inner products ⟨τ_i, τ_j⟩ of the task vectors τ = expert − base, float64.
    ``both``: elements in which τ_i and τ_j are both not zero; ``opposite``: of these, how many have
    opposite signs; zeros on the diagonal. ``base``: ‖base‖² and then ⟨base, τ_i⟩, where asked for.
    ``nonfinite``: the experts in which NaN or infinity was found, :data:`BASE` for the base.
    """

    experts: tuple[int, ...]
    gram: Matrix
    both: Counts
    opposite: Counts
    base: tuple[float, ...] = ()
    nonfinite: frozenset[int] = frozenset()

    @classmethod
    def unchanged(cls, experts: Iterable[int]) -> TensorSums:
        """Those of experts that all share the base's tensor."""
        listed = tuple(experts)
        zeros: Counts = [[0] * len(listed) for _ in listed]
        return cls(listed, [[0.0] * len(listed) for _ in listed], zeros, zeros)


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


def sum_tensor(
    tensor: TensorInput, area: Area, reader: Reader, parents: bool, stop: threading.Event
) -> TensorSums:
    """All sums of one tensor; ``parents``: those with the base too."""
    area.clear()
    changed = tensor.changed
    base = _Operand(tensor.base, area, reader)
    experts = [_Operand(source, area, reader) for source in changed.values()]
    width = len(experts) + parents
    products = [0.0] * (width * width)
    counts = [0] * (2 * len(experts) ** 2)
    flags = 0
    for begin in range(0, tensor.numel, area.tile):
        if stop.is_set():
            raise InterruptedError("stopped")
        n = min(area.tile, tensor.numel - begin)
        origin = base.read(begin, n)
        others = [expert.read(begin, n, base) for expert in experts]
        found, products, counts = compare(origin, others, parents, products, counts, n)
        flags |= found
    names = [BASE, *changed]
    nonfinite = frozenset(name for i, name in enumerate(names) if flags >> i & 1)
    return _spread(tensor, tuple(changed), products, counts, parents, nonfinite)


def _spread(
    tensor: TensorInput,
    changed: tuple[int, ...],
    products: Sequence[float],
    counts: Sequence[int],
    parents: bool,
    nonfinite: frozenset[int],
) -> TensorSums:
    """The sums of the changed experts among those of all, whose task vectors are zero."""
    experts = tuple(tensor.experts)
    result = TensorSums.unchanged(experts)
    both, opposite = ([list(row) for row in result.both] for _ in range(2))
    at = [experts.index(number) for number in changed]
    width = len(changed) + parents
    for i, row in enumerate(at):
        for j, column in enumerate(at):
            low, high = sorted((i, j))
            result.gram[row][column] = products[(low + parents) * width + high + parents]
            pair = 2 * (low * len(changed) + high)
            both[row][column], opposite[row][column] = counts[pair : pair + 2]
    base: tuple[float, ...] = ()
    if parents:
        inner = dict(zip(at, products[1:width], strict=True))
        base = products[0], *(inner.get(i, 0.0) for i in range(len(experts)))
    return TensorSums(experts, result.gram, both, opposite, base, nonfinite)


class _Operand:
    """The values of one source, tile by tile, with its adapter's delta added in float32."""

    def __init__(self, source: Source, area: Area, reader: Reader) -> None:
        self.source, self._reader = source, reader
        size = SIZES[source.info.dtype]
        self._stored = area.take(size * area.tile)
        self._factors: tuple[Factor, Factor] | None = None
        if source.lora:
            self._made = area.take(4 * area.tile)
            turned = source.lora.transposed
            a, b = (_factor(side, area, reader, turned) for side in (source.lora.a, source.lora.b))
            self._factors = (b, a) if turned else (a, b)
        self._last: Buffer | None = None

    def read(self, begin: int, n: int, base: _Operand | None = None) -> Buffer:
        """Elements [begin, begin + n); what ``base`` has read of the same bytes is used again."""
        source, size = self.source, SIZES[self.source.info.dtype]
        shared = base is not None and (
            (base.source.info.path, base.source.info.offset)
            == (source.info.path, source.info.offset)
        )
        if shared and base is not None and base._last is not None:
            stored = base._last
        else:
            address, view = self._stored
            stored = Buffer(address, view[: n * size], source.info.dtype, source.info.dtype)
            self._reader.read_into(source.info, begin * size, stored.view)
        self._last = stored
        if source.lora is None or self._factors is None:
            return stored
        address, view = self._made
        low_rank(
            stored, *self._factors, source.lora.rank, source.info.shape[-1], source.lora.scale,
            begin, n, address, 1,
        )  # fmt: skip
        return Buffer(address, view[: 4 * n], "F32", "F32")


def _factor(info: TensorInfo, area: Area, reader: Reader, transposed: bool) -> Factor:
    """One side of an adapter in float32."""
    raw_address, raw = area.take(info.nbytes)
    reader.read_into(info, 0, raw)
    address, _ = area.take(4 * info.numel)
    to_float32(Buffer(raw_address, raw, info.dtype, info.dtype), address, info.numel)
    if transposed:
        transpose(address, *info.shape)
    return address, info.numel
