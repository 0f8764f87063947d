"""Repeated timing, and rows of a CSV."""

from __future__ import annotations

import csv
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Timing:
    """Seconds at the 20th, 50th and 80th percentile of several runs; where they were taken, the
    medians of the processor seconds of all threads and of the seconds until a call returned,
    which on a GPU can be before its work is done.
    """

    p20: float
    p50: float
    p80: float
    cpu: float = math.nan
    host: float = math.nan

    @property
    def call(self) -> float:
        """Seconds that one of many calls in a row takes: what bounds it, device or host."""
        return self.p50 if math.isnan(self.host) else max(self.p50, self.host)


def percentiles(
    seconds: Sequence[float], processor: Sequence[float] = (), host: Sequence[float] = ()
) -> Timing:
    """A single run counts as all three."""
    cpu = statistics.median(processor) if processor else math.nan
    returned = statistics.median(host) if host else math.nan
    if len(seconds) == 1:
        return Timing(seconds[0], seconds[0], seconds[0], cpu, returned)
    cuts = statistics.quantiles(seconds, n=10, method="inclusive")
    return Timing(cuts[1], cuts[4], cuts[7], cpu, returned)


def measure(runs: Sequence[Callable[[], object]], rounds: int) -> list[Timing]:
    """Times of each after one unmeasured call, taken in turn.

    The memory rate of a shared machine changes from second to second, by a factor of nearly two
    where this was written: only what is measured in turn can be compared.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    processor: list[list[float]] = [[] for _ in runs]
    for number in range(rounds + 1):
        for run, wall, cpu in zip(runs, seconds, processor, strict=True):
            started, used = time.perf_counter(), time.process_time()
            run()
            if number:
                wall.append(time.perf_counter() - started)
                cpu.append(time.process_time() - used)
    return [percentiles(wall, cpu) for wall, cpu in zip(seconds, processor, strict=True)]


def measure_cuda(
    runs: Sequence[Callable[[], object]],
    rounds: int,
    between: Callable[[], object],
    warm_up: int = 3,
) -> list[Timing]:
    """Times of each by CUDA events, taken in turn, after ``warm_up`` rounds that do not count.

    ``between`` is enqueued on an idle device before every call and is not timed. It should keep the
    device busy for longer than a launch takes, so that no event waits for the host, and leave
    nothing useful in the cache.
    """
    events = [[_pair() for _ in range(rounds)] for _ in runs]
    host: list[list[float]] = [[] for _ in runs]
    for number in range(-warm_up, rounds):
        for run, pairs, returned in zip(runs, events, host, strict=True):
            begin, end = pairs[max(number, 0)]
            torch.cuda.synchronize()
            between()
            begin.record()
            started = time.perf_counter()
            run()
            seconds = time.perf_counter() - started
            end.record()
            if number >= 0:
                returned.append(seconds)
    torch.cuda.synchronize()
    return [
        percentiles([a.elapsed_time(b) / 1e3 for a, b in pairs], host=returned)
        for pairs, returned in zip(events, host, strict=True)
    ]


def _pair() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def measure_on(
    device: torch.device,
    runs: Sequence[Callable[[], object]],
    rounds: int,
    between: Callable[[], object],
) -> list[Timing]:
    """:func:`measure` or :func:`measure_cuda`, as the device needs."""
    if device.type == "cuda":
        return measure_cuda(runs, rounds, between)
    return measure(runs, rounds)


def write_csv(name: str, rows: Sequence[dict[str, object]], folder: Path = RESULTS) -> Path:
    """Write ``FOLDER/NAME.csv``, replacing the last run's."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path
