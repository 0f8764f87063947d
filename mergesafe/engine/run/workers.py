"""Runs a plan: worker threads that read, compute and write, over one arena of reused memory.

Each worker takes the next piece of work, so that one reads while another computes and a third
writes. Reads, kernels and writes release the interpreter lock. Tasks that need no statistics are
cut into cache-sized tiles which any worker may take; the others are one piece each.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mergesafe.checkpoint.format.digest import BLOCK, add, digest_at
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.views.adapted import convert
from mergesafe.checkpoint.views.view import Room, heap
from mergesafe.dtypes import SIZES
from mergesafe.engine.digests import OUTPUT
from mergesafe.engine.memory import Arena
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.plan.tiling import CPU_SIZES, DEVICE_SIZES, Tiling, bytes_read, task_layout
from mergesafe.engine.resume.entries import Statistics, Tile
from mergesafe.engine.run.answers import known_answer
from mergesafe.engine.run.copied import check_equal
from mergesafe.engine.run.kernels import Kernels
from mergesafe.engine.run.progress import Span
from mergesafe.engine.run.results import RunResults, Work
from mergesafe.engine.run.tensor import TensorMerge
from mergesafe.engine.run.whole_model import before_bytes
from mergesafe.methods.driver import drive, steps
from mergesafe.methods.spec import Combination, Statistic
from mergesafe.system_faults import explained

#: Input bytes that the system is asked to read ahead of the workers.
READ_AHEAD = 256 << 20
_COPY_BYTES = 1 << 20
#: How much work a power cut may cost: finished tiles and the journal are synced this often.
SYNC_SECONDS = 20.0


@dataclass(frozen=True)
class Options:
    """How to run a plan. ``on_nonfinite``: error, warn or zero.

    On devices, ``slab`` is what one of their ``lanes`` workers may take of a device's memory.
    ``selects``: the kernels can select over several tiles in one pass.
    """

    memory: int
    threads: int
    on_nonfinite: str = "error"
    slab: int = 0
    lanes: int = 0
    selects: bool = True


@dataclass(frozen=True)
class Schedule:
    """Memory and thread decisions for a plan under a budget."""

    layouts: dict[str, Tiling]
    arena: int
    workers: int
    bytes_read: int

    @property
    def kernel_threads(self) -> int:
        """Threads of the kernels of the tensor that leaves least room for others."""
        return max((layout.threads for layout in self.layouts.values()), default=1)


def schedule(plan: Work, options: Options) -> Schedule:
    """Fit the work into the budget: what is resident, how many workers, how large an arena.

    Raises:
        ArgumentError: the budget is too small for one of the tensors.
    """
    device = options.lanes > 0
    budget = min(options.memory, options.slab) if device else options.memory
    threads, sizes = (1, DEVICE_SIZES) if device else (options.threads, CPU_SIZES)
    layouts = {
        task.name: task_layout(
            task,
            budget,
            threads,
            sizes,
            selects=options.selects,
            device=device and budget < options.memory,
        )
        for task in plan.tasks
        if not task.copied
    }
    pieces = sum(
        -(-task.numel // layouts[task.name].tile) if is_cut(task) else 1 for task in plan.tasks
    )
    workers = max(1, min(options.lanes if device else options.threads, pieces))
    largest = max((layout.nbytes for layout in layouts.values()), default=_COPY_BYTES)
    arena = min(options.memory, largest * (workers + 1))
    read = sum(
        task.stored_bytes if task.copied else bytes_read(task, layouts[task.name])
        for task in plan.tasks
    )
    before = before_bytes(plan.tasks, options.memory, options.threads)
    return Schedule(layouts, arena, workers, read + before)


def is_cut(task: TensorTask) -> bool:
    """Whether any worker may take any tile: nothing is read or found of the tensor as a whole."""
    return not (task.copied or task.statistics or task.fixed_bytes or task.unit.is_whole)


@dataclass(frozen=True)
class _Piece:
    """Work for one worker: a whole task, or elements [begin, begin + count) of a simple one."""

    number: int
    combine: Combination | None
    begin: int
    count: int


class Workers:
    """Carries out ``spans`` of a plan: reads, merges, and hands the outcome to ``results``.

    ``statistics``: those that are known, by task; a task of which not all is left needs its own.
    """

    def __init__(
        self,
        plan: Work,
        planned: Schedule,
        options: Options,
        kernels: Callable[[int], Kernels],
        reader: Reader,
        results: RunResults,
        *,
        spans: Iterable[Span],
        statistics: Mapping[int, Statistics],
    ) -> None:
        self.plan, self.schedule, self.options = plan, planned, options
        self.kernels, self.reader, self.results = kernels, reader, results
        self.arena = Arena(planned.arena)
        self._statistics = statistics
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._spans = tuple(spans)
        self._pieces = self._work()
        self._ahead = 0
        self._ahead_bytes = 0

    def run(self) -> None:
        """Run all work; the first error of any worker is raised here, after all have stopped."""
        done = [threading.Event() for _ in range(self.schedule.workers)]
        workers = [
            threading.Thread(target=self._worker, args=(event,), name=f"merge-{i}", daemon=True)
            for i, event in enumerate(done)
        ]
        try:
            workers, done = self._start(workers, done)
            # Not Thread.join: interrupted in it, Python 3.11 takes a running thread for stopped.
            for event in done:
                while not event.wait(SYNC_SECONDS):
                    self.results.sync()
        except BaseException:
            self._abort()
            for worker, event in zip(workers, done, strict=True):
                while worker.ident is not None and not event.is_set():
                    with suppress(KeyboardInterrupt):  # we are stopping already
                        event.wait()
            raise
        finally:
            self._pieces.close()
        if self._error is not None:
            raise self._error

    @staticmethod
    def _start(
        workers: list[threading.Thread], done: list[threading.Event]
    ) -> tuple[list[threading.Thread], list[threading.Event]]:
        """Those that could be started: one is enough."""
        for number, worker in enumerate(workers):
            try:
                worker.start()
            except RuntimeError as error:
                if not number:
                    raise explained(error) or error from error
                return workers[:number], done[:number]
        return workers, done

    def _abort(self) -> None:
        self.results.stopped.set()
        self.arena.close()

    def _worker(self, done: threading.Event) -> None:
        try:
            while not self.results.stopped.is_set():
                with self._lock:
                    piece = next(self._pieces, None)
                if piece is None:
                    return
                self._execute(piece)
        except BaseException as error:  # handed to the caller's thread
            with self._lock:
                if self._error is None:
                    self._error = error
            self._abort()
        finally:
            done.set()

    # --- pieces --------------------------------------------------------------------------------

    def _work(self) -> Generator[_Piece, None, None]:
        """Every piece in the order of the spans; called under the lock."""
        for number, span in enumerate(self._spans):
            index, task = span.task, self.plan.tasks[span.task]
            self._read_ahead(number)
            if span.count == task.numel and not is_cut(task):
                yield _Piece(index, None, 0, task.numel)
                continue
            combine = self._combine(index)
            end = span.begin + span.count
            tile = self.schedule.layouts[task.name].tile if is_cut(task) else span.count
            for begin in range(span.begin, end, tile):
                yield _Piece(index, combine, begin, min(tile, end - begin))

    def _combine(self, index: int) -> Combination | None:
        """The combination where it needs no further statistics; None for what is copied."""
        task = self.plan.tasks[index]
        if task.copied:
            return None
        known = self._statistics.get(index)
        answers = iter(known.answers if known is not None else ())
        merge = steps(
            task.method, task.context, task.settings,
            used=task.used, planned=task.planned,
        )  # fmt: skip

        def found(request: Statistic) -> Any:
            if request.about == "model":
                return known_answer(request, task)
            return next(answers)

        return drive(merge, found)

    def _read_ahead(self, number: int) -> None:
        """Called as span ``number`` begins."""
        if number:
            self._ahead_bytes -= self._input_bytes(self._spans[number - 1])
        while self._ahead < len(self._spans) and (
            self._ahead <= number or self._ahead_bytes < READ_AHEAD
        ):
            span = self._spans[self._ahead]
            self._ahead += 1
            self._ahead_bytes += self._input_bytes(span)
            if self._ahead > 1:  # the first is about to be read anyway
                task = self.plan.tasks[span.task]
                for source in task.sources:
                    source.view.advise(self.reader, *task.reach(source, span.begin, span.count))

    def _input_bytes(self, span: Span) -> int:
        task = self.plan.tasks[span.task]
        return sum(
            source.view.bytes_needed(*task.reach(source, span.begin, span.count))
            for source in task.sources
        )

    def _execute(self, piece: _Piece) -> None:
        task = self.plan.tasks[piece.number]
        if task.copied:
            self._copy(piece.number, task)
            return
        layout = self.schedule.layouts[task.name]
        lap = self.results.laps(task.name)
        lap("schedule", piece.begin, 0)
        memory = self.arena.acquire(layout.nbytes)
        lap("memory", piece.begin, layout.nbytes)
        if memory is None:
            return
        try:
            TensorMerge(
                task, piece.number, self.kernels(layout.threads), self.reader, layout, memory,
                self.results, lap,
            ).run(piece.begin, piece.count, piece.combine)  # fmt: skip
        finally:
            memory.release()

    def _copy(self, number: int, task: TensorTask) -> None:
        """Copy byte for byte what one input owns, or integers, which all inputs must agree on.

        Numbers with scales are written without them, in the output's type.
        """
        first = task.sources[0]
        size, out_size = first.view.stored_size, SIZES[task.out_dtype]
        step = min(_COPY_BYTES // max(size, out_size), task.numel)
        views = [source.view.open(Room(self.reader, step)) for source in task.sources]
        rounded = heap(step * out_size) if first.view.made_size else None
        read = written = 0
        lap = self.results.laps(task.name)
        lap("schedule", 0, 0)
        for begin in range(0, task.numel, max(1, step)):
            n = min(step, task.numel - begin)
            (address, piece), *same = [view.fetch(begin, n) for view in views]
            check_equal(task, piece, [found for _, found in same])
            lap("read", begin, n * size * len(views))
            read = add(read, digest_at(address, n * size, begin * size // BLOCK))
            if rounded is not None:
                address, out = rounded
                piece = out[: n * out_size]
                made, _ = views[0].make(begin, n)
                convert(made, first.view.dtype, address, task.out_dtype, n)
            written = add(written, digest_at(address, n * out_size, begin * out_size // BLOCK))
            lap("digest", begin, n * size)
            self.results.write(task, begin * out_size, piece)
            lap("write", begin, n * out_size)
            self.results.advance(n * (size * len(views) + out_size))
        digests = {
            f"{index}.{part}": digest
            for index, view in enumerate(views)
            for part, digest in view.digests.items()
        }
        digests |= dict.fromkeys(map(str, range(len(views))), read)
        self.results.finished(Tile(number, 0, task.numel, {**digests, OUTPUT: written}))
        lap("journal", 0, 0)
