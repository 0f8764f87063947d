"""Random bit patterns, exact comparison, and the settings that results must not depend on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from mergesafe import _native
from mergesafe.methods.spec import KEEP_NONE, Sparsify
from mergesafe.ops.backends.elementary import magnitude_bits
from mergesafe.ops.backends.native import NativeBackend
from mergesafe.ops.backends.reference import ReferenceBackend

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
DTYPES = (BF16, F16, F32)
INTEGERS = {BF16: torch.int16, F16: torch.int16, F32: torch.int32}
ISAS = tuple(_native.available_isas())

NATIVE = NativeBackend()
REFERENCE = ReferenceBackend()

#: Around the widths of registers, chunks of 1024, reduction blocks of 4096 and the 65536 below
#: which selection takes its small path; then more than one thread's least share of 131072.
SIZES = (
    0, 1, 2, 15, 16, 17, 31, 32, 33, 1023, 1024, 1025, 4095, 4096, 4097, 65535, 65536, 65537,
    131075,
)  # fmt: skip

SPECIAL = {
    # zeros, least and largest subnormal, least normal, one, largest, infinity, quiet and other NaN
    BF16: (0x0000, 0x0001, 0x007F, 0x0080, 0x3F80, 0x7F7F, 0x7F80, 0x7FC0, 0x7F81, 0x7FFF),
    F16: (0x0000, 0x0001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0x7C00, 0x7E00, 0x7C01, 0x7FFF),
    F32: (
        0x00000000, 0x00000001, 0x007FFFFF, 0x00800000, 0x3F800000, 0x7F7FFFFF, 0x7F800000,
        0x7FC00000, 0x7F800001, 0x7FFFFFFF,
    ),
}  # fmt: skip


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def of_bits(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor whose elements have these (unsigned) bit patterns."""
    width = 32 if dtype is F32 else 16
    signed = torch.where(values >= 1 << (width - 1), values - (1 << width), values)
    return signed.to(INTEGERS[dtype]).view(dtype)


def patterns(n: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Half random bit patterns, a quarter special values of either sign, a quarter ordinary."""
    g = generator(seed)
    width = 32 if dtype is F32 else 16
    out = of_bits(torch.randint(0, 1 << width, (n,), generator=g), dtype)
    special = torch.tensor([v | s << (width - 1) for v in SPECIAL[dtype] for s in (0, 1)])
    kind = torch.randint(0, 4, (n,), generator=g)
    chosen = special[torch.randint(0, len(special), (n,), generator=g)]
    out = torch.where(kind == 0, of_bits(chosen, dtype), out)
    return torch.where(kind == 1, torch.randn(n, generator=g).to(dtype), out)


def ordinary(n: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(n, generator=generator(seed)).to(dtype)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(INTEGERS[tensor.dtype]) if tensor.dtype in INTEGERS else tensor


def assert_same_bits(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if not torch.equal(bits(actual), bits(expected)):
        wrong = (bits(actual) != bits(expected)).nonzero()
        at = tuple(wrong[0].tolist())
        raise AssertionError(
            f"{len(wrong)} of {actual.numel()} elements differ, first at {at}: "
            f"{actual[at]} ({int(bits(actual)[at]):#x}) instead of "
            f"{expected[at]} ({int(bits(expected)[at]):#x})"
        )


def same_floats(actual: Sequence[float], expected: Sequence[float]) -> bool:
    """Equal float64 values, where NaN equals NaN."""
    return [x.hex() for x in actual] == [x.hex() for x in expected]


@contextmanager
def forced(isa: str = "auto", threads: int | None = None) -> Iterator[None]:
    """Run with one instruction set and number of threads."""
    before = torch.get_num_threads()
    _native.use_isa(isa)
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        _native.use_isa("auto")
        torch.set_num_threads(before)


def some_mask(kind: str, base: torch.Tensor, x: torch.Tensor, seed: int) -> Sparsify:
    """A mask of the given kind whose bounds are values that occur."""
    rescale = (1.0, 0.7300000190734863, 3.0e38)[seed % 3]
    if kind == "none" or base.numel() == 0:
        return Sparsify(rescale=rescale)
    if kind == "empty":
        return Sparsify(*KEEP_NONE)
    if kind == "random":
        key = 0x9E3779B97F4A7C15 * (seed + 1) & 0xFFFFFFFFFFFFFFFF
        threshold = (0x4CCCCCCD, 0, 0xFFFFFFFF, 0x80000000)[seed % 4]
        return Sparsify(random=True, key=key, threshold=threshold, rescale=rescale)
    ordered = magnitude_bits(x.float() - base.float()).sort().values
    low = int(ordered[len(ordered) // 3])
    if kind == "magnitude":
        return Sparsify(low, rescale=rescale)
    return Sparsify(low, int(ordered[len(ordered) * 9 // 10]), rescale=rescale)


def merge_arguments(
    base: torch.Tensor, experts: Sequence[torch.Tensor], kinds: Sequence[str], seed: int
) -> dict[str, Any]:
    """Masks and weights for a call of a backend's merge_task_vectors."""
    masks = [some_mask(kinds[i % len(kinds)], base, x, seed + i) for i, x in enumerate(experts)]
    weights = [(0.3, -0.7, 1.0, 0.25, 2.5, 0.0)[(seed + i) % 6] for i in range(len(experts))]
    return {"base": base, "experts": experts, "vectors": masks, "weights": weights}
