"""The progress of a merge as lines in a log."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING

from mergesafe.log_lines import LogLines

if TYPE_CHECKING:
    from mergesafe.engine.plan.merge_plan import MergePlan
    from mergesafe.engine.run.workers import Schedule


class LogBar:
    """The share of the bytes that is done and the time left, in a log."""

    def __init__(self) -> None:
        self._lines = LogLines()
        self._lock = Lock()
        self._done = 0

    def start(self, plan: MergePlan, schedule: Schedule) -> Callable[[int], None]:
        """The returned function adds bytes from any thread."""
        total = schedule.bytes_read + plan.bytes_out
        what = f"merging {plan.called}"
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
