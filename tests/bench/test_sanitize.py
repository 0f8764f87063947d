"""What runs under compute-sanitizer and ncu."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from bench import ncu, sanitize
from bench.cases import cases
from mergesafe.ops.backends.base import Backend
from mergesafe.ops.backends.reference import ReferenceBackend

CPU = torch.device("cpu")


def test_every_method_of_a_backend_is_called() -> None:
    methods = {name for name, _ in inspect.getmembers(Backend, inspect.isfunction)}
    called = {call.__name__ for call in sanitize.CALLS}
    assert called - {"many_experts"} == {name for name in methods if not name.startswith("_")}


def test_a_wrong_backend_is_found() -> None:
    class Wrong(ReferenceBackend):
        def inner_products(self, *args: Any) -> torch.Tensor:
            return super().inner_products(*args) + 1

    assert sanitize.wrong(ReferenceBackend(), CPU, (17,)) == []
    found = sanitize.wrong(Wrong(), CPU, (1,))
    assert found
    assert all(each.startswith("inner_products of 1 ") for each in found)


def test_tensors_start_on_the_grid_and_off_it() -> None:
    for shift in (0, 1):
        x = sanitize.Inputs(17, torch.bfloat16, 0, shift)
        tensors = [x.grad, x.base, *x.experts, x.out()]
        assert all(t.storage_offset() == shift and t.is_contiguous() for t in tensors)


PRINTED = """==PROF== Connected to process 1
some line of the program
"ID","Process ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","1","void sum<3>(Job)","dram__throughput.avg.pct_of_peak_sustained_elapsed","%","91.5"
"0","1","void sum<3>(Job)","launch__registers_per_thread","register/thread","40"
"1","1","rank(int)","sm__warps_active.avg.pct_of_peak_sustained_active","%","48.0"
==PROF== Disconnected
"""


def test_counters_are_read() -> None:
    assert ncu.parse(PRINTED) == [
        {"kernel": "void sum<3>", "dram_%": "91.5", "registers": "40"},
        {"kernel": "rank", "occupancy_%": "48.0"},
    ]
    assert ncu.parse("==ERROR== ERR_NVGPUCTRPERM\n") == []


def test_the_profiled_cases_exist() -> None:
    assert set(ncu.MAIN) <= {case.label for case in cases()}
