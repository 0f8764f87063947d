"""A rough prediction of a merge's time from a short measurement."""

from __future__ import annotations

import time
from pathlib import Path

from mergesafe.checkpoint.reader import Reader
from mergesafe.engine.api import PlanReport
from mergesafe.errors import CheckpointError

#: Bytes read to learn how fast the inputs come: from the disk, or from the page cache.
SAMPLE_BYTES = 16 << 20
#: Writing through the page cache costs about this many times reading (page allocation, sync).
WRITE_COST = 3.0


def estimate_seconds(report: PlanReport) -> float | None:
    """Bytes to read and write over the read rate of the largest input tensor, measured now.

    None where it cannot be read, which the merge itself reports, or lies elsewhere: a plan does not
    fetch tensors.
    """
    plan = report.plan
    largest = max(
        (source.info for task in plan.tasks for source in task.sources),
        key=lambda info: info.nbytes,
    )
    if not isinstance(largest.path, Path):
        return None
    size = min(SAMPLE_BYTES, largest.nbytes)
    if size == 0:
        return 0.0
    buffer = memoryview(bytearray(size))
    started = time.perf_counter()
    try:
        with Reader() as reader:
            reader.read_into(largest, 0, buffer)
    except CheckpointError:
        return None
    rate = size / max(time.perf_counter() - started, 1e-6)
    return (report.schedule.bytes_read + WRITE_COST * plan.bytes_out) / rate
