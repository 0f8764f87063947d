"""Runs a plan: worker threads that read, compute and write, over one arena of reused memory.

Each worker takes the next piece of work, so that one reads while another computes and a third
writes. Reads, kernels and writes release the interpreter lock. Tasks that need no statistics are
cut into cache-sized tiles which any worker may take; the others are one piece each.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from mergesafe.checkpoint.output import OutputFolder
from mergesafe.checkpoint.reader import Reader
from mergesafe.dtypes import SIZES
from mergesafe.engine.kernels import (
    OUTPUT_FLAG,
    SHARED_FLAG,
    Buffer,
    Kernels,
    count_nonfinite,
)
from mergesafe.engine.memory import Arena
from mergesafe.engine.plan import MergePlan, TensorTask, run_merge
from mergesafe.engine.sources import Source
from mergesafe.engine.task_run import Layout, TaskRun, task_layout
from mergesafe.errors import CheckpointError, NonFiniteError
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
    kernel_threads: int
    bytes_read: int


def schedule(plan: MergePlan, options: Options) -> Schedule:
    """Fit the plan into the budget: what is resident, how many workers, how large an arena."""
    threads = options.threads
    sized = {t.name: task_layout(t, options.memory, 1) for t in plan.tasks if not t.copied}
    largest = max((layout.nbytes for layout in sized.values()), default=_COPY_BYTES)
    # As many workers as large tensors fit at once; what is left of the threads goes to kernels.
    workers = max(1, min(threads, options.memory // largest))
    kernel_threads = max(1, threads // workers)
    layouts = {
        t.name: task_layout(t, options.memory, kernel_threads) for t in plan.tasks if not t.copied
    }
    largest = max((layout.nbytes for layout in layouts.values()), default=_COPY_BYTES)
    # Idle workers cost nothing, and with more of them one always reads while another computes.
    workers = max(workers, min(threads, len(plan.tasks)), 2)
    arena = min(options.memory, largest * (workers + 1))
    read = 0
    for task in plan.tasks:
        layout = layouts.get(task.name)
        again = layout is not None and bool(task.statistics) and layout.tile < task.numel
        read += task.stored_bytes * (task.passes() if again else 1)
    return Schedule(layouts, max(arena, largest), workers, kernel_threads, read)


@dataclass(frozen=True)
class _Piece:
    """Work for one worker: a whole task, or elements [begin, begin + count) of a simple one."""

    task: TensorTask
    combine: Combine | None = None
    begin: int = 0
    count: int = 0


class Stream:
    """Executes a plan into an open output folder."""

    def __init__(
        self,
        plan: MergePlan,
        planned: Schedule,
        options: Options,
        kernels: Kernels,
        reader: Reader,
        folder: OutputFolder,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.plan, self.schedule, self.options = plan, planned, options
        self.kernels, self.reader, self.folder = kernels, reader, folder
        self.progress = progress
        self.warnings: list[str] = []
        self._arena = Arena(planned.arena)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._pieces = self._work()
        self._flagged: set[tuple[str, int]] = set()
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

    def _work(self) -> Iterator[_Piece]:
        """Every piece in file order; called under the lock."""
        for index, task in enumerate(self.plan.tasks):
            self._read_ahead(index)
            simple = not task.copied and not task.statistics and task.low_rank_bytes == 0
            if not simple:
                yield _Piece(task)
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
            if piece.combine is not None:
                self._tile(piece, layout, memory.take)
            else:
                TaskRun(
                    task, self.plan.recipe.method, self.kernels, self.reader, layout, memory,
                    check=self._check, advance=self._advance, write=self._write,
                    threads=self.schedule.kernel_threads,
                ).run()  # fmt: skip
        finally:
            memory.release()

    def _tile(
        self, piece: _Piece, layout: Layout, take: Callable[[int], tuple[int, memoryview]]
    ) -> None:
        """Read, combine and write one cache-sized tile of a task without statistics."""
        task, count = piece.task, piece.count
        assert piece.combine is not None
        inputs = []
        for source in task.sources:
            size = SIZES[source.info.dtype]
            address, view = take(count * size)
            self.reader.read_into(source.info, piece.begin * size, view)
            dtype = source.info.dtype
            inputs.append(Buffer(address, view, dtype, task.cast or dtype))
            self._advance(count * size)
        size = SIZES[task.out_dtype]
        address, view = take(layout.out_tile * size)
        for at in range(0, count, layout.out_tile):
            n = min(layout.out_tile, count - at)
            out = Buffer(address, view[: n * size], task.out_dtype, task.out_dtype)
            parts = [x.part(at, n, SIZES[x.dtype]) for x in inputs]
            self._check(task, self.kernels.combine(parts, piece.combine, out, n, piece.begin + at))
            self._write(task, (piece.begin + at) * size, out.view)
            self._advance(n * size)

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

    def _check(self, task: TensorTask, flags: int) -> None:
        """Apply ``on_nonfinite`` to the flags of one kernel call."""
        if not flags:
            return
        for index, source in enumerate(task.sources):
            if not flags >> min(index, SHARED_FLAG) & 1:
                continue
            with self._lock:
                known = (task.name, index) in self._flagged
                self._flagged.add((task.name, index))
            if known:
                continue
            count = self._count(task, source)
            if index >= SHARED_FLAG and not count:
                continue  # another input with the same flag
            message = _nonfinite_message(task, source, count)
            if self.options.on_nonfinite == "error":
                raise NonFiniteError(
                    f"{message}. {_remedy(task, source)}, or accept it with --on-nonfinite zero "
                    "(use 0 instead) or --on-nonfinite warn (merge it)."
                )
            done = "replaced by 0" if self.options.on_nonfinite == "zero" else "merged as they are"
            self._warn(f"{message}; {done}")
        inputs_finite = not flags & (OUTPUT_FLAG - 1) or self.options.on_nonfinite == "zero"
        if flags & OUTPUT_FLAG and inputs_finite:
            message = (
                f"tensor '{task.name}': merging finite inputs gave values beyond the range of "
                f"{task.out_dtype}"
            )
            if self.options.on_nonfinite == "error":
                raise NonFiniteError(
                    f"{message}. Use out_dtype: bfloat16 or float32 in the recipe."
                )
            self._warn(message)

    def _warn(self, message: str) -> None:
        with self._lock:
            if message not in self.warnings:
                self.warnings.append(message)

    def _count(self, task: TensorTask, source: Source) -> int:
        """Values of the stored tensor that are not finite after the cast at load."""
        dtype = source.info.dtype
        size = SIZES[dtype]
        count = 0
        for begin in range(0, source.info.nbytes, _COPY_BYTES):
            piece = self._bytes(source, begin, min(_COPY_BYTES, source.info.nbytes - begin))
            address = ctypes.addressof(ctypes.c_char.from_buffer(piece))
            buffer = Buffer(address, memoryview(piece), dtype, task.cast or dtype)
            count += count_nonfinite(buffer, len(piece) // size)
        return count


def _nonfinite_message(task: TensorTask, source: Source, count: int) -> str:
    name = source.info.name
    if not count:
        return f"{source.model}: tensor '{name}' holds NaN or infinity after its adapter is applied"
    values = "1 value that is" if count == 1 else f"{count:,} values that are"
    cast = f" when read as {task.cast}" if _narrowed(task, source) else ""
    return f"{source.info.path}: tensor '{name}' holds {values} NaN or infinite{cast}"


def _narrowed(task: TensorTask, source: Source) -> bool:
    return task.cast not in (None, source.info.dtype)


def _remedy(task: TensorTask, source: Source) -> str:
    repair = "Repair or replace the checkpoint"
    if source.lora is None and _narrowed(task, source):
        return f"{repair}, set dtype: float32 in the recipe if they are finite there"
    return repair
