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

from mergesafe.checkpoint.digest import BLOCK, digest_of
from mergesafe.checkpoint.output import OutputFolder
from mergesafe.checkpoint.reader import Reader
from mergesafe.engine.kernels import (
    Kernels,
)
from mergesafe.engine.layout import Layout, task_layout
from mergesafe.engine.manifest import OUTPUT, Digests
from mergesafe.engine.memory import Arena
from mergesafe.engine.nonfinite import NonFinite
from mergesafe.engine.plan import MergePlan, TensorTask, run_merge
from mergesafe.engine.sources import Source
from mergesafe.engine.task_run import TaskRun
from mergesafe.errors import CheckpointError
from mergesafe.methods.spec import Combine

#: Input bytes that the system is asked to read ahead of the workers.
READ_AHEAD = 256 << 20
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Options:
    """How to run a plan. ``on_nonfinite``: error, warn or zero."""

    memory: int
    threads: int
    on_nonfinite: str = "error"


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
    layouts = {
        task.name: task_layout(task, options.memory, options.threads)
        for task in plan.tasks
        if not task.copied
    }
    pieces = sum(
        -(-task.numel // layouts[task.name].tile) if is_cut(task) else 1 for task in plan.tasks
    )
    workers = max(1, min(options.threads, pieces))
    largest = max((layout.nbytes for layout in layouts.values()), default=_COPY_BYTES)
    arena = min(options.memory, largest * (workers + 1))
    read = 0
    for task in plan.tasks:
        layout = layouts.get(task.name)
        again = layout is not None and bool(task.statistics) and layout.tile < task.numel
        read += task.stored_bytes * (task.passes() if again else 1)
    return Schedule(layouts, arena, workers, read)


def is_cut(task: TensorTask) -> bool:
    """Whether any worker may take any tile of the task: it needs no statistics and no adapter."""
    return not (task.copied or task.statistics or task.low_rank_bytes)


@dataclass(frozen=True)
class _Piece:
    """Work for one worker: a whole task, or elements [begin, begin + count) of a simple one."""

    task: TensorTask
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
    ) -> None:
        self.plan, self.schedule, self.options = plan, planned, options
        self.kernels, self.reader, self.folder = kernels, reader, folder
        self.progress = progress
        self.digests = Digests()
        self.nonfinite = NonFinite(options.on_nonfinite, reader)
        self._arena = Arena(planned.arena)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._error: BaseException | None = None
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
            for worker in workers:
                worker.start()
            # Not Thread.join: interrupted in it, Python 3.11 takes a running thread for stopped.
            for event in done:
                event.wait()
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
        self._arena.close()

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
            if not is_cut(task):
                yield _Piece(task, None, 0, task.numel)
                continue
            merge = self.plan.recipe.method.merge(task.context, task.settings)
            combine = run_merge(merge, None)
            tile = self.schedule.layouts[task.name].tile
            for begin in range(0, task.numel, tile):
                yield _Piece(task, combine, begin, min(tile, task.numel - begin))

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
        task = piece.task
        if task.copied:
            self._copy(task)
            return
        layout = self.schedule.layouts[task.name]
        memory = self._arena.acquire(layout.nbytes)
        if memory is None:
            return
        try:
            TaskRun(
                task, self.plan.recipe.method, self.kernels(layout.threads), self.reader, layout,
                memory, check=self.nonfinite.check, advance=self._advance, write=self._write,
                digests=self.digests,
            ).run(piece.begin, piece.count, piece.combine)  # fmt: skip
        finally:
            memory.release()

    def _copy(self, task: TensorTask) -> None:
        """Integer tensors: equal in every input, copied byte for byte."""
        first, *others = task.sources
        for begin in range(0, first.info.nbytes, _COPY_BYTES):
            size = min(_COPY_BYTES, first.info.nbytes - begin)
            piece = self._bytes(first, begin, size)
            for other in others:
                if self._bytes(other, begin, size) != piece:
                    raise CheckpointError(
                        f"integer tensor '{task.name}' differs between {first.info.path} and "
                        f"{other.info.path}; integers cannot be merged, so all models must agree."
                    )
            digest = digest_of(piece, begin // BLOCK)
            for part in (OUTPUT, *map(str, range(len(task.sources)))):  # all equal
                self.digests.add(task, part, digest)
            self._write(task, begin, memoryview(piece))
            self._advance(size * (1 + len(task.sources)))

    def _bytes(self, source: Source, begin: int, size: int) -> bytearray:
        piece = bytearray(size)
        self.reader.read_into(source.info, begin, memoryview(piece))
        return piece

    # --- what pieces report --------------------------------------------------------------------

    def _advance(self, nbytes: int) -> None:
        if self._stop.is_set():
            raise InterruptedError("stopped")
        if self.progress is not None:
            self.progress(nbytes)

    def _write(self, task: TensorTask, begin: int, data: memoryview) -> None:
        placement = self.plan.placement(task)
        self.folder.pwrite(placement.shard, placement.offset + begin, data)
