"""A timeline of a merge in Chrome's trace event format, for Perfetto and chrome://tracing.

A thread does one thing after the other, so its work is recorded as laps of a stopwatch: a call
names what the thread has done since its last call. Threads share nothing while they record.

Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import heapq
import json
import os
import threading
import time
import warnings
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from mergesafe.errors import ArgumentError
from mergesafe.private import create_file, folder_of, random_name
from mergesafe.untrusted import reason

#: ``lap(step, begin, nbytes)``: since its last lap this thread did ``step`` on ``nbytes`` bytes,
#: at element ``begin`` of the tensor.
Lap: TypeAlias = Callable[[str, int, int], None]

#: What workers do; then what the thread that called ``merge`` does.
STEPS: Final = (
    "schedule", "memory", "read", "adapter", "statistics", "combine", "digest", "write", "journal",
    "prepare", "wait", "sync", "companions", "commit",
)  # fmt: skip
COMPUTING: Final = frozenset(("adapter", "statistics", "combine", "digest"))
_NUMBERS: Final = {step: number for number, step in enumerate(STEPS)}
#: How a timeline begins.
_OPENING: Final = '{"displayTimeUnit":"ms",'
#: Numbers of one event (start, end, step, tensor, element, bytes), of eight bytes each.
_WIDTH: Final = 6
#: Events of one thread that are listed, 12.6 MB of memory; later ones are counted only.
THREAD_LIMIT: Final = 1 << 18


def no_lap(step: str, begin: int, nbytes: int) -> None:
    """The :data:`Lap` of a merge without a trace."""


@dataclass(frozen=True)
class TraceSummary:
    """``seconds`` of each step, over all threads. ``overlap``: the share of ``wall`` seconds in
    which one worker reads while another computes. ``unlisted``: events beyond the limit.
    """

    path: Path
    wall: float
    seconds: dict[str, float]
    overlap: float
    unlisted: int


class _Log:
    """The laps of one thread."""

    def __init__(self, thread: str, clock: Callable[[], float], limit: int) -> None:
        self.thread = thread
        self.events = array("d")
        self.tensors = [""]
        self.seconds = [0.0] * len(STEPS)
        self.unlisted = 0
        self._clock, self._room = clock, limit
        self._last = clock()

    def lap(self, step: str, begin: int, nbytes: int) -> None:
        started, self._last = self._last, self._clock()
        number = _NUMBERS[step]
        self.seconds[number] += self._last - started
        if self._room:
            self._room -= 1
            tensor = len(self.tensors) - 1
            self.events.extend((started, self._last, number, tensor, begin, nbytes))
        else:
            self.unlisted += 1

    def rows(self) -> Iterator[Sequence[float]]:
        for at in range(0, len(self.events), _WIDTH):
            yield self.events[at : at + _WIDTH]


class Trace:
    """Records laps of any number of threads and writes them to ``path`` at the end.

    Raises:
        ArgumentError: ``path`` cannot be written, or lies within one of ``protect``.
    """

    def __init__(
        self,
        path: Path,
        protect: Sequence[Path] = (),
        *,
        clock: Callable[[], float] = time.perf_counter,
        limit: int = THREAD_LIMIT,
    ) -> None:
        self.path = Path(path).absolute()
        self.about: dict[str, Any] = {}
        self._clock, self._limit = clock, limit
        self._local = threading.local()
        self._logs: list[_Log] = []
        self._started = clock()
        _check(self.path, protect)

    def laps(self, tensor: str) -> Lap:
        """The calling thread's stopwatch, for work on ``tensor``; it goes on from its last lap."""
        log: _Log | None = getattr(self._local, "log", None)
        if log is None:
            log = _Log(threading.current_thread().name, self._clock, self._limit)
            self._local.log = log
            self._logs.append(log)  # atomic
        if tensor != log.tensors[-1]:
            log.tensors.append(tensor)
        return log.lap

    def summary(self) -> TraceSummary:
        """Times so far, once all other threads have stopped."""
        wall = self._clock() - self._started
        seconds = [sum(each) for each in zip(*(log.seconds for log in self._logs), strict=True)]
        return TraceSummary(
            self.path,
            wall,
            {step: spent for step, spent in zip(STEPS, seconds, strict=False) if spent},
            _overlap(self._logs) / wall if wall > 0 else 0.0,
            sum(log.unlisted for log in self._logs),
        )

    def write(self) -> None:
        """Write what was recorded, all or nothing; the merge does not fail when this does."""
        try:
            with folder_of(self.path) as folder:
                new = random_name(self.path.name, "mergesafe-new")
                try:
                    with open(create_file(new, folder), "w", encoding="ascii") as file:
                        file.writelines(self._text())
                    os.replace(new, self.path.name, src_dir_fd=folder, dst_dir_fd=folder)
                except BaseException:
                    with suppress(OSError):
                        os.unlink(new, dir_fd=folder)
                    raise
        except OSError as error:
            warnings.warn(
                f"{self.path}: the trace could not be written ({reason(error)})", stacklevel=2
            )

    def _text(self) -> Iterator[str]:
        unlisted = sum(log.unlisted for log in self._logs)
        about = {**self.about, "events_not_listed": unlisted}
        yield f'{_OPENING}"otherData":{json.dumps(about)},"traceEvents":[\n'
        process = json.dumps({"name": "process_name", "ph": "M", "pid": 1, "args": _NAME})
        yield process
        for thread, log in enumerate(self._logs, 1):
            named = {"name": "thread_name", "ph": "M", "pid": 1, "tid": thread}
            yield ",\n" + json.dumps({**named, "args": {"name": log.thread}})
            tensors = [json.dumps(tensor) for tensor in log.tensors]
            for start, end, step, tensor, begin, nbytes in log.rows():
                yield (
                    f',\n{{"name":"{STEPS[int(step)]}","ph":"X","pid":1,"tid":{thread},'
                    f'"ts":{(start - self._started) * 1e6:.1f},"dur":{(end - start) * 1e6:.1f},'
                    f'"args":{{"tensor":{tensors[int(tensor)]},"element":{int(begin)},'
                    f'"bytes":{int(nbytes)}}}}}'
                )
        yield "\n]}\n"


_NAME: Final = {"name": "mergesafe merge"}


def _check(path: Path, protect: Sequence[Path]) -> None:
    if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise ArgumentError(
            f"--trace {path}: expected a file in a folder that exists and may be written to"
        )
    if not _replaceable(path):
        raise ArgumentError(
            f"--trace {path}: there is a file that is not a timeline, which would be lost; choose "
            "another name"
        )
    real = path.resolve()
    for other in (each.resolve() for each in protect):
        if other == real or other in real.parents:
            raise ArgumentError(
                f"--trace {path}: it lies in {other}, an input or the output; choose another place"
            )


def _replaceable(path: Path) -> bool:
    """Whether nothing is lost where a timeline takes the place of what is there."""
    try:
        with path.open("rb") as file:
            return file.read(len(_OPENING)) in (b"", _OPENING.encode())
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _overlap(logs: Sequence[_Log]) -> float:
    """Seconds in which at least one thread reads and at least one computes."""
    total = since = 0.0
    reading = computing = 0
    for at, change_reading, change_computing in heapq.merge(*map(_changes, logs)):
        if reading and computing:
            total += at - since
        since = at
        reading += change_reading
        computing += change_computing
    return total


def _changes(log: _Log) -> Iterator[tuple[float, int, int]]:
    """When the thread begins and ends to read or to compute, in order of time."""
    for start, end, number, *_ in log.rows():
        step = STEPS[int(number)]
        change = (1, 0) if step == "read" else (0, 1) if step in COMPUTING else None
        if change is not None:
            yield start, change[0], change[1]
            yield end, -change[0], -change[1]
