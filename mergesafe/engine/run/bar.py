"""The progress of a merge as a bar, on a terminal or in a notebook."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Final, TypeAlias

from mergesafe.engine.plan.merge_plan import MergePlan

if TYPE_CHECKING:
    from mergesafe.engine.run.workers import Schedule

REFRESH_SECONDS: Final = 0.1

#: Called with the plan and schedule of a merge as it begins; returns a function of bytes done.
Start: TypeAlias = "Callable[[MergePlan, Schedule], Callable[[int], None]]"
#: True: a bar. A function in its place is called as :data:`Start` is; None is False.
Progress: TypeAlias = "bool | Start | None"


class Bar:
    """Bytes done, GB/s and time left, on standard error."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(),
            TransferSpeedColumn(), TimeRemainingColumn(),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
        self._lock = Lock()
        self._done = 0
        self._shown = 0.0

    def start(self, plan: MergePlan, schedule: Schedule) -> Callable[[int], None]:
        """Show the bar; the returned function adds bytes from any thread."""
        total = schedule.bytes_read + plan.bytes_out
        task = self._progress.add_task(plan.called, total=total)
        self._done, self._shown = 0, 0.0
        self._progress.start()

        def advance(nbytes: int) -> None:
            now = time.monotonic()
            with self._lock:
                self._done += nbytes
                if now - self._shown < REFRESH_SECONDS:
                    return
                self._shown, done = now, self._done
            self._progress.update(task, completed=done)

        return advance

    def stop(self) -> None:
        self._progress.stop()


@contextmanager
def shown(progress: Progress) -> Iterator[Start | None]:
    """What a merge tells of its progress; a bar of one's own ends with the block."""
    if progress is None or progress is False:
        yield None
    elif progress is True:
        bar = Bar()
        try:
            yield bar.start
        finally:
            bar.stop()
    else:
        yield progress
