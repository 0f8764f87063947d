"""The progress of a merge: a bar on a terminal, lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Final

from mergesafe.terminal.progress import LogLines

if TYPE_CHECKING:
    from mergesafe.engine.plan.merge_plan import MergePlan
    from mergesafe.engine.run.workers import Schedule

REFRESH_SECONDS: Final = 0.1


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
        task = self._progress.add_task(_called(plan), total=total)
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


class LogBar:
    """The share of the bytes that is done and the time left, in a log."""

    def __init__(self) -> None:
        self._lines = LogLines()
        self._lock = Lock()
        self._done = 0

    def start(self, plan: MergePlan, schedule: Schedule) -> Callable[[int], None]:
        """The returned function adds bytes from any thread."""
        total = schedule.bytes_read + plan.bytes_out
        what = f"merging {_called(plan)}"
        self._done = 0
        self._lines(what, 0, total)

        def advance(nbytes: int) -> None:
            with self._lock:
                self._done += nbytes
                done = self._done
            self._lines(what, done, total)

        return advance

    def stop(self) -> None:
        """Nothing: lines stay."""


def _called(plan: MergePlan) -> str:
    """Which merge it is: a recipe of several documents has several."""
    name, method = plan.recipe.name, plan.recipe.merge_method
    return f"by {method}" if name is None else f"{name} by {method}"
