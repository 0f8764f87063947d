"""One output tensor: read its inputs, answer the method's statistics, combine, write.

A tensor that fits the slice of memory it was given is read once and stays there. A larger one is
read in tiles, once per pass. Both give the same bytes: selection is exact, reductions run over
fixed blocks in order, and the combination is element-wise.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mergesafe import _native
from mergesafe.checkpoint.reader import Reader
from mergesafe.dtypes import SIZES
from mergesafe.engine.kernels import Buffer, Kernels, low_rank, to_float32
from mergesafe.engine.memory import Slice, aligned
from mergesafe.engine.plan import TensorTask, run_merge
from mergesafe.engine.sources import Source
from mergesafe.methods.spec import DeltaNorms, Gram, KthMagnitude, MergeMethod, Statistic

#: Tiles are whole reduction blocks (csrc/core/reduce.h).
BLOCK = 4096
#: Bytes of one written piece: small enough to stay in a cache between kernel and write.
WRITE_BYTES = 1 << 20


@dataclass(frozen=True)
class Layout:
    """How a task uses memory: elements per tile (all of them when resident) and bytes in all."""

    tile: int
    out_tile: int
    nbytes: int


def task_layout(task: TensorTask, budget: int, threads: int) -> Layout:
    """Keep the tensor resident if it needs statistics and fits ``budget``, else cut tiles.

    Without statistics the inputs are read once anyway, and small tiles stay in the cache.
    """
    out_size = SIZES[task.out_dtype]
    out_tile = min(task.numel, WRITE_BYTES * max(1, threads) // out_size)
    fixed = task.low_rank_bytes + aligned(out_tile * out_size) + 4096 * (2 + 2 * len(task.sources))
    if not task.numel:
        return Layout(1, 1, fixed)
    whole = fixed + aligned(int(task.numel * task.bytes_per_element))
    if task.statistics:
        if whole <= budget:
            return Layout(task.numel, out_tile, whole)
        room = budget // 4
    else:
        room = min(budget, 4 * WRITE_BYTES * max(1, threads))
    tile = int((room - fixed) / task.bytes_per_element) // BLOCK * BLOCK
    tile = min(task.numel, max(BLOCK, tile))
    nbytes = fixed + aligned(int(tile * task.bytes_per_element)) + 4096
    return Layout(tile, min(out_tile, tile), nbytes)


class TaskRun:
    """Executes one task inside a slice of the arena."""

    def __init__(
        self,
        task: TensorTask,
        method: MergeMethod,
        kernels: Kernels,
        reader: Reader,
        layout: Layout,
        memory: Slice,
        *,
        check: Callable[[TensorTask, int], None],
        advance: Callable[[int], None],
        write: Callable[[TensorTask, int, memoryview], None],
        threads: int,
    ) -> None:
        self.task, self.method, self.kernels, self.reader = task, method, kernels, reader
        self.layout, self.memory, self.threads = layout, memory, threads
        self.check, self.advance, self.write = check, advance, write
        self._out = memory.take(layout.out_tile * SIZES[task.out_dtype])
        self._factors = [self._load_factors(s) if s.lora else None for s in task.sources]
        self._areas = [
            (
                memory.take(layout.tile * SIZES[s.info.dtype]),
                memory.take(layout.tile * 4) if s.lora else None,
            )
            for s in task.sources
        ]
        self._resident: list[Buffer] | None = None

    def run(self) -> None:
        merge = self.method.merge(self.task.context, self.task.settings)
        combine = run_merge(merge, self.answer)
        size = SIZES[self.task.out_dtype]
        address, view = self._out
        for begin, count, inputs in self.tiles():
            for at in range(0, count, self.layout.out_tile):
                n = min(self.layout.out_tile, count - at)
                out = Buffer(address, view[: n * size], self.task.out_dtype, self.task.out_dtype)
                parts = [x.part(at, n, SIZES[x.dtype]) for x in inputs]
                flags = self.kernels.combine(parts, combine, out, n, begin + at)
                self.check(self.task, flags)
                self.write(self.task, (begin + at) * size, out.view)
                self.advance(n * size)

    # --- statistics ----------------------------------------------------------------------------

    def answer(self, request: Statistic) -> Any:
        if isinstance(request, KthMagnitude):
            return self._kth(request)
        if isinstance(request, DeltaNorms):
            return self._norms(request)
        return self._gram(request)

    def _kth(self, request: KthMagnitude) -> list[int]:
        if self.layout.tile >= self.task.numel:
            for _, count, inputs in self.tiles():
                flags, answers = self.kernels.kth_magnitude(inputs, request.ranks, count)
                self.check(self.task, flags)
                return answers
        # Radix selection over streamed tiles: the high 16 bits, then the low 15 within those.
        high = self._histogram(request, [])
        prefixes, ranks = [], []
        for counts, (_, k) in zip(high, request.ranks, strict=True):
            prefix, rest = _find(counts, k)
            prefixes.append(prefix)
            ranks.append(rest)
        low = self._histogram(request, prefixes)
        return [
            prefix << _native.low_bits | _find(counts, k)[0]
            for prefix, counts, k in zip(prefixes, low, ranks, strict=True)
        ]

    def _histogram(self, request: KthMagnitude, prefixes: list[int]) -> list[Sequence[int]]:
        bins = _native.histogram_bins
        counts = (ctypes.c_int64 * (bins * len(request.ranks)))()
        for _, count, inputs in self.tiles():
            chosen = [inputs[0], *(inputs[1 + i] for i, _ in request.ranks)]
            flags = self.kernels.histogram(chosen, prefixes, counts, count)
            self.check(self.task, _remap(flags, [0, *(1 + i for i, _ in request.ranks)]))
        return [counts[i * bins : (i + 1) * bins] for i in range(len(request.ranks))]

    def _gram(self, request: Gram) -> list[list[float]]:
        n = len(self.task.sources)
        totals = [0.0] * (n * n)
        for _, count, inputs in self.tiles():
            flags, totals = self.kernels.gram(inputs, totals, count)
            self.check(self.task, flags)
        return [[totals[min(i, j) * n + max(i, j)] for j in range(n)] for i in range(n)]

    def _norms(self, request: DeltaNorms) -> list[tuple[float, float]]:
        n = len(request.sparsify)
        totals = [0.0] * (2 * n)
        for begin, count, inputs in self.tiles():
            flags, totals = self.kernels.delta_norms(inputs, request, totals, count, begin)
            self.check(self.task, flags)
        if request.norm == "l2":
            totals = [math.sqrt(total) for total in totals]
        return [(totals[2 * i], totals[2 * i + 1]) for i in range(n)]

    # --- reading -------------------------------------------------------------------------------

    def tiles(self) -> Iterator[tuple[int, int, list[Buffer]]]:
        """(first element, count, inputs) of every tile, read unless resident already."""
        if self._resident is not None:
            yield 0, self.task.numel, self._resident
            return
        for begin in range(0, self.task.numel, self.layout.tile):
            count = min(self.layout.tile, self.task.numel - begin)
            inputs = [
                self._read(i, source, begin, count) for i, source in enumerate(self.task.sources)
            ]
            if count == self.task.numel:
                self._resident = inputs
            yield begin, count, inputs

    def _read(self, index: int, source: Source, begin: int, count: int) -> Buffer:
        (address, view), made = self._areas[index]
        size = SIZES[source.info.dtype]
        stored = view[: count * size]
        self.reader.read_into(source.info, begin * size, stored)
        self.advance(count * size)
        cast = self.task.cast or source.info.dtype
        buffer = Buffer(address, stored, source.info.dtype, cast)
        if source.lora is None or made is None:
            return buffer
        factors = self._factors[index]
        assert factors is not None  # made together with the areas
        low_rank(
            buffer, *factors, source.lora.rank, source.info.shape[-1], source.lora.scale, begin,
            count, made[0], self.threads,
        )  # fmt: skip
        return Buffer(made[0], made[1][: count * 4], "F32", self.task.cast or "F32")

    def _load_factors(self, source: Source) -> tuple[int, int]:
        """Addresses of A and B in float32."""
        assert source.lora is not None  # only called for adapted tensors
        addresses = []
        for info in (source.lora.a, source.lora.b):
            raw = bytearray(info.nbytes)
            self.reader.read_into(info, 0, memoryview(raw))
            pointer = ctypes.addressof(ctypes.c_char.from_buffer(raw))
            address, _ = self.memory.take(4 * info.numel)
            stored = Buffer(pointer, memoryview(raw), info.dtype, info.dtype)
            to_float32(stored, address, info.numel)
            addresses.append(address)
        return addresses[0], addresses[1]


def _find(counts: Sequence[int], k: int) -> tuple[int, int]:
    """The bin of the k-th largest, and k within that bin."""
    for index in range(len(counts) - 1, -1, -1):
        if k <= counts[index]:
            return index, k
        k -= counts[index]
    raise AssertionError("rank beyond the number of elements")


def _remap(flags: int, inputs: Sequence[int]) -> int:
    """Flags of a list of chosen inputs as flags of the task's inputs."""
    return sum({1 << index for i, index in enumerate(inputs) if flags >> i & 1})
