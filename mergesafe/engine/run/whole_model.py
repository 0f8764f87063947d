"""What methods ask about all tensors of a merge together, found before the first is merged.

The k-th largest magnitude of a task vector is found from two counts over everything that the plan
merges: of the high 16 bits of all magnitudes, then of the low 15 bits of those that begin like it.
Every k of an expert is found from one count of the first kind, and those that begin alike from one
of the second. Counts are sums of integers, so that threads and tiles change nothing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from operator import add
from threading import Event, Lock
from typing import Any, Final

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.views.view import OpenView, Room
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.plan.tiling import BLOCK, SMALL_TILE
from mergesafe.engine.run.devices import choose
from mergesafe.engine.run.kernels import Buffer, Kernels, flagged
from mergesafe.engine.run.lowest_tensors import compared_bytes, with_lowest
from mergesafe.engine.run.nonfinite import NonFinite
from mergesafe.methods.statistics import bin_of
from mergesafe.native import extension

#: How often everything is read.
_PASSES: Final = 2
#: One count: 65,536 numbers of eight bytes.
_COUNT_BYTES: Final = 8 * extension.histogram_bins


def before_bytes(tasks: Iterable[TensorTask]) -> int:
    """Bytes that are read before the first tensor is merged."""
    tasks = list(tasks)
    counted = 0
    if any(task.model_ranks for task in tasks):
        members = (s for task in tasks if not task.copied for s in task.members)
        counted = sum(source.view.stored_bytes for source in members)
    return _PASSES * counted + compared_bytes(tasks)


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
    ranks = tuple(sorted(set().union(*(task.model_ranks for task in plan.tasks))))
    if not ranks:
        return plan
    tasks = [task for task in plan.tasks if not task.copied and task.numel]
    kernels = choose("auto", "cpu", None, zero_nonfinite=nonfinite.rule == "zero").kernels(1)
    count = _Count(tasks, kernels, reader, nonfinite, memory, threads, advance)
    experts = sorted({expert for expert, _ in ranks})
    high = dict(zip(experts, count.totals(experts, []), strict=True))
    begins = {(expert, k): bin_of(high[expert], k) for expert, k in ranks}
    alike = sorted({(expert, prefix) for (expert, _), (prefix, _) in begins.items()})
    totals = count.totals([expert for expert, _ in alike], [prefix for _, prefix in alike])
    low = dict(zip(alike, totals, strict=True))
    found = {
        rank: prefix << extension.low_bits | bin_of(low[rank[0], prefix], rest)[0]
        for rank, (prefix, rest) in begins.items()
    }
    answered = tuple(
        replace(task, magnitudes={rank: found[rank] for rank in task.model_ranks})
        if task.model_ranks
        else task
        for task in plan.tasks
    )
    return replace(plan, tasks=answered)


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
        left = iter(sorted(self.tasks, key=lambda task: -task.numel))

        def work() -> Any:
            counts = _counts(len(experts))
            while not self._stopped.is_set():
                with self._lock:
                    task = next(left, None)
                if task is None:
                    break
                self._add(task, experts, prefixes, counts, room // threads)
            return counts

        with ThreadPoolExecutor(threads, thread_name_prefix="count") as pool:
            jobs = [pool.submit(work) for _ in range(threads)]
            try:
                total, *others = [job.result() for job in jobs]
            finally:
                self._stopped.set()
        self._stopped.clear()
        for other in others:
            total[:] = list(map(add, total, other))
        bins = extension.histogram_bins
        return [total[i * bins : (i + 1) * bins] for i in range(len(experts))]

    def _add(
        self,
        task: TensorTask,
        experts: Sequence[int],
        prefixes: list[int],
        counts: Any,
        room: int,
    ) -> None:
        chosen = [0, *(1 + expert for expert in experts)]
        for buffers, n in self._tiles(task, sorted(set(chosen)), room):
            given = [buffers[index] for index in chosen]
            flags = self.kernels.histogram(given, prefixes, counts, n)
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
        views: dict[int, OpenView] = {
            i: sources[i].view.open(Room(self.reader, tile)) for i in chosen
        }
        for begin in range(0, task.numel, tile):
            if self._stopped.is_set():
                return
            n = min(tile, task.numel - begin)
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
