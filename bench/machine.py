"""What a figure was measured on, and the yardstick measured beside it."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from bench.timing import Timing
from mergesafe import _native

#: Elements of each triad array: three of these exceed every cache.
TRIAD_ELEMENTS = 1 << 26


class Triad:
    """STREAM's triad a = b + s c over float32 arrays, 12 bytes an element."""

    nbytes = 12 * TRIAD_ELEMENTS

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._arrays = [np.ones(TRIAD_ELEMENTS, dtype=np.float32) for _ in range(3)]

    def __call__(self) -> None:
        a, b, c = (array.ctypes.data for array in self._arrays)
        _native.triad(a, b, c, 3.0, TRIAD_ELEMENTS, self._threads)

    def gbs(self, timing: Timing) -> float:
        """GB/s as STREAM counts: two arrays read, one written."""
        return self.nbytes / timing.p50 / 1e9


def threads_here() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def describe() -> dict[str, str]:
    """Columns that every CSV row carries."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": str(threads_here()),
        "isa": _native.isa(),
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _commit() -> str:
    root = Path(__file__).resolve().parent
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True
    )
    return found.stdout.strip() or "unknown"
