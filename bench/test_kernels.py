"""``pytest bench/ --benchmark-only``: the kernels under pytest-benchmark.

GB/s and the share of the triad measured in the same run are in the extra info of each row.
``BENCH_ELEMENTS`` changes the size.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from bench.cases import ELEMENTS, Case, cases
from bench.machine import Triad, threads_here
from bench.timing import measure

SIZE = int(os.environ.get("BENCH_ELEMENTS", ELEMENTS))


@pytest.fixture(scope="module")
def triad() -> Triad:
    return Triad(threads_here())


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.label)
def test_kernel(benchmark: Any, case: Case, triad: Triad) -> None:
    torch.set_num_threads(threads_here())
    case.check()
    call = case.bind(SIZE)
    benchmark.pedantic(call, rounds=5, warmup_rounds=1)
    timing, beside = measure([call, triad], 5)  # the share needs both in turn
    rate, limit = case.bytes_moved(SIZE) / timing.p50 / 1e9, triad.gbs(beside)
    benchmark.extra_info["GB/s"] = round(rate, 1)
    benchmark.extra_info["share of triad"] = f"{rate / limit:.0%}"
    print(f"\n{case.label}: {rate:.1f} GB/s, {rate / limit:.0%} of the triad ({limit:.1f} GB/s)")
