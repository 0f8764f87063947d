"""Runs the plan of a merge into tensors in memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import torch

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.output.layout import Placement
from mergesafe.dtypes import SIZES
from mergesafe.engine.in_memory.state import DTYPES
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.resume.entries import Statistics, Tile
from mergesafe.engine.run.devices import Processor
from mergesafe.engine.run.nonfinite import NonFinite
from mergesafe.engine.run.numerical_rank import rank_warnings
from mergesafe.engine.run.progress import spans_left
from mergesafe.engine.run.results import RunResults
from mergesafe.engine.run.whole_model import with_model_answers
from mergesafe.engine.run.workers import Options, Schedule, Workers, schedule
from mergesafe.system_faults import explained


@dataclass(frozen=True)
class Merged:
    """The tensors by their names, in the order of the plan, and what was found while merging."""

    tensors: dict[str, torch.Tensor]
    warnings: tuple[str, ...]


def run_in_memory(
    made: MergePlan,
    options: Options,
    processor: Processor,
    progress: Callable[[MergePlan, Schedule], Callable[[int], None]] | None,
) -> Merged:
    """Merge as planned; tensors lie on the CPU.

    Raises:
        MergesafeError: an input holds what must not be merged.
    """
    options = processor.fitted(options)
    planned = schedule(made, options)
    advance = None if progress is None else progress(made, planned)
    outputs = _Outputs(made)
    with Reader() as reader:
        record = _Record(made, NonFinite(options.on_nonfinite, reader))
        try:
            made = with_model_answers(
                made, reader, record.nonfinite,
                memory=options.memory, threads=options.threads, advance=advance,
            )  # fmt: skip
            work = _Work(made, outputs)
            results = RunResults(work, outputs, record, record.nonfinite, progress=advance)
            workers = Workers(
                work, planned, options, processor.kernels, reader, results,
                spans=tuple(spans_left(made.tasks, {})), statistics={},
            )  # fmt: skip
            with processor.pinned(workers.arena):
                workers.run()
        except Exception as caught:
            if (error := explained(caught)) is not None:
                raise error from caught
            raise
        odd = [
            *record.nonfinite.warnings(made.tasks),
            *rank_warnings(made.tasks, record.directions),
        ]
    return Merged(outputs.tensors, tuple(odd))


class _Outputs:
    """A tensor for each that the plan writes, and their bytes as a sink of the workers."""

    def __init__(self, made: MergePlan) -> None:
        found = {each.name: each for task in made.tasks for each in task.outputs}
        self.numbers = {name: number for number, name in enumerate(found)}
        self.tensors = {
            name: torch.empty(each.shape, dtype=DTYPES[each.dtype]) for name, each in found.items()
        }
        self._addresses = [tensor.data_ptr() for tensor in self.tensors.values()]

    def pwrite(self, shard: int, offset: int, data: memoryview) -> None:
        """Bytes of tensor number ``shard``."""
        source = ctypes.addressof(ctypes.c_char.from_buffer(data)) if data.nbytes else 0
        ctypes.memmove(self._addresses[shard] + offset, source, data.nbytes)

    def sync(self) -> None:
        """Nothing: it is memory."""


@dataclass(frozen=True)
class _Work:
    """A plan whose outputs lie in memory, each from byte 0."""

    plan: MergePlan
    outputs: _Outputs

    @property
    def tasks(self) -> tuple[TensorTask, ...]:
        return self.plan.tasks

    def placement(self, task: TensorTask, part: int = 0) -> Placement:
        output = task.outputs[part]
        return Placement(self.outputs.numbers[output.name], task.begin * SIZES[output.dtype])


class _Record:
    """Takes from finished work what is told afterwards. Thread-safe."""

    def __init__(self, made: MergePlan, nonfinite: NonFinite) -> None:
        self.nonfinite = nonfinite
        self.directions: dict[int, int] = {}
        self._tasks, self._lock = made.tasks, Lock()

    def append(self, entry: Tile | Statistics) -> None:
        overflow = isinstance(entry, Tile) and entry.overflow
        with self._lock:
            self.nonfinite.check(self._tasks[entry.task], entry.nonfinite, overflow)
            if isinstance(entry, Tile) and entry.directions:
                self.directions[entry.task] = entry.directions

    def sync(self) -> None:
        """Nothing: it is memory."""
