"""Repeated timing, and rows of a CSV."""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Timing:
    """Seconds at the 20th, 50th and 80th percentile of several runs."""

    p20: float
    p50: float
    p80: float


def percentiles(seconds: Sequence[float]) -> Timing:
    """A single run counts as all three."""
    if len(seconds) == 1:
        return Timing(seconds[0], seconds[0], seconds[0])
    cuts = statistics.quantiles(seconds, n=10, method="inclusive")
    return Timing(cuts[1], cuts[4], cuts[7])


def measure(runs: Sequence[Callable[[], object]], rounds: int) -> list[Timing]:
    """Wall time of each after one unmeasured call, taken in turn.

    The memory rate of a shared machine changes from second to second, by a factor of nearly two
    where this was written: only what is measured in turn can be compared.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    for number in range(rounds + 1):
        for run, taken in zip(runs, seconds, strict=True):
            started = time.perf_counter()
            run()
            if number:
                taken.append(time.perf_counter() - started)
    return [percentiles(taken) for taken in seconds]


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
