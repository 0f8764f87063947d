"""``ncu ... python -m bench.ncu``: the main kernels once each, and what ncu's CSV says of them."""

from __future__ import annotations

import csv
from collections.abc import Iterator

#: ncu's metric -> its short name.
METRICS = {
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "dram_%",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy_%",
    "launch__registers_per_thread": "registers",
}
#: What ncu prints where it is not allowed to read counters, or cannot.
REFUSALS = ("ERR_NVGPUCTRPERM", "LibraryNotLoaded", "Failed to initialize the profiler")
#: Cases by label, at the size of the roofline.
MAIN = (
    "weighted_sum[3xbf16]",
    "merge_task_arithmetic[3xbf16]",
    "merge_ties[3xbf16]",
    "kth_magnitude[3xbf16]",
    "gradient_ties[3xbf16]",
    "merge_jobs[3xbf16 in 1000]",
)


def parse(printed: str) -> list[dict[str, str]]:
    """A row per launch: kernel and metrics by their short names."""
    rows: dict[str, dict[str, str]] = {}
    for cell in csv.DictReader(_table(printed)):
        name = METRICS.get(cell.get("Metric Name") or "")
        if name is not None:
            row = rows.setdefault(cell["ID"], {"kernel": cell["Kernel Name"].split("(")[0]})
            row[name] = cell["Metric Value"]
    return list(rows.values())


def _table(printed: str) -> Iterator[str]:
    """The lines from the CSV's header on, without those of ncu itself."""
    lines = iter(printed.splitlines())
    for line in lines:
        if line.startswith('"ID"'):
            yield line
            break
    yield from (line for line in lines if line.startswith('"'))


def main() -> None:
    import torch

    from bench.cases import ELEMENTS, cases
    from bench.device import NoDevice, choose, leave
    from mergesafe.ops.backends.registry import get_backend

    try:
        device = choose("cuda")
    except NoDevice as error:
        leave(error)
    native = get_backend("native", device)
    for case in cases():
        if case.label in MAIN:
            call = case.bind(ELEMENTS, native, device)
            call()  # loads the kernel
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
            call()
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()


if __name__ == "__main__":
    main()
