"""Element types: every 16-bit pattern, and rounding from float32, against torch's conversions."""

from __future__ import annotations

import pytest
import torch

from mergesafe.methods.spec import Sparsify

from .helpers import (
    BF16,
    F16,
    F32,
    ISAS,
    NATIVE,
    REFERENCE,
    SPECIAL,
    assert_same_bits,
    forced,
    generator,
    of_bits,
    patterns,
    same_floats,
)

NAN = {BF16: 0x7FC0, F16: 0x7E00, F32: 0x7FC00000}


def _converted(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """torch's conversion with the one NaN that is ever written."""
    out = x.to(dtype)
    nan = of_bits(torch.tensor([NAN[dtype]]), dtype)
    return torch.where(out.isnan(), nan, out)


def _check(x: torch.Tensor, dtype: torch.dtype) -> None:
    expected = _converted(x, dtype)
    assert_same_bits(REFERENCE.weighted_sum([x], [1.0], dtype), expected)
    for isa in ISAS:
        with forced(isa):
            assert_same_bits(NATIVE.weighted_sum([x], [1.0], dtype), expected)


@pytest.mark.parametrize("dtype", [BF16, F16])
@pytest.mark.parametrize("out", [BF16, F16, F32])
def test_every_16_bit_pattern(dtype: torch.dtype, out: torch.dtype) -> None:
    every = of_bits(torch.arange(65536), dtype)
    _check(every, out)
    _check(every.float(), out)


@pytest.mark.parametrize("out", [BF16, F16, F32])
def test_random_float32_patterns(out: torch.dtype) -> None:
    _check(of_bits(torch.randint(0, 1 << 32, (1 << 19,), generator=generator(1)), F32), out)


@pytest.mark.parametrize("out", [BF16, F16])
def test_halfway_cases(out: torch.dtype) -> None:
    """Between each two neighbours: the midpoint, and one float32 step to either side."""
    infinity = SPECIAL[out][6]
    low = of_bits(torch.arange(infinity), out).double()
    high = of_bits(torch.arange(1, infinity + 1), out).double()
    # past the largest finite value stands the next power of two, not infinity
    high[-1] = 2.0 ** (128 if out is BF16 else 16)
    middle = (low + high) / 2
    bits = middle.float().view(torch.int32).long()
    for step in (-1, 0, 1):
        for sign in (0, 1 << 31):
            _check(of_bits((bits + step) | sign, F32), out)


def test_every_nan_becomes_the_canonical_one() -> None:
    for dtype, out in ((F32, BF16), (BF16, F16), (F16, F32), (F32, F32)):
        nans = of_bits(torch.tensor([SPECIAL[dtype][i] for i in (7, 8, 9)] * 40), dtype)
        expected = of_bits(torch.full((120,), NAN[out]), out)
        for x in (nans, -nans):
            assert_same_bits(NATIVE.weighted_sum([x], [-1.0], out), expected)
            assert_same_bits(REFERENCE.weighted_sum([x], [-1.0], out), expected)


@pytest.mark.parametrize("n", [100, 2 * 131072 + 5])
def test_subnormals_survive_a_process_that_flushes_them(n: int) -> None:
    """torch.set_flush_denormal, and any library built with -ffast-math, change the processor's
    mode for the calling thread; the kernels do not depend on it and leave it as it was.
    """
    tensors = [patterns(n, F16, 1), patterns(n, F32, 2), patterns(n, BF16, 3)]
    expected = REFERENCE.weighted_sum(tensors, [1.0, 1e-3, 1e-3], F32)
    norms = REFERENCE.delta_norms(tensors[0], tensors[1:2], [Sparsify()], "l1", [0.0, 0.0], 0)
    assert torch.set_flush_denormal(True)
    try:
        with forced(threads=2):
            actual = NATIVE.weighted_sum(tensors, [1.0, 1e-3, 1e-3], F32)
            found = NATIVE.delta_norms(tensors[0], tensors[1:2], [Sparsify()], "l1", [0.0, 0.0], 0)
        subnormal = torch.full((1,), 1e-30) * 1e-10
    finally:
        torch.set_flush_denormal(False)
    assert float(subnormal) == 0.0, "the mode was put back"
    assert_same_bits(actual, expected)
    assert same_floats(found, norms)
