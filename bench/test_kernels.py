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
from bench.machine import threads_here, triad_gbs, triad_rate

SIZE = int(os.environ.get("BENCH_ELEMENTS", ELEMENTS))


@pytest.fixture(scope="module")
def triad() -> float:
    return triad_gbs(triad_rate(threads_here()))


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.label)
def test_kernel(benchmark: Any, case: Case, triad: float) -> None:
    torch.set_num_threads(threads_here())
    case.check()
    benchmark.pedantic(case.bind(SIZE), rounds=5, warmup_rounds=1)
    rate = case.bytes_moved(SIZE) / benchmark.stats.stats.median / 1e9
    benchmark.extra_info["GB/s"] = round(rate, 1)
    benchmark.extra_info["share of triad"] = f"{rate / triad:.0%}"
    print(f"\n{case.label}: {rate:.1f} GB/s, {rate / triad:.0%} of the triad ({triad:.1f} GB/s)")
