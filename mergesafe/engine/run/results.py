"""What workers hand over while they merge: bytes, finished work, progress, odd values, times."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from mergesafe.checkpoint.output.layout import Placement
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.resume.entries import Statistics, Tile
from mergesafe.engine.run.nonfinite import NonFinite
from mergesafe.engine.run.trace import Lap, Trace, no_lap


class Work(Protocol):
    """What workers need of a plan, or of a part of one."""

    @property
    def tasks(self) -> Sequence[TensorTask]: ...

    def placement(self, task: TensorTask, part: int = 0) -> Placement:
        """Where a part of the task's output goes in the sink: 0, or 1 for its scales."""


class Sink(Protocol):
    """Where output bytes go."""

    def pwrite(self, shard: int, offset: int, data: memoryview) -> None:
        """Write at the absolute byte ``offset`` of a shard. Thread-safe."""

    def sync(self) -> None:
        """Make what is written durable."""


class Record(Protocol):
    """Where finished work is noted. Thread-safe."""

    def append(self, entry: Tile | Statistics) -> None: ...

    def sync(self) -> None:
        """Make what is noted durable."""


class Results(Protocol):
    """Takes what the merge of a tensor makes. Thread-safe."""

    def write(self, task: TensorTask, begin: int, data: memoryview, part: int = 0) -> None:
        """Write output bytes of ``task`` from byte ``begin`` of a part on; see :class:`Work`."""

    def finished(self, entry: Tile | Statistics) -> None:
        """Note work whose bytes have been written."""

    def check(self, task: TensorTask, inputs: Iterable[int], overflow: bool) -> None:
        """Apply the rule for NaN and infinity to the ``inputs`` that hold some."""

    def advance(self, nbytes: int) -> None:
        """So many bytes more were read or written.

        Raises:
            InterruptedError: the merge has been stopped.
        """

    def laps(self, tensor: str) -> Lap:
        """What takes the times of the steps of a tensor."""


class RunResults:
    """The results of a run: bytes go to ``sink``, finished work to ``record``."""

    def __init__(
        self,
        plan: Work,
        sink: Sink,
        record: Record,
        nonfinite: NonFinite,
        *,
        progress: Callable[[int], None] | None = None,
        trace: Trace | None = None,
    ) -> None:
        self._plan, self._sink, self._record = plan, sink, record
        self._nonfinite, self._progress, self._trace = nonfinite, progress, trace
        #: Set when a worker failed or the run was interrupted.
        self.stopped = threading.Event()

    def write(self, task: TensorTask, begin: int, data: memoryview, part: int = 0) -> None:
        placement = self._plan.placement(task, part)
        self._sink.pwrite(placement.shard, placement.offset + begin, data)

    def finished(self, entry: Tile | Statistics) -> None:
        self._record.append(entry)

    def check(self, task: TensorTask, inputs: Iterable[int], overflow: bool) -> None:
        self._nonfinite.check(task, inputs, overflow)

    def advance(self, nbytes: int) -> None:
        if self.stopped.is_set():
            raise InterruptedError("stopped")
        if self._progress is not None:
            self._progress(nbytes)

    def laps(self, tensor: str) -> Lap:
        return no_lap if self._trace is None else self._trace.laps(tensor)

    def sync(self) -> None:
        """Make it durable: first the tiles, then the journal that tells of them."""
        lap = self.laps("")
        lap("wait", 0, 0)
        self._sink.sync()
        self._record.sync()
        lap("sync", 0, 0)
