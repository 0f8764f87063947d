"""``pytest bench/ --benchmark-only``: the kernels under pytest-benchmark.

GB/s and the share of the limit measured in the same run are in the extra info of each row.
``BENCH_ELEMENTS`` changes the size, ``BENCH_DEVICE`` the device: cpu, cuda or auto.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from bench.cases import CHECKED, ELEMENTS, Case, cases
from bench.machine import Yardstick, threads_here, yardstick
from bench.timing import measure_on
from mergesafe.errors import BackendError
from mergesafe.ops.backends.registry import get_backend

SIZE = int(os.environ.get("BENCH_ELEMENTS", ELEMENTS))


@pytest.fixture(scope="module")
def limit(device: torch.device) -> Yardstick:
    return yardstick(device, threads_here())


@pytest.mark.parametrize("backend", ["native", "triton"])
@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.label)
def test_kernel(
    benchmark: Any, case: Case, backend: str, device: torch.device, limit: Yardstick
) -> None:
    torch.set_num_threads(threads_here())
    try:
        runner = get_backend(backend, device)
    except BackendError as error:
        pytest.skip(str(error))
    case.check(runner, case.data(CHECKED, device))
    call = case.bind(SIZE, runner, device)

    def finished() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(finished, rounds=5, warmup_rounds=1)
    timing, beside = measure_on(device, [call, limit], 5, limit)  # the share needs both in turn
    rate, bound = case.bytes_moved(SIZE) / timing.p50 / 1e9, limit.gbs(beside)
    benchmark.extra_info["GB/s"] = round(rate, 1)
    benchmark.extra_info[f"share of {limit.name}"] = f"{rate / bound:.0%}"
    print(
        f"\n{case.label} {backend}: {rate:.1f} GB/s, {rate / bound:.0%} of the {limit.name} "
        f"({bound:.1f} GB/s)"
    )
