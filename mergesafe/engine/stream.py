"""Runs a plan: worker threads that read, compute and write, over one arena of reused memory.

Each worker takes the next piece of work, so that one reads while another computes and a third
writes. Reads, kernels and writes release the interpreter lock. Tasks that need no statistics are
cut into cache-sized tiles which any worker may take; the others are one piece each.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass

from mergesafe.checkpoint.digest import BLOCK, add, digest_of
from mergesafe.checkpoint.output import OutputFolder
from mergesafe.checkpoint.reader import Reader
from mergesafe.dtypes import SIZES
from mergesafe.engine.journal import Journal, Statistics, Tile
from mergesafe.engine.kernels import (
    Kernels,
)
from mergesafe.engine.layout import CPU_SIZES, DEVICE_SIZES, Layout, bytes_read, task_layout
from mergesafe.engine.manifest import OUTPUT, Digests
from mergesafe.engine.memory import Arena
from mergesafe.engine.nonfinite import NonFinite
from mergesafe.engine.plan import MergePlan, TensorTask, run_merge
from mergesafe.engine.resume import gaps
from mergesafe.engine.sources import Source
from mergesafe.engine.task_run import TaskRun
from mergesafe.engine.trace import Lap, Trace, no_lap
from mergesafe.errors import CheckpointError
from mergesafe.methods.spec import Combine

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

    layouts: dict[str, Layout]
    arena: int
    workers: int
    bytes_read: int

    @property
    def kernel_threads(self) -> int:
        """Threads of the kernels of the tensor that leaves least room for others."""
        return max((layout.threads for layout in self.layouts.values()), default=1)


def schedule(plan: MergePlan, options: Options) -> Schedule:
    """Fit the plan into the budget: what is resident, how many workers, how large an arena.

    Raises:
        ArgumentError: the budget is too small for one of the tensors.
    """
    device = options.lanes > 0
    budget = min(options.memory, options.slab) if device else options.memory
    threads, sizes = (1, DEVICE_SIZES) if device else (options.threads, CPU_SIZES)
    layouts = {
        task.name: task_layout(task, budget, threads, sizes, selects=options.selects)
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
    return Schedule(layouts, arena, workers, read)


def is_cut(task: TensorTask) -> bool:
    """Whether any worker may take any tile of the task: it needs no statistics and no adapter."""
    return not (task.copied or task.statistics or task.low_rank_bytes)


@dataclass(frozen=True)
class _Piece:
    """Work for one worker: a whole task, or elements [begin, begin + count) of a simple one."""

    number: int
    combine: Combine | None
    begin: int
    count: int


class Stream:
    """Executes a plan into an open output folder."""

    def __init__(
        self,
        plan: MergePlan,
        planned: Schedule,
        options: Options,
        kernels: Callable[[int], Kernels],
        reader: Reader,
        folder: OutputFolder,
        progress: Callable[[int], None] | None = None,
        *,
        journal: Journal,
        trace: Trace | None = None,
    ) -> None:
        self.plan, self.schedule, self.options = plan, planned, options
        self.kernels, self.reader, self.folder = kernels, reader, folder
        self.progress = progress
        self.digests = Digests()
        self.nonfinite = NonFinite(options.on_nonfinite, reader)
        self.journal = journal
        self.trace = trace
        #: Bytes of the output that are finished, by this run and earlier ones.
        self.bytes_done = 0
        self._tiles: dict[int, list[Tile]] = {}
        self._statistics: dict[int, Statistics] = {}
        self.arena = Arena(planned.arena)
        self._lock = threading.Lock()
        self._reports = threading.Lock()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._pieces = self._work()
        self._ahead = 0
        self._ahead_bytes = 0

    def skip(self, tiles: dict[int, list[Tile]], statistics: dict[int, Statistics]) -> None:
        """Take over what an earlier run finished, by task: tiles disjoint and in order."""
        self._tiles, self._statistics = tiles, statistics
        for number, known in statistics.items():
            self.nonfinite.check(self.plan.tasks[number], known.nonfinite, False)
        for tile in (tile for finished in tiles.values() for tile in finished):
            task = self.plan.tasks[tile.task]
            self.nonfinite.check(task, tile.nonfinite, tile.overflow)
            self._count(tile)
            sizes = [SIZES[source.info.dtype] for source in task.sources]
            self._advance(tile.count * (sum(sizes) + SIZES[task.out_dtype]))

    def run(self) -> None:
        """Run all work; the first error of any worker is raised here, after all have stopped."""
        done = [threading.Event() for _ in range(self.schedule.workers)]
        workers = [
            threading.Thread(target=self._worker, args=(event,), name=f"merge-{i}", daemon=True)
            for i, event in enumerate(done)
        ]
        try:
            for worker in workers:
                worker.start()
            # Not Thread.join: interrupted in it, Python 3.11 takes a running thread for stopped.
            for event in done:
                while not event.wait(SYNC_SECONDS):
                    self._sync()
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

    def _abort(self) -> None:
        self._stop.set()
        self.arena.close()

    def _worker(self, done: threading.Event) -> None:
        try:
            while not self._stop.is_set():
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
        """Every piece in file order; called under the lock."""
        for index, task in enumerate(self.plan.tasks):
            self._read_ahead(index)
            done = self._tiles.get(index, [])
            if not (done or is_cut(task)):
                yield _Piece(index, None, 0, task.numel)
                continue
            combine = self._combine(index)
            tile = self.schedule.layouts[task.name].tile if is_cut(task) else task.numel
            for gap, length in gaps(done, task.numel):
                for begin in range(gap, gap + length, tile):
                    yield _Piece(index, combine, begin, min(tile, gap + length - begin))

    def _combine(self, index: int) -> Combine | None:
        """The combination where it needs no further statistics; None for what is copied."""
        task = self.plan.tasks[index]
        if task.copied:
            return None
        known = self._statistics.get(index)
        answers = iter(known.answers if known is not None else ())
        merge = self.plan.recipe.method.merge(task.context, task.settings)
        return run_merge(merge, lambda request: next(answers))

    def _read_ahead(self, index: int) -> None:
        tasks = self.plan.tasks
        if index:
            self._ahead_bytes -= tasks[index - 1].stored_bytes
        while self._ahead < len(tasks) and (self._ahead <= index or self._ahead_bytes < READ_AHEAD):
            task = tasks[self._ahead]
            self._ahead += 1
            self._ahead_bytes += task.stored_bytes
            if self._ahead > 1:  # the first is about to be read anyway
                for source in task.sources:
                    self.reader.advise(source.info)

    def _execute(self, piece: _Piece) -> None:
        task = self.plan.tasks[piece.number]
        lap = self._laps(task.name)
        if task.copied:
            self._copy(piece.number, task, lap)
            return
        layout = self.schedule.layouts[task.name]
        lap("schedule", piece.begin, 0)
        memory = self.arena.acquire(layout.nbytes)
        lap("memory", piece.begin, layout.nbytes)
        if memory is None:
            return
        try:
            TaskRun(
                task, self.plan.recipe.method, self.kernels(layout.threads), self.reader, layout,
                memory, check=self.nonfinite.check, advance=self._advance, write=self._write,
                finished=self._finished, number=piece.number, lap=lap,
            ).run(piece.begin, piece.count, piece.combine)  # fmt: skip
        finally:
            memory.release()

    def _laps(self, tensor: str) -> Lap:
        return no_lap if self.trace is None else self.trace.laps(tensor)

    def _copy(self, number: int, task: TensorTask, lap: Lap) -> None:
        """Integer tensors: equal in every input, copied byte for byte."""
        first, *others = task.sources
        total = 0
        lap("schedule", 0, 0)
        for begin in range(0, first.info.nbytes, _COPY_BYTES):
            size = min(_COPY_BYTES, first.info.nbytes - begin)
            element = begin // SIZES[first.info.dtype]
            piece = self._bytes(first, begin, size)
            for other in others:
                if self._bytes(other, begin, size) != piece:
                    raise CheckpointError(
                        f"integer tensor '{task.name}' differs between {first.info.path} and "
                        f"{other.info.path}; integers cannot be merged, so all models must agree."
                    )
            lap("read", element, size * len(task.sources))
            total = add(total, digest_of(piece, begin // BLOCK))
            lap("digest", element, size)
            self._write(task, begin, memoryview(piece))
            lap("write", element, size)
            self._advance(size * (1 + len(task.sources)))
        parts = (OUTPUT, *map(str, range(len(task.sources))))  # all equal
        self._finished(Tile(number, 0, task.numel, dict.fromkeys(parts, total)))
        lap("journal", 0, 0)

    def _bytes(self, source: Source, begin: int, size: int) -> bytearray:
        piece = bytearray(size)
        self.reader.read_into(source.info, begin, memoryview(piece))
        return piece

    # --- what pieces report --------------------------------------------------------------------

    def _finished(self, entry: Tile | Statistics) -> None:
        with self._reports:
            self.journal.append(entry)
            if isinstance(entry, Tile):
                self._count(entry)

    def _count(self, tile: Tile) -> None:
        task = self.plan.tasks[tile.task]
        self.bytes_done += tile.count * SIZES[task.out_dtype]
        for part, digest in tile.digests.items():
            self.digests.add(task, part, digest)

    def _sync(self) -> None:
        """First the tiles, then the journal that tells of them."""
        lap = self._laps("")
        lap("wait", 0, 0)
        self.folder.sync()
        with self._reports:
            self.journal.sync()
        lap("sync", 0, 0)

    def _advance(self, nbytes: int) -> None:
        if self._stop.is_set():
            raise InterruptedError("stopped")
        if self.progress is not None:
            self.progress(nbytes)

    def _write(self, task: TensorTask, begin: int, data: memoryview) -> None:
        placement = self.plan.placement(task)
        self.folder.pwrite(placement.shard, placement.offset + begin, data)
