"""What methods ask about all tensors of a merge together, found before the first is merged.

The k-th largest magnitude of a task vector is selected in one pass over everything that the plan
merges, guided by a sample; or found from two counts: of the high 16 bits of all magnitudes, then of
the low 15 bits of those that begin like it. Every k of an expert is found from one count of the
first kind, and those that begin alike from one of the second. Both are exact, and threads and tiles
change nothing.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from operator import add
from threading import Event, Lock
from typing import Any, Final, TypeVar

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.views.view import OpenView, Room
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.tasks import Rank, TensorTask
from mergesafe.engine.plan.tiling import BLOCK, SAMPLE_RUN, SMALL_TILE
from mergesafe.engine.run.devices import choose
from mergesafe.engine.run.kernels import Buffer, Kernels, flagged
from mergesafe.engine.run.lowest_tensors import compared_bytes, with_lowest
from mergesafe.engine.run.model_sample import ModelSample, model_sample
from mergesafe.engine.run.nonfinite import NonFinite
from mergesafe.methods.statistics import bin_of
from mergesafe.native import extension

T = TypeVar("T")

#: One count: 65,536 numbers of eight bytes.
_COUNT_BYTES: Final = 8 * extension.histogram_bins


def before_bytes(tasks: Iterable[TensorTask], memory: int, threads: int) -> int:
    """Bytes that are read before the first tensor is merged."""
    tasks = list(tasks)
    counted, ranks = 0, _ranks_of(tasks)
    if ranks:
        merged = _merged(tasks)
        sample = model_sample(merged, len(ranks), memory, threads)
        members = [source.view for task in merged for source in task.members]
        counted = (1 if sample else 2) * sum(view.stored_bytes for view in members)
        if sample:
            each = (sum(s.view.bytes_needed(0, 1) for s in task.members) for task in merged)
            pairs = zip(each, sample.runs, strict=True)
            counted += SAMPLE_RUN * sum(size * len(runs) for size, runs in pairs)
    return counted + compared_bytes(tasks)


def _ranks_of(tasks: Iterable[TensorTask]) -> tuple[Rank, ...]:
    return tuple(sorted(set().union(*(task.model_ranks for task in tasks))))


def _merged(tasks: Iterable[TensorTask]) -> list[TensorTask]:
    return [task for task in tasks if not task.copied and task.numel]


def with_model_answers(
    plan: MergePlan,
    reader: Reader,
    nonfinite: NonFinite,
    *,
    memory: int,
    threads: int,
    advance: Callable[[int], None] | None = None,
) -> MergePlan:
    """The plan, whose tasks know all that they ask about the whole model.

    Raises:
        as :func:`with_magnitudes` and :func:`mergesafe.engine.run.lowest_tensors.with_lowest`.
    """
    counted = with_magnitudes(
        plan, reader, nonfinite, memory=memory, threads=threads, advance=advance
    )
    return with_lowest(counted, reader, nonfinite, threads=threads, advance=advance)


def with_magnitudes(
    plan: MergePlan,
    reader: Reader,
    nonfinite: NonFinite,
    *,
    memory: int,
    threads: int,
    advance: Callable[[int], None] | None = None,
) -> MergePlan:
    """The plan, whose tasks know what they ask about the whole model; computed on the CPU.

    ``advance``: told of bytes that were read.

    Raises:
        CheckpointError: an input cannot be read.
        NonFiniteError: the rule is ``error`` and an input holds NaN or infinity.
    """
    ranks = _ranks_of(plan.tasks)
    if not ranks:
        return plan
    tasks = _merged(plan.tasks)
    chosen = choose("auto", "cpu", None, zero_nonfinite=nonfinite.rule == "zero")
    count = _Count(tasks, chosen.kernels(1), reader, nonfinite, memory, threads, advance)
    found: dict[Rank, int] = {}
    sample = model_sample(tasks, len(ranks), memory, threads) if chosen.selects else None
    if sample is not None:
        found = count.selected(ranks, sample, chosen.kernels(threads))
        count = replace(count, advance=None)  # what is left was not planned
    left = tuple(rank for rank in ranks if rank not in found)
    if left:
        found |= _counted(left, count)
    answered = tuple(
        replace(task, magnitudes={rank: found[rank] for rank in task.model_ranks})
        if task.model_ranks
        else task
        for task in plan.tasks
    )
    return replace(plan, tasks=answered)


def _counted(ranks: Sequence[Rank], count: _Count) -> dict[Rank, int]:
    """Bits by rank, from two counts."""
    experts = sorted({expert for expert, _ in ranks})
    high = dict(zip(experts, count.totals(experts, []), strict=True))
    begins = {(expert, k): bin_of(high[expert], k) for expert, k in ranks}
    alike = sorted({(expert, prefix) for (expert, _), (prefix, _) in begins.items()})
    totals = count.totals([expert for expert, _ in alike], [prefix for _, prefix in alike])
    low = dict(zip(alike, totals, strict=True))
    return {
        rank: prefix << extension.low_bits | bin_of(low[rank[0], prefix], rest)[0]
        for rank, (prefix, rest) in begins.items()
    }


@dataclass
class _Count:
    """Counts magnitudes of all tasks, one thread a task, largest first."""

    tasks: Sequence[TensorTask]
    kernels: Kernels
    reader: Reader
    nonfinite: NonFinite
    memory: int
    threads: int
    advance: Callable[[int], None] | None
    _stopped: Event = field(default_factory=Event)
    _lock: Lock = field(default_factory=Lock)

    def totals(self, experts: Sequence[int], prefixes: list[int]) -> list[Sequence[int]]:
        """Counts for each of the experts, which may come again: of the high bits of all magnitudes,
        or of the low ones of those that begin with the expert's prefix.
        """
        # Half for tiles: counts of every thread take from the rest.
        room = self.memory // 2
        threads = max(1, min(self.threads, len(self.tasks), room // (_COUNT_BYTES * len(experts))))
        chosen = [0, *(1 + expert for expert in experts)]

        def work(left: Iterator[TensorTask], number: int) -> Any:
            counts = _counts(len(experts))
            for task in self._next_of(left):
                for buffers, n in self._tiles(task, sorted(set(chosen)), room // threads):
                    given = [buffers[index] for index in chosen]
                    flags = self.kernels.histogram(given, prefixes, counts, n)
                    self._check(task, flags, chosen)
            return counts

        total, *others = self._by_threads(threads, work)
        for other in others:
            total[:] = list(map(add, total, other))
        bins = extension.histogram_bins
        return [total[i * bins : (i + 1) * bins] for i in range(len(experts))]

    def selected(
        self, ranks: Sequence[Rank], sample: ModelSample, kernels: Kernels
    ) -> dict[Rank, int]:
        """Bits of those ranks that one pass finds; ``kernels`` have as many threads as this."""
        experts = sorted({expert for expert, _ in ranks})
        chosen = [0, *(1 + expert for expert in experts)]
        size = sample.size * len(ranks)
        # Memory that is not touched takes none: most of it is for what a sample did not foresee.
        storage = mmap.mmap(-1, 4 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        address = ctypes.addressof(ctypes.c_char.from_buffer(storage))
        queries = [(experts.index(expert), k) for expert, k in ranks]
        selection = kernels.selection(queries, sample.elements, sample.sampled, address, size)
        for task, begins in zip(self.tasks, sample.runs, strict=True):
            spans = [(begin, SAMPLE_RUN) for begin in begins]
            for buffers, n in self._read(task, chosen, SAMPLE_RUN, spans):
                selection.sample([buffers[index] for index in chosen], n)
        selection.least()  # the sample is complete
        room = self.memory // 2 // max(1, self.threads)

        def work(left: Iterator[TensorTask], number: int) -> None:
            for task in self._next_of(left):
                for buffers, n in self._tiles(task, chosen, room):
                    flags = selection.add_alone([buffers[index] for index in chosen], n, number)
                    self._check(task, flags, chosen)

        self._by_threads(self.threads, work)
        bits, missed = selection.finish()
        return {rank: bits[i] for i, rank in enumerate(ranks) if i not in missed}

    def _by_threads(self, threads: int, work: Callable[[Iterator[TensorTask], int], T]) -> list[T]:
        """What ``work`` returns on each of the threads, which share the tasks, largest first."""
        left = iter(sorted(self.tasks, key=lambda task: -task.numel))
        with ThreadPoolExecutor(threads, thread_name_prefix="count") as pool:
            jobs = [pool.submit(work, left, number) for number in range(threads)]
            try:
                done = [job.result() for job in jobs]
            finally:
                self._stopped.set()
        self._stopped.clear()
        return done

    def _next_of(self, left: Iterator[TensorTask]) -> Iterator[TensorTask]:
        while not self._stopped.is_set():
            with self._lock:
                task = next(left, None)
            if task is None:
                return
            yield task

    def _check(self, task: TensorTask, flags: int, chosen: Sequence[int]) -> None:
        if flags:
            self.nonfinite.check(task, flagged(flags, chosen), False)

    def _tiles(
        self, task: TensorTask, chosen: Sequence[int], room: int
    ) -> Iterator[tuple[dict[int, Buffer], int]]:
        """Buffers of the chosen sources by their number, and how many elements they hold.

        ``room``: bytes that they take at most.
        """
        sources = task.sources
        each = sum(sources[i].view.bytes_per_element for i in chosen)
        fixed = sum(sources[i].view.fixed_bytes for i in chosen)
        tile = min(SMALL_TILE, task.numel, max(BLOCK, (room - fixed) // each))
        begins = range(0, task.numel, tile)
        yield from self._read(
            task, chosen, tile, ((begin, min(tile, task.numel - begin)) for begin in begins)
        )

    def _read(
        self,
        task: TensorTask,
        chosen: Sequence[int],
        most: int,
        spans: Iterable[tuple[int, int]],
    ) -> Iterator[tuple[dict[int, Buffer], int]]:
        """The same of spans (first element, number) of at most so many elements."""
        sources = task.sources
        views: dict[int, OpenView] = {
            i: sources[i].view.open(Room(self.reader, most)) for i in chosen
        }
        for begin, n in spans:
            if self._stopped.is_set():
                return
            buffers = {}
            for i, opened in views.items():
                view = sources[i].view
                opened.fetch(begin, n)
                address, elements = opened.make(begin, n)
                buffers[i] = Buffer(address, elements, view.dtype, task.cast or view.dtype)
                if self.advance is not None:
                    self.advance(n * view.stored_size)
            yield buffers, n


def _counts(number: int) -> Any:
    return (ctypes.c_int64 * (extension.histogram_bins * number))()
