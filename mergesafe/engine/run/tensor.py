"""One output tensor: read its inputs, answer the method's statistics, combine, write.

A tensor that fits the slice of memory it was given is read once and stays there. A larger one is
read in tiles, once per pass. Both give the same bytes: selection is exact, reductions run over
fixed blocks in order, and the combination is element-wise.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mergesafe.checkpoint.digest import BLOCK, add, digest_at, digest_of
from mergesafe.checkpoint.reader import Reader
from mergesafe.dtypes import SIZES
from mergesafe.engine.manifest import OUTPUT
from mergesafe.engine.memory import Slice
from mergesafe.engine.plan.merge_plan import TensorTask
from mergesafe.engine.plan.tiling import SAMPLE_RUN, Layout, rank_count, sample_positions
from mergesafe.engine.resume.journal import Statistics, Tile
from mergesafe.engine.run.kernels import (
    OUTPUT_FLAG,
    SHARED_FLAG,
    Buffer,
    Factor,
    Kernels,
    low_rank,
    to_float32,
    transpose,
)
from mergesafe.engine.run.trace import Lap, no_lap
from mergesafe.methods.driver import drive, steps
from mergesafe.methods.spec import (
    Combine,
    DeltaNorms,
    Gram,
    KthMagnitude,
    Statistic,
    WeightedSum,
)
from mergesafe.native import extension
from mergesafe.outline.sources import Source


class TensorMerge:
    """Executes one task inside a slice of the arena."""

    def __init__(
        self,
        task: TensorTask,
        kernels: Kernels,
        reader: Reader,
        layout: Layout,
        memory: Slice,
        *,
        check: Callable[[TensorTask, Iterable[int], bool], None],
        advance: Callable[[int], None],
        write: Callable[[TensorTask, int, memoryview], None],
        finished: Callable[[Tile | Statistics], None],
        number: int,
        lap: Lap = no_lap,
    ) -> None:
        self.task, self.kernels, self.reader = task, kernels, reader
        self.layout, self.memory = layout, memory
        self.report, self.advance, self.write = check, advance, write
        self.finished, self.number = finished, number
        self.lap = lap
        self._digests: dict[str, int] = {}
        self._factor_digests: dict[str, int] = {}
        self._nonfinite: set[int] = set()
        self._overflow = False
        self._out = memory.take(layout.out_tile * SIZES[task.out_dtype])
        self._factors = [
            self._load_factors(i, s) if s.lora else None for i, s in enumerate(task.sources)
        ]
        self._areas = [
            (
                memory.take(layout.tile * SIZES[s.info.dtype]),
                memory.take(layout.tile * 4) if s.lora else None,
            )
            for s in task.sources
        ]
        self._storage = memory.take(layout.select * rank_count(task))[0] if layout.select else 0
        self._resident: list[Buffer] | None = None
        self._planned = True  # whether reading counts as progress
        self._span = 0, task.numel
        #: The method's inputs among the sources: a separate base comes before them.
        alone = task.method.base != "required" or len(task.sources) == 1
        self._own = range(0 if alone else 1, len(task.sources))

    def run(self, begin: int, count: int, combine: Combine | None) -> None:
        """Elements [begin, begin + count); the whole tensor where ``combine`` is to be found."""
        self._span = begin, begin + count
        if combine is None:
            combine = self._statistics()
        size = SIZES[self.task.out_dtype]
        address, view = self._out
        chosen = self._own if isinstance(combine, WeightedSum) else range(len(self.task.sources))
        for begin, count, inputs in self.tiles():
            self._begin_tile(begin)
            for at in range(0, count, self.layout.out_tile):
                n = min(self.layout.out_tile, count - at)
                out = Buffer(address, view[: n * size], self.task.out_dtype, self.task.out_dtype)
                parts = [inputs[i].part(at, n, SIZES[inputs[i].dtype]) for i in chosen]
                flags = self.kernels.combine(parts, combine, out, n, begin + at)
                self.lap("combine", begin + at, n * size)
                self.check(flags, chosen)
                self._digest(begin, at, n, address)
                self.lap("digest", begin + at, n * size)
                self.write(self.task, (begin + at) * size, out.view)
                self.lap("write", begin + at, n * size)
                self.advance(n * size)
            self.finished(
                Tile(
                    self.number, begin, count, self._digests, tuple(sorted(self._nonfinite)),
                    self._overflow,
                )
            )  # fmt: skip
            self.lap("journal", begin, 0)

    def _begin_tile(self, begin: int) -> None:
        # The factors of adapters belong to no tile: they are counted with the first.
        self._digests = {} if begin else dict(self._factor_digests)
        self._nonfinite, self._overflow = set(), False

    def _statistics(self) -> Combine:
        """The method's combination, from statistics of the whole tensor."""
        answers: list[Any] = []

        def answer(request: Statistic) -> Any:
            answers.append(self.answer(request))
            return answers[-1]

        merge = steps(
            self.task.method, self.task.context, self.task.settings,
            used=self.task.used, planned=self.task.statistics,
        )  # fmt: skip
        combine = drive(merge, answer)
        if answers and self.layout.tile < self.task.numel:  # else it is done again as one tile
            found = tuple(sorted(self._nonfinite))
            self.finished(Statistics(self.number, tuple(answers), found))
        return combine

    def _digest(self, tile: int, at: int, n: int, out: int) -> None:
        """Add elements [tile + at, tile + at + n), which are in the cache just now."""
        for index, source in enumerate(self.task.sources):
            size = SIZES[source.info.dtype]
            stored = self._areas[index][0][0] + at * size
            block = (self.task.begin + tile + at) * size // BLOCK
            self._add(str(index), digest_at(stored, n * size, block))
        size = SIZES[self.task.out_dtype]
        block = (self.task.begin + tile + at) * size // BLOCK
        self._add(OUTPUT, digest_at(out, n * size, block))

    def _add(self, part: str, digest: int) -> None:
        self._digests[part] = add(self._digests.get(part, 0), digest)

    def check(self, flags: int, inputs: Sequence[int] | None = None) -> None:
        """Report a kernel's flags; ``inputs`` says which of the task's inputs it was given."""
        if flags:
            given = range(len(self.task.sources)) if inputs is None else inputs
            found = {index for i, index in enumerate(given) if flags >> min(i, SHARED_FLAG) & 1}
            self._nonfinite |= found
            self._overflow |= bool(flags & OUTPUT_FLAG)
            self.report(self.task, found, bool(flags & OUTPUT_FLAG))

    # --- statistics ----------------------------------------------------------------------------

    def answer(self, request: Statistic) -> Any:
        if isinstance(request, KthMagnitude):
            return self._kth(request)
        if isinstance(request, DeltaNorms):
            return self._norms(request)
        return self._gram(request)

    def _kth(self, request: KthMagnitude) -> list[int]:
        """Each rank once, by expert, as kernels want them; then as they were asked for."""
        ascending = tuple(sorted(set(request.ranks)))
        found = dict(zip(ascending, self._ascending(KthMagnitude(ascending)), strict=True))
        return [found[rank] for rank in request.ranks]

    def _ascending(self, request: KthMagnitude) -> list[int]:
        if self.layout.tile >= self.task.numel:
            for _, count, inputs in self.tiles():
                flags, answers = self.kernels.kth_magnitude(inputs, request.ranks, count)
                self.lap("statistics", 0, _bytes(inputs))
                self.check(flags)
                return answers
        if not self._storage:
            return self._radix(request)
        answers, missed = self._select(request)
        if missed:  # unplanned reading
            self._planned = False
            again = self._radix(KthMagnitude(tuple(request.ranks[i] for i in missed)))
            self._planned = True
            for i, bits in zip(missed, again, strict=True):
                answers[i] = bits
        return answers

    def _select(self, request: KthMagnitude) -> tuple[list[int], list[int]]:
        """Sample, then one pass; answers by rank, and which ranks have none."""
        positions = sample_positions(self.task.numel)
        selection = self.kernels.selection(
            request.ranks,
            self.task.numel,
            len(positions) * SAMPLE_RUN,
            self._storage,
            self.layout.select // 4 * len(request.ranks),
        )
        for begin in positions:
            selection.sample(self._inputs(begin, SAMPLE_RUN), SAMPLE_RUN)
            self.lap("statistics", begin, 0)
        for begin, count, inputs in self.tiles():
            self.check(selection.add(inputs, count))
            self.lap("statistics", begin, _bytes(inputs))
        found = selection.finish()
        self.lap("statistics", 0, 0)
        return found

    def _radix(self, request: KthMagnitude) -> list[int]:
        """Histograms over streamed tiles: the high 16 bits, then the low 15 within those."""
        high = self._histogram(request, [], [k for _, k in request.ranks])
        prefixes = [prefix for prefix, _ in high]
        low = self._histogram(request, prefixes, [rest for _, rest in high])
        return [p << extension.low_bits | bits for p, (bits, _) in zip(prefixes, low, strict=True)]

    def _histogram(
        self, request: KthMagnitude, prefixes: list[int], ranks: Sequence[int]
    ) -> list[tuple[int, int]]:
        """The bin of each rank, and the rank within that bin, in one pass over the tensor."""
        bins = extension.histogram_bins
        counts = (ctypes.c_int64 * (bins * len(ranks)))()
        chosen = [0, *(1 + i for i, _ in request.ranks)]
        for begin, count, inputs in self.tiles():
            flags = self.kernels.histogram([inputs[i] for i in chosen], prefixes, counts, count)
            self.lap("statistics", begin, _bytes(inputs))
            self.check(flags, chosen)
        return [_find(counts[i * bins : (i + 1) * bins], k) for i, k in enumerate(ranks)]

    def _gram(self, request: Gram) -> list[list[float]]:
        n = len(self._own)
        totals = [0.0] * (n * n)
        for begin, count, inputs in self.tiles():
            flags, totals = self.kernels.gram([inputs[i] for i in self._own], totals, count)
            self.lap("statistics", begin, _bytes(inputs))
            self.check(flags, self._own)
        return [[totals[min(i, j) * n + max(i, j)] for j in range(n)] for i in range(n)]

    def _norms(self, request: DeltaNorms) -> list[tuple[float, float]]:
        n = len(request.sparsify)
        totals = [0.0] * (2 * n)
        for begin, count, inputs in self.tiles():
            flags, totals = self.kernels.delta_norms(inputs, request, totals, count, begin)
            self.lap("statistics", begin, _bytes(inputs))
            self.check(flags)
        if request.norm == "l2":
            totals = [math.sqrt(total) for total in totals]
        return [(totals[2 * i], totals[2 * i + 1]) for i in range(n)]

    # --- reading -------------------------------------------------------------------------------

    def tiles(self) -> Iterator[tuple[int, int, list[Buffer]]]:
        """(first element, count, inputs) of every tile, read unless resident already."""
        if self._resident is not None:
            yield 0, self.task.numel, self._resident
            return
        for begin in range(*self._span, self.layout.tile):
            count = min(self.layout.tile, self._span[1] - begin)
            inputs = self._inputs(begin, count)
            if count == self.task.numel:
                self._resident = inputs
            yield begin, count, inputs

    def _inputs(self, begin: int, count: int) -> list[Buffer]:
        return [self._read(i, source, begin, count) for i, source in enumerate(self.task.sources)]

    def _read(self, index: int, source: Source, begin: int, count: int) -> Buffer:
        (address, view), made = self._areas[index]
        size = SIZES[source.info.dtype]
        stored = view[: count * size]
        self.reader.read_into(source.info, begin * size, stored)
        self.lap("read", begin, count * size)
        self.advance(count * size if self._planned else 0)
        cast = self.task.cast or source.info.dtype
        buffer = Buffer(address, stored, source.info.dtype, cast)
        if source.lora is None or made is None:
            self.kernels.stage(buffer)
            return buffer
        factors = self._factors[index]
        assert factors is not None  # made together with the areas
        low_rank(
            buffer, *factors, source.lora.rank, source.info.shape[-1], source.lora.scale, begin,
            count, made[0], self.layout.threads,
        )  # fmt: skip
        self.lap("adapter", begin, count * size)
        adapted = Buffer(made[0], made[1][: count * 4], "F32", self.task.cast or "F32")
        self.kernels.stage(adapted)
        return adapted

    def _load_factors(self, index: int, source: Source) -> tuple[Factor, Factor]:
        """A and B in float32; Bᵀ and Aᵀ where the base is stored transposed."""
        assert source.lora is not None  # only called for adapted tensors
        factors = []
        for side, info in (("A", source.lora.a), ("B", source.lora.b)):
            raw = bytearray(info.nbytes)
            self.reader.read_into(info, 0, memoryview(raw))
            self.lap("read", 0, info.nbytes)
            self._factor_digests[f"{index}.{side}"] = digest_of(raw)
            pointer = ctypes.addressof(ctypes.c_char.from_buffer(raw))
            address, _ = self.memory.take(4 * info.numel)
            stored = Buffer(pointer, memoryview(raw), info.dtype, info.dtype)
            to_float32(stored, address, info.numel)
            if source.lora.transposed:
                transpose(address, *info.shape)
            self.lap("adapter", 0, info.nbytes)
            factors.append((address, info.numel))
        a, b = factors
        return (b, a) if source.lora.transposed else (a, b)


def _bytes(inputs: Sequence[Buffer]) -> int:
    return sum(buffer.view.nbytes for buffer in inputs)


def _find(counts: Sequence[int], k: int) -> tuple[int, int]:
    """The bin of the k-th largest, and k within that bin."""
    for index in range(len(counts) - 1, -1, -1):
        if k <= counts[index]:
            return index, k
        k -= counts[index]
    raise AssertionError("rank beyond the number of elements")
