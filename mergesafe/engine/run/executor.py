"""Where a merge runs: the processors of this machine, or those of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.output.folder import OutputFolder
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.resume.entries import Statistics
from mergesafe.engine.run.devices import Processor
from mergesafe.engine.run.progress import ProgressTracker, Span
from mergesafe.engine.run.results import RunResults
from mergesafe.engine.run.trace import Trace
from mergesafe.engine.run.workers import Options, Schedule, Workers, schedule


@dataclass(frozen=True)
class Unfinished:
    """What is left to do of a merge whose output folder is open."""

    plan: MergePlan
    folder: OutputFolder
    reader: Reader
    tracker: ProgressTracker
    spans: Sequence[Span]
    statistics: Mapping[int, Statistics]
    progress: Callable[[int], None]
    timeline: Trace | None


class Executor(Protocol):
    """Runs a merge inside ``with executor:``, and lets go of its machines afterwards; then it may
    run another.
    """

    def __enter__(self) -> Executor: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def schedule(self, plan: MergePlan, options: Options) -> Schedule:
        """Fit ``plan`` into the memory and threads that there are; called before :meth:`run`.

        Raises:
            ArgumentError: the budget is too small for one of the tensors.
            ClusterError: there is no cluster, or no node of it has what a task takes.
        """

    def run(self, left: Unfinished) -> str:
        """Do all that is left, writing it to the folder and noting it in the tracker.

        Returns:
            The name of the backend, for the manifest.
        """


class LocalExecutor:
    """Worker threads of this process, on its processors or GPUs."""

    def __init__(self, processor: Processor) -> None:
        self._processor = processor

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing: the threads of a run end with it."""

    def schedule(self, plan: MergePlan, options: Options) -> Schedule:
        self._options = self._processor.fitted(options)
        self._schedule = schedule(plan, self._options)
        return self._schedule

    def run(self, left: Unfinished) -> str:
        results = RunResults(
            left.plan, left.folder, left.tracker, left.tracker.nonfinite,
            progress=left.progress, trace=left.timeline,
        )  # fmt: skip
        workers = Workers(
            left.plan, self._schedule, self._options, self._processor.kernels, left.reader, results,
            spans=left.spans, statistics=left.statistics,
        )  # fmt: skip
        with self._processor.pinned(workers.arena):
            workers.run()
        return self._processor.name
