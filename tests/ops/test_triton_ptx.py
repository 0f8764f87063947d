"""What Triton compiles for NVIDIA GPUs, which need not be there: exact arithmetic, wide accesses.

The backend is called as ever, on CPU tensors; where it launches a kernel, Triton only compiles it
for the arguments that it is given.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton
from triton.backends.compiler import GPUTarget

from mergesafe.methods.fused import FUSED as FUSED_KERNELS
from mergesafe.methods.spec import Sparsify
from mergesafe.ops.backends.base import MergeJob, RankJob

from . import triton_modules
from .helpers import BF16, DTYPES, F16

MODULES = triton_modules.load(interpret=False)
KERNELS = MODULES["triton_kernels"]
TRITON = MODULES["triton"].TritonBackend()

RUN = triton.JITFunction.run

FUSED = re.compile(r"\bfma\.rn\.f")
WIDE_LOAD = re.compile(r"\bld\.global[.\w:]*\.v4\.[bu]32")
WIDE_STORE = re.compile(r"\bst\.global[.\w:]*\.v4\.[bu]32")
#: Quotients of floats; div.full and div.approx are not rounded to nearest.
DIVISION = re.compile(r"\bdiv\.\w+\.f(?:32|64)|\brcp\.\S+")
#: Flushing subnormals to zero is not exact either.
FLUSHED = re.compile(r"\.ftz\b")


@dataclass
class Device:
    """Stands for the driver of one compute capability, and keeps what was compiled for it."""

    capability: int
    fusion: bool = False
    kernels: list[Any] = field(default_factory=list)

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # compiled kernels are remembered by device

    def get_current_stream(self, device: int) -> int:
        return 0

    def compile(self, kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        """In place of JITFunction.run."""
        options["enable_fp_fusion"] |= self.fusion
        self.kernels.append(RUN(kernel, *args, grid=grid, warmup=True, **options))

    @property
    def ptx(self) -> list[str]:
        return [kernel.asm["ptx"] for kernel in self.kernels]


@pytest.fixture
def device_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Device]:
    def make(capability: int, fusion: bool = False) -> Device:
        device = Device(capability, fusion)
        monkeypatch.setattr(triton.runtime.driver, "_active", device)
        monkeypatch.setattr(
            triton.JITFunction,
            "run",
            lambda kernel, *args, **options: device.compile(kernel, *args, **options),
        )
        return device

    return make


def _tensors(count: int, n: int = 4096, dtypes: Sequence[torch.dtype] = (BF16,)):
    return [torch.zeros(n, dtype=dtypes[i % len(dtypes)]) for i in range(count)]


def _merge(vectors: Sequence[Sparsify], tensors: Sequence[torch.Tensor], **changes: Any) -> None:
    options = {"elect": "sum", "normalize": True, "scale": 0.5, "offset": 0, "out_dtype": BF16}
    weights = [0.3] * len(vectors)
    TRITON.merge_task_vectors(tensors[0], tensors[1:], vectors, weights, **options | changes)


def _every_kernel(tensors: Sequence[torch.Tensor]) -> None:
    """Calls all that the backend offers, with random and other masks."""
    base, experts = tensors[0], tensors[1:]
    vectors = [Sparsify(random=i % 2 == 1, threshold=1 << 31) for i in range(len(experts))]
    weights = torch.ones(1, len(experts))
    job = MergeJob(base, experts, vectors)
    for elect in ("none", "sum", "count"):
        for normalize in (False, True):
            _merge(vectors, tensors, elect=elect, normalize=normalize)
            TRITON.merge_gradients([base], [job], weights, elect, normalize)
    for norm in ("l1", "l2", "linf"):
        TRITON.norm_jobs([job], norm)
    TRITON.weighted_sum(tensors, [1.0] * len(tensors), F16)
    for kernel, shape in FUSED_KERNELS.items():
        inputs = experts[: shape.inputs]
        coefficients = [0.5] * shape.coefficients_of(len(inputs))
        TRITON.fused(kernel, base, inputs * shape.tensors, coefficients, F16)
    TRITON.gram(tensors, [0.0] * len(tensors) ** 2)
    TRITON.inner_products([base], [experts])
    # rank 0, which the counts of kernels that have not run can answer
    TRITON.rank_jobs([RankJob(base, experts, [(0, 0)])])
    TRITON.magnitude_histogram(base, experts, None)
    TRITON.magnitude_histogram(base, experts, [5] * len(experts))


@pytest.mark.parametrize(("capability", "dtypes"), [(80, DTYPES), (90, (BF16,))])
def test_arithmetic_is_exact(capability: int, dtypes, device_of) -> None:
    device = device_of(capability)
    _every_kernel(_tensors(3, 4096, dtypes))
    assert len(device.ptx) == 25 + len(FUSED_KERNELS)
    for ptx in device.ptx:
        assert not FUSED.search(ptx)
        assert not FLUSHED.search(ptx)
        assert set(DIVISION.findall(ptx)) <= {"div.rn.f32"}
    assert any("div.rn.f32" in ptx for ptx in device.ptx)


def test_the_check_for_contraction_can_fail(device_of) -> None:
    device = device_of(80, fusion=True)
    _merge([Sparsify()] * 2, _tensors(3))
    TRITON.weighted_sum(_tensors(2), [1.0, 2.0], BF16)
    job = MergeJob(_tensors(1)[0], _tensors(1), [Sparsify()])
    TRITON.merge_gradients(_tensors(1), [job], torch.ones(1, 1), "none", False)
    assert len(device.ptx) == 3
    assert all(FUSED.search(ptx) for ptx in device.ptx)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("random", [False, True])
def test_bfloat16_is_read_and_written_16_bytes_at_a_time(
    capability: int, random, device_of
) -> None:
    device = device_of(capability)
    _merge([Sparsify(random=random)] * 3, _tensors(4))
    TRITON.weighted_sum(_tensors(3), [1.0] * 3, BF16)
    merge, total = device.ptx
    assert len(WIDE_LOAD.findall(merge)) == 4
    assert len(WIDE_LOAD.findall(total)) == 3
    assert len(WIDE_STORE.findall(merge)) == len(WIDE_STORE.findall(total)) == 1


def test_misaligned_inputs_are_read_element_by_element(device_of) -> None:
    """So that the count above counts, and because wide accesses would trap."""
    device = device_of(80)
    TRITON.weighted_sum([x[1:] for x in _tensors(3, 4097)], [1.0] * 3, BF16)
    assert not WIDE_LOAD.search(device.ptx[0])


def test_values_do_not_compile_anew(device_of) -> None:
    """Weights, bounds, keys, scales and offsets are data; dtypes and options are not."""
    device = device_of(80)
    tensors = _tensors(3)
    for lo, key, threshold, offset in [(0, 0, 0, 0), (1, 1, 1, 64), (16, 1 << 63, 1 << 31, 640)]:
        vectors = [Sparsify(lo, key=key), Sparsify(random=True, key=key, threshold=threshold)]
        _merge(vectors, tensors, scale=float(lo), offset=offset)
    assert len({id(kernel) for kernel in device.kernels}) == 1
    _merge(vectors, tensors, elect="count")
    assert len({id(kernel) for kernel in device.kernels}) == 2


def test_interpreting_leaves_no_trace() -> None:
    """Neither in the environment, nor for whoever imports the backend or defines a kernel next."""
    before = dict(os.environ), own_modules()
    interpreted = triton_modules.load(interpret=True)["triton_kernels"]
    assert interpreted is not KERNELS
    assert not isinstance(interpreted.merge, triton.JITFunction)
    assert isinstance(KERNELS.merge, triton.JITFunction)
    assert not triton.knobs.runtime.interpret
    assert (dict(os.environ), own_modules()) == before


def own_modules() -> dict[str, object]:
    return {name: module for name, module in sys.modules.items() if name.startswith("mergesafe")}
