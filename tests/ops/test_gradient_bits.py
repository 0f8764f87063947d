"""inner_products and merge_gradients: the kernels give the reference's bits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from mergesafe.methods.spec import Sparsify
from mergesafe.ops.backends.base import MergeJob

from .helpers import (
    BF16,
    DTYPES,
    F16,
    F32,
    ISAS,
    NATIVE,
    REFERENCE,
    SIZES,
    forced,
    generator,
    merge_arguments,
    patterns,
    same_floats,
)

KINDS = ("none", "magnitude", "window", "random", "empty")
#: (elect, normalize): normalize alone is what :mod:`mergesafe.ops.gradients` makes of the sums.
MODES = (("none", False), ("sum", False), ("sum", True), ("count", False), ("count", True))
#: More than two threads' least share, so that work is really split, and no whole block at the end.
LARGE = 2 * 131072 + 4096 + 3


def _finite(n: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Bit patterns so small that rescaling by 3e38 does not make infinities of them; most are zero
    or of extreme exponents.
    """
    x = patterns(n, dtype, seed).float()
    x = torch.where(x.isfinite() & (x.abs() < 2.0**-4), x, torch.zeros_like(x))
    return x.to(dtype)


def _deltas(n: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Ordinary weights: experts a small delta away from one base."""
    base = torch.randn(n, generator=generator(0)) * 0.02
    return (base + torch.randn(n, generator=generator(seed)) * 0.001 * (seed > 0)).to(dtype)


MAKERS = (_finite, patterns, _deltas)


def _same(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    assert actual.dtype is torch.float64
    assert actual.shape == expected.shape
    return same_floats(actual.flatten().tolist(), expected.flatten().tolist())


def _inputs(
    make: Any, n: int, count: int, seed: int, dtypes: Sequence[torch.dtype]
) -> list[torch.Tensor]:
    return [make(n, dtypes[(seed + i) % len(dtypes)], seed * 31 + i) for i in range(count)]


def _job(tensors: list[torch.Tensor], kinds: Sequence[str], seed: int, offset: int) -> Any:
    """A gradient, its job, and the weights."""
    given = merge_arguments(tensors[1], tensors[2:], kinds, seed)
    return tensors[0], MergeJob(tensors[1], tensors[2:], given["vectors"], offset), given["weights"]


def _compare(grad, job: MergeJob, weights: Sequence[float], mode: Any, **options) -> None:
    arguments = ([grad], [job], torch.tensor([weights], dtype=torch.float64), *mode)
    expected = REFERENCE.merge_gradients(*arguments)
    for isa in ISAS:
        with forced(isa, **options):
            assert _same(NATIVE.merge_gradients(*arguments), expected)


def _check(make, seed: int, n: int, experts: int, dtypes, kinds, mode: Any, **options) -> None:
    tensors = _inputs(make, n, experts + 2, seed, dtypes)
    offset = (0, 64, 63, 2**40 + 17, 4096 * 3)[seed % 5]
    _compare(*_job(tensors, kinds, seed, offset), mode, **options)


@pytest.mark.parametrize("n", SIZES)
def test_gradients_at_every_size(n: int) -> None:
    for seed, mode in enumerate(MODES):
        dtypes = (BF16,) if (seed + n) % 2 else DTYPES
        for make in MAKERS:
            _check(make, seed + n, n, 1 + (seed + n) % 4, dtypes, KINDS, mode)


@pytest.mark.parametrize("experts", [1, 2, 3, 4, 5, 6, 9])
@pytest.mark.parametrize("dtypes", [(BF16,), (F16,), (F32,), (BF16, F16, F32)])
def test_gradients_with_every_option(experts: int, dtypes: tuple[torch.dtype, ...]) -> None:
    masks = [(kind,) for kind in KINDS] + [KINDS, ("random", "window")]
    for seed, (kinds, mode) in enumerate(itertools.product(masks, MODES)):
        make = MAKERS[(seed + experts) % 3]
        _check(make, seed, 1025 + seed, experts, dtypes, kinds, mode)


@pytest.mark.parametrize("experts", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("make", MAKERS)
def test_gradients_without_rescaling(experts: int, make: Any) -> None:
    """Whole task vectors and magnitudes from a bound on, which kernels have shorter ways for."""
    tensors = _inputs(make, 4096 + 1025, experts + 2, experts, (BF16,))
    whole, trimmed, none = Sparsify(), Sparsify(0x3A800000), Sparsify(0x7F800001)
    for vectors in ([whole], [trimmed], [whole, trimmed], [trimmed, none]):
        each = [vectors[i % len(vectors)] for i in range(experts)]
        for mode in MODES:
            weights = [0.3, -0.7, 1.0, 0.25, 2.5][:experts]
            _compare(tensors[0], MergeJob(tensors[1], tensors[2:], each), weights, mode)


def test_finite_patterns_make_finite_sums() -> None:
    """So that comparing them above says more than that NaN equals NaN."""
    tensors = _inputs(_finite, 5000, 5, 1, DTYPES)
    grad, job, weights = _job(tensors, ("window",), 0, 0)
    for elect, normalize in MODES:
        sums = NATIVE.merge_gradients([grad], [job], torch.tensor([weights]), elect, normalize)
        assert sums[:, :-1].isfinite().all()
        assert (sums[:, :-1] != 0).any()
        assert bool(sums[0, -1] != 0) == (elect != "none" and normalize)


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("mode", [("none", False), ("sum", True)])
def test_gradients_over_threads(threads: int, mode: tuple[str, bool]) -> None:
    n = LARGE if threads < 7 else 7 * 131072 + 5
    for kinds in (("magnitude",), ("random", "none")):
        _check(_finite, threads * 5, n, 2, (BF16,), kinds, mode, threads=threads)


@pytest.mark.parametrize("weights", [[0.0, 0.0, 0.0], [0.5, -0.5, 0.25], [-1.0, -2.0, -3.0],
                                     [3e38, 3e38, 1e-40], [1e-45, -1e-45, 1.0]])  # fmt: skip
@pytest.mark.parametrize("make", MAKERS)
def test_divisors_of_every_kind(weights: list[float], make: Any) -> None:
    """Zero, cancelled, infinite and subnormal sums of the weights that agree."""
    tensors = _inputs(make, 5000, 5, 0, (BF16,))
    vectors = [Sparsify(), Sparsify(0x3A800000), Sparsify(rescale=0.73)]
    for mode in MODES:
        _compare(tensors[0], MergeJob(tensors[1], tensors[2:], vectors), weights, mode)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_task_vectors_leave_finite_sums(dtype: torch.dtype) -> None:
    """They never agree, but turn the elected sign where they are kept."""
    grad, base, *experts = _inputs(_deltas, 5000, 5, 1, (dtype,))
    for i, x in enumerate(experts):
        x[torch.randint(0, 5000, (1000,), generator=generator(i))] = float("nan")
    keep, drop = Sparsify(), Sparsify(0, 0x7F800000)
    for vectors in ([keep] * 3, [drop] * 3, [keep, drop, Sparsify(rescale=0.73)]):
        job = MergeJob(base, experts, vectors)
        for mode in MODES[1:]:
            _compare(grad, job, [0.3, 0.7, -1.0], mode)
            sums = NATIVE.merge_gradients([grad], [job], torch.tensor([[0.3, 0.7, -1.0]]), *mode)
            assert sums.isfinite().all()


def test_overflowing_coefficients_become_infinite_alike() -> None:
    tensors = _inputs(patterns, 4099, 5, 3, (BF16,))
    vectors = [Sparsify(rescale=1e300), Sparsify(0x3C000000), Sparsify(0x3C000000, rescale=0.0)]
    job = MergeJob(tensors[1], tensors[2:], vectors)
    for mode in MODES:
        _compare(tensors[0], job, [1e300, -1e300, 0.5], mode)


def test_misaligned_inputs() -> None:
    """Addresses that are multiples of the element's size only."""
    for shift, dtypes in itertools.product((1, 3, 7), ((BF16,), DTYPES)):
        tensors = [x[shift:] for x in _inputs(_finite, 4099 + shift, 5, shift, dtypes)]
        _compare(*_job(tensors, ("window", "random"), shift, 64 * shift), ("sum", True))
        products = REFERENCE.inner_products([tensors[0]], [tensors[1:]])
        for isa in ISAS:
            with forced(isa):
                assert _same(NATIVE.inner_products([tensors[0]], [tensors[1:]]), products)


@pytest.mark.parametrize("n", SIZES)
def test_inner_products(n: int) -> None:
    for seed, make in enumerate(MAKERS):
        for dtypes in ((BF16,), DTYPES):
            tensors = _inputs(make, n, 2 + (n + seed) % 6, n + seed, dtypes)
            expected = REFERENCE.inner_products([tensors[0]], [tensors[1:]])
            for isa in ISAS:
                with forced(isa):
                    assert _same(NATIVE.inner_products([tensors[0]], [tensors[1:]]), expected)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_inner_products_over_threads(threads: int) -> None:
    tensors = _inputs(_finite, 7 * 131072 + 5, 3, threads, (BF16,))
    expected = REFERENCE.inner_products([tensors[0]], [tensors[1:]])
    with forced(threads=threads):
        assert _same(NATIVE.inner_products([tensors[0]], [tensors[1:]]), expected)


def test_more_block_sums_than_are_added_at_a_time() -> None:
    """64 * 64 blocks and one more: three levels, the last group of each with a single term."""
    n = 4096 * 4096 + 1
    x = torch.ones(n, dtype=BF16)
    x[::4096] = 3.1e38
    x[2048::4096] = -3e38
    expected = REFERENCE.inner_products([x], [[x]])
    with forced(threads=2):
        assert _same(NATIVE.inner_products([x], [[x]]), expected)


def test_jobs_of_different_sizes_and_dtypes() -> None:
    jobs = [
        _job(_inputs(_finite, n, 5, seed, dtypes), KINDS, seed, 64 * seed)
        for seed, (n, dtypes) in enumerate(
            [(4097, (BF16,)), (0, (F32,)), (1, DTYPES), (99, (F16,))]
        )
    ]
    grads, merges, weights = zip(*jobs, strict=True)
    inputs = [[job.base, *job.experts] for job in merges]
    for elect, normalize in MODES:
        arguments = (grads, merges, torch.tensor(weights), elect, normalize)
        actual = NATIVE.merge_gradients(*arguments)
        assert _same(actual, REFERENCE.merge_gradients(*arguments))
        assert actual.shape == (4, 4)
        assert actual[1].tolist() == [0.0] * 4
    products = NATIVE.inner_products(grads, inputs)
    assert _same(products, REFERENCE.inner_products(grads, inputs))
    assert products[1].tolist() == [0.0] * 4
