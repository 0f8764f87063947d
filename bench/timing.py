"""Repeated timing, and rows of a CSV."""

from __future__ import annotations

import csv
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Timing:
    """Seconds at the 20th, 50th and 80th percentile of several runs, and the median of the
    processor seconds of all threads, where they were taken.
    """

    p20: float
    p50: float
    p80: float
    cpu: float = math.nan


def percentiles(seconds: Sequence[float], processor: Sequence[float] = ()) -> Timing:
    """A single run counts as all three."""
    cpu = statistics.median(processor) if processor else math.nan
    if len(seconds) == 1:
        return Timing(seconds[0], seconds[0], seconds[0], cpu)
    cuts = statistics.quantiles(seconds, n=10, method="inclusive")
    return Timing(cuts[1], cuts[4], cuts[7], cpu)


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


def write_csv(name: str, rows: Sequence[dict[str, object]]) -> Path:
    """Write ``bench/results/NAME.csv``, replacing the last run's."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path
