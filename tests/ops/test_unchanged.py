"""Where a merge changes nothing, the values come back bit for bit, -0 included, on every backend.

The expected values are the inputs themselves, not what the reference computes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch

from mergesafe import _native
from mergesafe.methods.spec import KEEP_NONE, Sparsify
from mergesafe.ops.backends.cuda import CudaBackend
from mergesafe.ops.numbers import float32, sums_to_one

from . import emulated
from .helpers import (
    BF16,
    DTYPES,
    F16,
    F32,
    ISAS,
    NATIVE,
    REFERENCE,
    assert_same_bits,
    forced,
    of_bits,
    patterns,
)

ON_GPU = torch.cuda.is_available()


def _native_of(isa: str) -> tuple[Any, Callable[[], AbstractContextManager[None]], str]:
    return NATIVE, lambda: forced(isa), "cpu"


def _cuda() -> tuple[Any, Callable[[], AbstractContextManager[None]], str]:
    on_gpu = ON_GPU and _native.cuda_compiled
    made = CudaBackend(_native.cuda if on_gpu else emulated.module().cuda)
    return made, nullcontext, "cuda" if on_gpu else "cpu"


def _triton() -> tuple[Any, Callable[[], AbstractContextManager[None]], str]:
    pytest.importorskip("triton")
    from . import triton_modules

    return triton_modules.TRITON, nullcontext, triton_modules.DEVICE.type


BACKENDS: dict[str, Callable[[], tuple[Any, Callable[[], AbstractContextManager[None]], str]]] = {
    "reference": lambda: (REFERENCE, nullcontext, "cpu"),
    **{isa: lambda isa=isa: _native_of(isa) for isa in ISAS},  # type: ignore[misc]
    "cuda": _cuda,
    "triton": _triton,
}


class Runner:
    """A backend on its device, in the way that is asked for."""

    def __init__(self, name: str) -> None:
        self.backend, self.context, self.device = BACKENDS[name]()
        #: The interpreter of Triton takes its time.
        self.sizes = (67,) if name == "triton" else (1, 8, 67, 1025, 2049)

    def merge(self, base: torch.Tensor, experts: list[torch.Tensor], **options: Any) -> Any:
        given = {"offset": 0, "normalize": False, "scale": 1.0, "elect": "none", **options}
        with self.context():
            there = [x.to(self.device) for x in experts]
            return self.backend.merge_task_vectors(base.to(self.device), there, **given).cpu()

    def sum(self, tensors: list[torch.Tensor], weights: list[float], dtype: torch.dtype) -> Any:
        with self.context():
            there = [x.to(self.device) for x in tensors]
            return self.backend.weighted_sum(there, weights, dtype).cpu()


@pytest.fixture(params=list(BACKENDS))
def runner(request: pytest.FixtureRequest) -> Runner:
    return Runner(request.param)


def finite(n: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Finite patterns with many zeros of both signs."""
    values = patterns(n, dtype, seed)
    values = torch.where(values.isfinite(), values, torch.ones_like(values))
    width = 32 if dtype is F32 else 16
    zeros = of_bits((torch.arange(n) % 2) << (width - 1), dtype)
    return torch.where(torch.arange(n) % 3 == 0, zeros, values)


def moderate(n: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """The same without values whose difference overflows."""
    values = finite(n, dtype, seed)
    return torch.where(values.abs() < 1e30, values, torch.ones_like(values))


def minus_zeros(values: torch.Tensor) -> int:
    return int(((values == 0) & values.signbit()).sum())


#: Ways in which nothing of a task vector is left.
NOTHING: dict[str, dict[str, Any]] = {
    "weights": {"weights": [0.0, -0.0]},
    "scale": {"scale": 0.0},
    "minus scale": {"scale": -0.0},
    "masks": {"vectors": [Sparsify(*KEEP_NONE), Sparsify(random=True, key=5, threshold=0)]},
    "cancelled": {"weights": [0.5, -0.5]},
}


@pytest.mark.parametrize("elect", ["none", "sum", "count"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_where_the_change_is_zero_the_base_comes_back(
    runner: Runner, count: int, elect: str
) -> None:
    """Both signs of zero, in every path: pairs of bfloat16, rows, any number of experts."""
    for seed, (n, normalize) in enumerate(itertools.product(runner.sizes, (False, True))):
        for dtype in DTYPES:
            base = finite(n, dtype, seed)
            same = [base.clone() for _ in range(count)]
            options = {"weights": [0.3] * count, "vectors": [Sparsify()] * count}
            merged = runner.merge(
                base, same, elect=elect, normalize=normalize, out_dtype=dtype, **options
            )
            assert n < 8 or minus_zeros(base) > 0
            assert_same_bits(merged, base)


@pytest.mark.parametrize("how", NOTHING)
def test_nothing_left_of_the_task_vectors(runner: Runner, how: str) -> None:
    n = runner.sizes[-1]
    base, one = moderate(n, BF16, 1), moderate(n, BF16, 2)
    experts = [one, one.clone() if how == "cancelled" else moderate(n, BF16, 3)]
    options = {"weights": [0.3, 0.7], "vectors": [Sparsify()] * 2} | NOTHING[how]
    assert_same_bits(runner.merge(base, experts, out_dtype=BF16, **options), base)


def test_what_changes_is_the_sum(runner: Runner) -> None:
    """A change that is not zero still ends in +0 where it cancels the base."""
    base = torch.tensor([1.0, -0.0, -2.0, 0.0] * 16, dtype=F32)
    expert = torch.tensor([-1.0, 3.0, -2.0, -0.0] * 16, dtype=F32)
    merged = runner.merge(
        base, [expert], weights=[0.5], vectors=[Sparsify()], out_dtype=F32
    )  # 1 - 1, -0 + 1.5, unchanged, unchanged
    assert_same_bits(merged, torch.tensor([0.0, 1.5, -2.0, 0.0] * 16, dtype=F32))


@pytest.mark.parametrize("special", [float("nan"), float("inf")])
def test_values_that_are_not_finite_spread_as_before(runner: Runner, special: float) -> None:
    base = torch.tensor([1.0, special, 1.0] * 8)
    expert = torch.tensor([special, special, 1.0] * 8)
    merged = runner.merge(base, [expert], weights=[0.5], vectors=[Sparsify()], out_dtype=F32)
    assert torch.equal(merged.isfinite(), torch.tensor([False, False, True] * 8))


#: Weights that sum to 1 but for their rounding to float32.
WHOLE = ([1.0, 0.0], [0.3, 0.7], [0.1, 0.2, 0.7], [1 / 3] * 3, [1.3, -0.3], [0.1] * 10, [1 / 7] * 7)


@pytest.mark.parametrize("weights", WHOLE, ids=str)
def test_equal_inputs_come_back(runner: Runner, weights: list[float]) -> None:
    for seed, n in enumerate(runner.sizes):
        for dtype in DTYPES:
            x = finite(n, dtype, seed)
            total = runner.sum([x.clone() for _ in weights], weights, dtype)
            assert_same_bits(total, x)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_elements_that_differ_are_summed(runner: Runner, count: int) -> None:
    """Only elements that are equal in all inputs are taken as they are."""
    n = runner.sizes[-1]
    x = torch.full((n,), 3.0, dtype=F32)
    weights = [1 / count] * count
    for other in range(1, count):
        inputs = [x.clone() for _ in range(count)]
        inputs[other][::2] = 5.0
        total = runner.sum(inputs, weights, F32)
        assert (total[1::2] == 3.0).all()
        assert total[::2].allclose(torch.tensor(3.0 + 2.0 / count))


def test_zeros_of_both_signs_are_not_equal(runner: Runner) -> None:
    plus, minus = torch.zeros(64), -torch.zeros(64)
    assert_same_bits(runner.sum([minus, plus], [0.5, 0.5], F32), plus)
    assert_same_bits(runner.sum([minus, minus], [0.3, 0.4], F32), minus)


@pytest.mark.parametrize("weights", [[0.3, 0.3], [1.0, 1.0], [1.0, -1.0], [0.5, 0.5 + 1e-5]])
def test_weights_that_do_not_sum_to_one_scale(runner: Runner, weights: list[float]) -> None:
    x = torch.full((64,), 3.0)
    a, b = (torch.tensor(w, dtype=F32) for w in weights)
    assert_same_bits(runner.sum([x, x], weights, F32), x * a + x * b)


def test_one_input_is_scaled_even_by_almost_one(runner: Runner) -> None:
    x, weight = torch.full((64,), 3.0), float32(1 - 2**-24)
    assert_same_bits(runner.sum([x], [weight], F32), x * weight)


def test_inputs_of_two_types_that_hold_the_same_numbers(runner: Runner) -> None:
    x = finite(runner.sizes[-1], BF16, 4)
    assert_same_bits(runner.sum([x, x.float()], [0.3, 0.7], BF16), x)
    half = torch.randn(64, generator=torch.Generator().manual_seed(0)).to(F16)
    assert_same_bits(runner.sum([half.float(), half], [0.3, 0.7], F16), half)


def test_the_reference_in_float64_returns_equal_inputs() -> None:
    x = torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = [0.1, 0.2, 0.7]
    assert torch.equal(REFERENCE.weighted_sum([x, x, x], weights, torch.float64), x)
    near = [0.5, 0.5 + 1e-9]  # one only when rounded to float32
    total = REFERENCE.weighted_sum([x, x], near, torch.float64)
    assert torch.equal(total, x * near[0] + x * near[1])


@pytest.mark.parametrize("count", range(2, 61))
def test_normalised_weights_always_sum_to_one(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    for _ in range(50):
        raw = torch.rand(count, dtype=torch.float64, generator=generator).tolist()
        assert sums_to_one([w / sum(raw) for w in raw])
        assert not sums_to_one([w / sum(raw) * (1 + 1e-4) for w in raw])
