"""What is finished of a merge, by this run and earlier ones, and what is left."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mergesafe.engine.digests import Digests
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.resume.entries import Statistics, Tile, record_of
from mergesafe.engine.run.nonfinite import NonFinite
from mergesafe.journal import Journal

#: Finished tiles by task, disjoint and in order.
Tiles: TypeAlias = Mapping[int, Sequence[Tile]]


@dataclass(frozen=True, slots=True)
class Span:
    """Work to do: elements [begin, begin + count) of a task."""

    task: int
    begin: int
    count: int


def spans_left(tasks: Sequence[TensorTask], tiles: Tiles) -> Iterator[Span]:
    """What the finished tiles leave of the tasks, in order; empty tensors leave nothing."""
    for number, task in enumerate(tasks):
        at = 0
        for tile in tiles.get(number, ()):
            if tile.begin > at:
                yield Span(number, at, tile.begin - at)
            at = tile.begin + tile.count
        if at < task.numel:
            yield Span(number, at, task.numel - at)


def moved_bytes(task: TensorTask, count: int) -> int:
    """Bytes read and written for ``count`` elements that are read once, adapters not counted."""
    read = sum(s.view.stored_size * task.reach(s, 0, count)[1] for s in task.sources)
    return read + task.written_bytes(count)


class ProgressTracker:
    """Keeps the journal, and adds up digests, reports and bytes for the end. Thread-safe."""

    def __init__(self, tasks: Sequence[TensorTask], nonfinite: NonFinite, journal: Journal) -> None:
        self.tasks, self.nonfinite = tasks, nonfinite
        self.digests = Digests()
        #: Bytes of the output that are finished.
        self.bytes_done = 0
        #: By task, of task vectors with few directions (numerical_rank.py).
        self.directions: dict[int, int] = {}
        self._journal = journal
        self._lock = threading.Lock()

    def restore(self, entries: Iterable[Tile | Statistics]) -> None:
        """Take over what an earlier run finished, which the journal has already.

        Raises:
            NonFiniteError: the rule is ``error`` and one of them reports NaN or infinity.
        """
        for entry in entries:
            self._count(entry)

    def append(self, entry: Tile | Statistics) -> None:
        """Record work whose bytes have been written.

        Raises:
            OutputError: the journal cannot be written.
        """
        with self._lock:
            self._journal.append(record_of(entry))
            self._count(entry)

    def sync(self) -> None:
        """Make the journal durable."""
        with self._lock:
            self._journal.sync()

    def _count(self, entry: Tile | Statistics) -> None:
        task = self.tasks[entry.task]
        overflow = isinstance(entry, Tile) and entry.overflow
        self.nonfinite.check(task, entry.nonfinite, overflow)
        if isinstance(entry, Tile):
            self.bytes_done += task.written_bytes(entry.count)
            if entry.directions:
                self.directions[entry.task] = entry.directions
            for part, digest in entry.digests.items():
                self.digests.add(task, part, digest)
