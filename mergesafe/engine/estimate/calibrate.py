"""Rates of a merge, from running the engine for a moment on parts of the recipe's own tensors.

Parts (windows) of tensors all over the inputs go through :class:`TensorMerge`, the code and kernels
of the merge, on as many threads as would work on such tensors at once. The results are written to
memory that is thrown away, which costs what writing to the page cache does.
"""

from __future__ import annotations

import ctypes
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from math import prod
from types import TracebackType
from typing import Final

from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.views.stored import part_of
from mergesafe.checkpoint.views.view import View
from mergesafe.dtypes import SIZES
from mergesafe.engine.estimate.matrices import matrix_seconds
from mergesafe.engine.estimate.probe import BlankReader, SampleReader, places
from mergesafe.engine.estimate.seconds import (
    ONCE,
    REREAD,
    RESIDENT,
    STREAMED,
    WHOLE,
    Rate,
    Rates,
    kind_of,
)
from mergesafe.engine.memory import MAXIMUM_SIZE, Arena, aligned
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.merged_view import merged_views, stored_infos
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.plan.tiling import (
    BLOCK,
    CPU_SIZES,
    Tiling,
    rank_count,
    select_bytes,
    task_layout,
    unit_step,
)
from mergesafe.engine.resume.entries import Statistics, Tile
from mergesafe.engine.run.devices import choose
from mergesafe.engine.run.kernels import Kernels
from mergesafe.engine.run.tensor import TensorMerge
from mergesafe.engine.run.trace import COMPUTING, STEPS, Lap
from mergesafe.engine.run.workers import Options, Schedule
from mergesafe.methods.driver import dry_run
from mergesafe.methods.spec import (
    Merge,
    MergeMethod,
    Settings,
    TensorContext,
    Unit,
    WeightedSum,
)

#: Seconds for windows of all kinds together; the last ones may end later.
SECONDS: Final = 0.15
#: Buffers of one window, and of all that are used at once: more than most caches hold.
WINDOW_BYTES: Final = 32 << 20
TOTAL_BYTES: Final = 256 << 20
#: A thread runs no more windows than this, however small they are.
MAX_WINDOWS: Final = 64
#: Tensors of fewer elements cost what a piece of work costs, whatever their bytes.
SMALL: Final = 1 << 14
#: Windows of one block, which show what a piece of work costs beside its bytes.
SMALL_WINDOWS: Final = 16
#: Parts that a window is cut into where tensors do not fit the budget.
_TILES: Final = 4


def calibrate(plan: MergePlan, planned: Schedule, options: Options) -> Rates:
    """Measure for somewhat more than :data:`SECONDS`.

    Raises:
        CheckpointError: an input cannot be read.
    """
    kernels = choose("auto", "cpu", None, zero_nonfinite=False).kernels
    tasks = [task for task in plan.tasks if task.numel and not task.copied]
    total = sum(task.stored_bytes for task in tasks)
    rates: dict[str, Rate] = {}
    piece = 0.0
    with SampleReader() as reader:
        cached = reader.cached_share(_stored([s.view for t in plan.tasks for s in t.sources]))
        bench = _Bench(plan, planned, options, kernels, reader)
        for kind in (ONCE, RESIDENT, REREAD, STREAMED, WHOLE):
            members = [task for task in tasks if kind_of(task, planned) == kind]
            if members and kind == WHOLE:
                members = [_averaged(task) for task in members]
            if members:
                share = sum(task.stored_bytes for task in members) / total
                rates[kind] = bench.measure(kind, members, SECONDS * share)
        if tasks:
            middle = _small(tasks) or typical(tasks)
            piece = bench.piece(_averaged(middle) if middle.unit.is_whole else middle)
        disk = reader.disk_rate()
        reader.forget_fetched()
    seconds = matrix_seconds([task for task in tasks if task.unit.is_whole], planned)
    return Rates(rates, piece, cached, disk, seconds)


class _Mean(MergeMethod):
    """Reads and writes what another method does, which must not be given a part of a matrix."""

    name = title = "mean"
    paper = ""

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        count = tensor.inputs + tensor.base
        return WeightedSum((1.0 / count,) * count, of="all")


def _averaged(task: TensorTask) -> TensorTask:
    """The mean of the tensors that a task merges, as a task that may be cut.

    Of factors of adapters without a base, which are of two shapes, a copy of the largest.
    """
    members = task.members or (max(task.sources, key=lambda source: source.view.numel),)
    inputs, shape = len(members) - task.context.base, members[0].view.shape
    context = replace(
        task.context, shape=shape, numel=prod(shape), inputs=inputs, calibration=(), references=()
    )
    return replace(
        task, context=context, sources=members, method=_Mean(), settings=Settings(),
        planned=dry_run(_Mean(), context, Settings()), beside=0, references=0, used=None,
        factors=None,
    )  # fmt: skip


def _stored(views: Sequence[View]) -> list[TensorInfo]:
    """The stored tensors that views read, those of intermediates among them."""
    merged = [each for view in views for each in merged_views(view)]
    if not merged:
        return [view.info for view in views]
    inner = [s.view for each in merged for task in each.tasks for s in task.sources]
    return [*(info for view in views for info in stored_infos(view)), *_stored(inner)]


def _is_held(task: TensorTask) -> bool:
    """Whether the task reads an intermediate that is made as a whole, so that a part costs that."""
    return any(each.held for source in task.sources for each in merged_views(source.view))


def _small(tasks: Sequence[TensorTask]) -> TensorTask | None:
    """The smallest task where a part of one costs the whole; None where it does not."""
    return min(tasks, key=lambda task: task.numel) if any(map(_is_held, tasks)) else None


def typical(tasks: Sequence[TensorTask]) -> TensorTask:
    """The task of the middle element, tasks being sorted by size."""
    ordered = sorted(tasks, key=lambda task: task.numel)
    ends = list(accumulate(task.numel for task in ordered))
    return ordered[bisect_right(ends, ends[-1] // 2)]


def window(task: TensorTask, elements: int, place: float) -> TensorTask:
    """About ``elements`` of ``task`` at ``place`` in [0, 1), as a task of its own.

    Whole rows, where an adapter or the method needs them; the whole task where it reads an
    intermediate that is made as a whole.
    """
    if _is_held(task):
        return replace(task, magnitudes=dict.fromkeys(task.model_ranks, 0))
    rows_alone = task.unit is Unit.ROW or any(source.view.lora for source in task.sources)
    columns = task.context.shape[-1] if rows_alone and task.context.shape else 1
    rows = min(task.numel // columns, max(1, elements // columns))
    count = rows * columns
    begin = int(place * (task.numel // columns - rows + 1)) * columns
    shape = (rows, columns) if columns > 1 else (count,)
    sources = [
        replace(s, view=part_of(s.view, begin, shape)) if s.view.numel == task.numel else s
        for s in task.sources
    ]
    context = replace(task.context, shape=shape, numel=count)
    magnitudes = dict.fromkeys(task.model_ranks, 0)  # anything: as much work as with the right ones
    return replace(task, context=context, sources=tuple(sources), magnitudes=magnitudes)


def window_layout(kind: str, part: TensorTask, planned: Tiling) -> Tiling:
    """The layout in which a window is worked on like a tensor of that kind and layout."""
    sizes = CPU_SIZES if kind == REREAD else replace(CPU_SIZES, kept=MAXIMUM_SIZE)
    layout = task_layout(part, MAXIMUM_SIZE, 1, sizes)
    if kind == STREAMED:
        step = unit_step(part)
        tile = max(1, part.numel // _TILES // step) * step
        select = select_bytes(part, planned.threads) if planned.select else 0
        nbytes = layout.nbytes + aligned(select * rank_count(part))
        out_tile = min(tile, layout.out_tile)
        layout = Tiling(tile, out_tile, nbytes, 1, select, row=layout.row)
    return replace(layout, threads=planned.threads)


class _Lane:
    """One thread's buffers, stopwatch, and memory to write to."""

    def __init__(self, nbytes: int) -> None:
        self.seconds = dict.fromkeys(STEPS, 0.0)
        self.elements = self.bytes_out = 0
        self._arena = _touched(nbytes)
        self._out = os.memfd_create("mergesafe-plan")
        self._last = 0.0

    def __enter__(self) -> _Lane:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._out)

    def run(self, bench: _Bench, part: TensorTask, layout: Tiling) -> None:
        """Do with a window what the merge does with a tensor."""
        fetched = all(
            bench.reader.fetch(replace(info, offset=info.offset + first, nbytes=nbytes))
            for source in part.sources
            for info, first, nbytes in source.view.ranges(0, source.view.numel)
        )
        reader = bench.reader if fetched else BlankReader()
        if layout.nbytes > self._arena.size:
            self._arena = _touched(layout.nbytes)
        memory = self._arena.acquire(layout.nbytes)
        assert memory is not None  # only a closed arena says None
        self._last = time.perf_counter()
        TensorMerge(
            part, 0, bench.kernels(layout.threads), reader, layout, memory, self, self._lap
        ).run(0, part.numel, None)  # fmt: skip
        memory.release()
        self.elements += part.numel
        self.bytes_out += part.out_bytes
        os.ftruncate(self._out, 0)

    def _lap(self, step: str, begin: int, nbytes: int) -> None:
        started, self._last = self._last, time.perf_counter()
        self.seconds[step] += self._last - started

    # --- as Results: what is written is dropped after each window, the rest is not looked at ------

    def write(self, task: TensorTask, begin: int, data: memoryview, part: int = 0) -> None:
        os.pwrite(self._out, data, begin)

    def finished(self, entry: Tile | Statistics) -> None: ...

    def check(self, task: TensorTask, inputs: Iterable[int], overflow: bool) -> None: ...

    def advance(self, nbytes: int) -> None: ...

    def laps(self, tensor: str) -> Lap:
        return self._lap


@dataclass(frozen=True)
class _Bench:
    """Runs windows of a plan's tensors."""

    plan: MergePlan
    planned: Schedule
    options: Options
    kernels: Callable[[int], Kernels]
    reader: SampleReader

    def measure(self, kind: str, tasks: Sequence[TensorTask], seconds: float) -> Rate:
        """The rate of ``tasks``, which are all of one kind."""
        middle = typical(tasks)
        if middle.numel < SMALL:
            return Rate(read=float("inf"), compute=0.0, write=float("inf"))
        layout = self.planned.layouts[middle.name]
        lanes = max(1, min(self.planned.workers, self.planned.arena // layout.nbytes))
        room = min(WINDOW_BYTES, TOTAL_BYTES // lanes, self.options.memory // lanes)
        enough = sum(task.numel for task in tasks) / lanes
        self._warm_up(_small(tasks) or middle)
        if any(map(_is_held, tasks)):  # of which each is measured as a whole
            tasks = [middle]

        def work(number: int) -> _Lane:
            with _Lane(room) as lane:
                self.reader.deadline = deadline = time.perf_counter() + seconds
                for part in islice(_windows(tasks, room, number / lanes), MAX_WINDOWS):
                    lane.run(self, part, window_layout(kind, part, layout))
                    if time.perf_counter() > deadline or lane.elements >= enough:
                        break
            return lane

        with ThreadPoolExecutor(lanes) as pool:
            done = list(pool.map(work, range(lanes)))
        spent = {step: sum(lane.seconds[step] for lane in done) for step in STEPS}
        copied, copying = self.reader.take_copied()
        computing = sum(spent[step] for step in COMPUTING) / lanes
        if any(True for task in tasks for s in task.sources for _ in merged_views(s.view)):
            # Intermediates are computed while they are read.
            computing += max(0.0, spent["read"] - copying) / lanes
        return Rate(
            read=_per_second(copied, copying / lanes),
            compute=computing / sum(lane.elements for lane in done),
            write=_per_second(sum(lane.bytes_out for lane in done), spent["write"] / lanes),
        )

    def _warm_up(self, task: TensorTask) -> None:
        """Do once what only the first piece of a merge waits for, such as the import of torch."""
        part = window(task, BLOCK, 0.0)
        layout = task_layout(part, MAXIMUM_SIZE, 1)
        with _Lane(layout.nbytes) as lane:
            lane.run(self, part, layout)
        self.reader.take_copied()

    def piece(self, task: TensorTask) -> float:
        """Seconds of a piece that has hardly any bytes."""
        part = window(task, BLOCK, 0.0)
        layout = task_layout(part, MAXIMUM_SIZE, 1)
        with _Lane(layout.nbytes) as lane:
            lane.run(self, part, layout)  # the first opens files
            started = time.perf_counter()
            for _ in range(SMALL_WINDOWS):
                lane.run(self, part, layout)
        return (time.perf_counter() - started) / SMALL_WINDOWS


def _windows(tasks: Sequence[TensorTask], room: int, first: float) -> Iterator[TensorTask]:
    """Windows that fit ``room`` bytes, spread evenly over the elements of ``tasks``."""
    ends = list(accumulate(task.numel for task in tasks))
    for place in places(first):
        index = bisect_right(ends, int(place * ends[-1]))
        task = tasks[index]
        elements = int(room / (task.bytes_per_element + SIZES[task.made_dtype]))
        within = (place * ends[-1] - ends[index] + task.numel) / task.numel
        yield window(task, elements, min(within, 1 - 1e-9))


def _touched(nbytes: int) -> Arena:
    """An arena whose memory is there already: a merge waits for each page only once."""
    arena = Arena(nbytes)
    ctypes.memset(arena.address, 0, arena.size)
    return arena


def _per_second(amount: float, seconds: float) -> float:
    return amount / seconds if amount and seconds else float("inf")
