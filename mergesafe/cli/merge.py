"""``mergesafe merge``: progress bar and summary."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from mergesafe.cli.progress import LogLines
from mergesafe.cli.shared import note, print_json, printable, say, warn
from mergesafe.engine.api import MergeResult
from mergesafe.engine.api import merge as merge_checkpoints
from mergesafe.engine.memory import format_size
from mergesafe.engine.run.trace import TraceSummary

if TYPE_CHECKING:
    from mergesafe.engine.plan.merge_plan import MergePlan
    from mergesafe.engine.run.workers import Schedule

REFRESH_SECONDS = 0.1


def run(recipe: Path, out: str, *, json: bool, quiet: bool, **options: Any) -> None:
    """Merge with a progress bar on a terminal, lines in a log; print a summary or JSON."""
    bar: Bar | LogBar | None = None
    if not (json or quiet):
        bar = Bar() if sys.stderr.isatty() else LogBar()
    try:
        result = merge_checkpoints(recipe, out, progress=bar.start if bar else None, **options)
    finally:
        if bar is not None:
            bar.stop()
    if json:
        print_json(as_json(result))
        return
    if not quiet:
        warn(result.warnings)
        note(result.notes)
        say(printable(summary(result)))
        if result.trace is not None:
            say(printable(trace_summary(result.trace)))


def as_json(result: MergeResult) -> dict[str, Any]:
    described = {
        "out": str(result.path),
        "tensors": result.tensors,
        "parameters": result.parameters,
        "bytes_read": result.bytes_read,
        "bytes_written": result.bytes_written,
        "resumed_bytes": result.resumed_bytes,
        "seconds": round(result.seconds, 4),
        "gigabytes_per_second": round(result.gigabytes_per_second, 3),
        "warnings": list(result.warnings),
        "notes": list(result.notes),
    }
    if result.trace is not None:
        described["trace"] = {
            "path": str(result.trace.path),
            "wall_s": round(result.trace.wall, 4),
            "seconds": {step: round(spent, 4) for step, spent in result.trace.seconds.items()},
            "read_compute_overlap": round(result.trace.overlap, 4),
            "events_not_listed": result.trace.unlisted,
        }
    return described


def summary(result: MergeResult) -> str:
    earlier = result.resumed_bytes
    return (
        f"{result.path}: {result.tensors:,} tensors, {result.parameters / 1e6:,.1f} M parameters; "
        f"{f'{format_size(earlier)} were finished before; ' if earlier else ''}"
        f"read {format_size(result.bytes_read)}, wrote {format_size(result.bytes_written)} in "
        f"{result.seconds:.1f} s ({result.gigabytes_per_second:.1f} GB/s)"
    )


def trace_summary(trace: TraceSummary) -> str:
    """One line: seconds of each step over all threads, longest first."""
    longest = sorted(trace.seconds.items(), key=lambda item: -item[1])
    steps = ", ".join(f"{step} {spent:.2f}" for step, spent in longest)
    unlisted = f"; {trace.unlisted:,} events are counted but not listed" if trace.unlisted else ""
    return (
        f"{trace.path}: seconds over all threads: {steps}; reading and computing overlap in "
        f"{trace.overlap:.0%} of {trace.wall:.2f} s{unlisted}"
    )


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
        task = self._progress.add_task(plan.recipe.merge_method, total=total)
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
        what = f"merging by {plan.recipe.merge_method}"
        self._lines(what, 0, total)

        def advance(nbytes: int) -> None:
            with self._lock:
                self._done += nbytes
                done = self._done
            self._lines(what, done, total)

        return advance

    def stop(self) -> None:
        """Nothing: lines stay."""
