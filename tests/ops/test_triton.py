"""The Triton backend gives the reference's bits: on a GPU, or interpreted where there is none.

The interpreter takes milliseconds per program, so sizes are those around the edges of a program and
no larger.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from mergesafe.methods.spec import Sparsify
from mergesafe.ops.backends.base import MergeJob, RankJob

from .helpers import (
    BF16,
    DTYPES,
    F16,
    F32,
    REFERENCE,
    assert_same_bits,
    merge_arguments,
    of_bits,
    ordinary,
    patterns,
)
from .triton_modules import DEVICE, MODULES, TRITON, moved

#: NumPy, which interprets the kernels, warns of what the patterns are made for.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")

SIZES = (0, 1, 15, 16, 17, 1023, 1025, 4097)
KINDS = ("none", "magnitude", "window", "random", "empty")
ELECT = ("none", "sum", "count")
OFFSETS = (0, 1, 63, 2**40 + 17)


def _inputs(n: int, count: int, seed: int, dtypes: Sequence[torch.dtype] = DTYPES):
    return [patterns(n, dtypes[(seed + i) % len(dtypes)], seed * 31 + i) for i in range(count)]


def _misaligned(x: torch.Tensor, shift: int) -> torch.Tensor:
    """The same values on the device, ``shift`` elements after where they could best be loaded."""
    around = torch.empty(x.numel() + shift, dtype=x.dtype, device=DEVICE)
    around[shift:] = x
    return around[shift:]


def _check_merge(arguments: dict[str, Any]) -> None:
    expected = REFERENCE.merge_task_vectors(**arguments)
    actual = TRITON.merge_task_vectors(**{name: moved(x) for name, x in arguments.items()})
    assert_same_bits(actual.cpu(), expected)


def _merge(seed: int, n: int, experts: int, dtypes, kinds, elect, normalize) -> None:
    tensors = _inputs(n, experts + 1, seed, dtypes)
    _check_merge(
        merge_arguments(tensors[0], tensors[1:], kinds, seed)
        | {
            "elect": elect,
            "normalize": normalize,
            "scale": (1.0, 0.3, -2.0)[seed % 3],
            "offset": OFFSETS[seed % 4],
            "out_dtype": DTYPES[seed % 3],
        }
    )


@pytest.mark.parametrize("dtype", [BF16, F16])
def test_every_pattern_is_loaded_and_stored_exactly(dtype: torch.dtype) -> None:
    x = of_bits(torch.arange(1 << 16), dtype)
    for out_dtype in DTYPES:
        expected = REFERENCE.weighted_sum([x], [1.0], out_dtype)
        assert_same_bits(TRITON.weighted_sum([moved(x)], [1.0], out_dtype).cpu(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_to_nearest_even(dtype: torch.dtype) -> None:
    """Float32 just below, at and just above the middle between two values of the narrower type."""
    low = (0, 0xFFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xF000, 0xFFFF)
    halves = torch.arange(1 << 16)
    x = of_bits(halves << 16 | torch.tensor(low)[(halves * 7 + (halves >> 8)) % len(low)], F32)
    expected = REFERENCE.weighted_sum([x], [1.0], dtype)
    assert_same_bits(TRITON.weighted_sum([moved(x)], [1.0], dtype).cpu(), expected)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_weighted_sum(n: int, count: int) -> None:
    tensors = _inputs(n, count, n + count)
    weights = [(0.3, -1.0, 1e-40, 3e38, 0.0, 1.0)[(n + i) % 6] for i in range(count)]
    out_dtype = DTYPES[(n + count) % 3]
    expected = REFERENCE.weighted_sum(tensors, weights, out_dtype)
    actual = TRITON.weighted_sum(moved(tensors), weights, out_dtype)
    assert_same_bits(actual.cpu(), expected)


@pytest.mark.parametrize("n", SIZES)
def test_merge_at_every_size(n: int) -> None:
    for seed, elect in enumerate(ELECT):
        _merge(seed + n, n, 1 + (seed + n) % 4, DTYPES, KINDS, elect, bool(seed % 2))


@pytest.mark.parametrize("experts", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("elect", ELECT)
@pytest.mark.parametrize("normalize", [False, True])
def test_merge_with_every_option(experts: int, elect: str, normalize: bool) -> None:
    masks = [*((kind,) for kind in KINDS), KINDS]
    for seed, kinds in enumerate(masks):
        dtypes = ((BF16,), (F16,), (F32,), DTYPES)[(seed + experts) % 4]
        _merge(seed + experts, 97 + seed, experts, dtypes, kinds, elect, normalize)


@pytest.mark.parametrize("offset", OFFSETS)
def test_random_masks_over_programs(offset: int) -> None:
    """A program begins at a group of 64 elements of the tensor, wherever the first one lies."""
    tensors = _inputs(2049, 3, offset % 7, (F32,))
    arguments = merge_arguments(tensors[0], tensors[1:], ("random", "window"), 4)
    options = {"elect": "sum", "normalize": True, "scale": 1.0, "out_dtype": F32}
    _check_merge(arguments | options | {"offset": offset})


@pytest.mark.parametrize("shift", [1, 3, 7])
def test_misaligned_inputs_and_outputs(shift: int) -> None:
    """Addresses that are multiples of the element's size only; nothing is written around."""
    n = 1041
    tensors = _inputs(n, 3, shift)
    moved = [_misaligned(x, shift) for x in tensors]
    arguments = merge_arguments(tensors[0], tensors[1:], ("window", "random"), shift)
    arguments |= {"elect": "sum", "normalize": True, "scale": 0.5, "offset": shift}
    around = torch.full((n + 64,), 7.0, dtype=BF16, device=DEVICE)
    expected = REFERENCE.merge_task_vectors(**arguments, out_dtype=BF16)
    arguments |= {"base": moved[0], "experts": moved[1:]}
    out = around[shift : n + shift]
    assert TRITON.merge_task_vectors(**arguments, out_dtype=BF16, out=out) is out
    assert_same_bits(out.cpu(), expected)
    TRITON.weighted_sum(moved, [0.1, 0.2, 0.3], BF16, out)
    assert_same_bits(out.cpu(), REFERENCE.weighted_sum(tensors, [0.1, 0.2, 0.3], BF16))
    assert (around[:shift] == 7.0).all()
    assert (around[n + shift :] == 7.0).all()


def test_divisors_next_to_nothing() -> None:
    """Sums of weights around the 1e-8 below which a divisor is 1, zero and NaN."""
    x = _inputs(33, 2, 1, (F32,))
    edge = torch.tensor([1e-8]).view(torch.int32)
    near = [float((edge + step).view(F32)) for step in (-1, 0, 1)]
    assert near[1] < 1e-8 < near[2]
    for weight in (*near, -near[1], -near[2], 0.0, float("inf"), float("nan")):
        arguments = {"base": x[0], "experts": x[1:], "vectors": [Sparsify()], "weights": [weight]}
        options = {"elect": "none", "normalize": True, "scale": 1.0, "offset": 0}
        _check_merge(arguments | options | {"out_dtype": F32})


def test_coefficients_beyond_float32() -> None:
    x = _inputs(257, 3, 1)
    arguments = {
        "base": x[0],
        "experts": x[1:],
        "vectors": [Sparsify(rescale=1e300), Sparsify(0x7F800002, 1 << 40, rescale=1e-40)],
        "weights": [1e300, -1e300],
    }
    for elect, normalize in itertools.product(ELECT, (False, True)):
        options = {"elect": elect, "normalize": normalize, "scale": 1e-300, "offset": 0}
        _check_merge(arguments | options | {"out_dtype": F32})


def _jobs(seed: int, experts: int) -> list[MergeJob]:
    """Whole tensors of several sizes and dtypes, and blocks of rows of the first."""
    jobs = []
    for i, (n, dtypes) in enumerate([(37 * 17, (BF16,)), (1, DTYPES), (0, DTYPES), (64, (F32,))]):
        tensors = _inputs(n, experts + 1, seed + i, dtypes)
        jobs.append(MergeJob(**_without_weights(tensors, KINDS[i:] + KINDS[:i], seed)))
    whole = jobs[0]
    for start, end in itertools.pairwise([0, 3 * 17, 10 * 17, 37 * 17]):
        part = slice(start, end)
        experts_part = [x[part] for x in whole.experts]
        jobs.append(MergeJob(whole.base[part], experts_part, whole.vectors, start))
    return jobs


def _without_weights(tensors, kinds, seed) -> dict[str, Any]:
    arguments = merge_arguments(tensors[0], tensors[1:], kinds, seed)
    del arguments["weights"]
    return arguments


@pytest.mark.parametrize("elect", ELECT)
def test_jobs(elect: str) -> None:
    jobs = _jobs(3, 3)
    weights = torch.linspace(-1.0, 1.5, 3 * len(jobs)).view(-1, 3)
    scales = torch.linspace(0.5, 2.0, len(jobs))
    expected = [torch.empty_like(job.base, dtype=BF16) for job in jobs]
    outs = moved(expected)
    REFERENCE.merge_jobs(jobs, weights, scales, elect, True, expected)
    TRITON.merge_jobs(moved(jobs), moved(weights), moved(scales), elect, True, outs)
    for actual, wanted in zip(outs, expected, strict=True):
        assert_same_bits(actual.cpu(), wanted)
    inputs = [job.experts for job in jobs]
    REFERENCE.sum_jobs(inputs, weights, expected)
    TRITON.sum_jobs(moved(inputs), moved(weights), outs)
    for actual, wanted in zip(outs, expected, strict=True):
        assert_same_bits(actual.cpu(), wanted)


def test_blocks_of_rows_equal_the_whole() -> None:
    whole, *_, first, second, third = moved(_jobs(2, 2))
    jobs = [whole, first, second, third]
    weights = torch.tensor([[0.3, 0.7]], device=DEVICE).repeat(4, 1)
    scales = torch.full((4,), 0.5, device=DEVICE)
    outs = [torch.empty_like(job.base) for job in jobs]
    TRITON.merge_jobs(jobs, weights, scales, "sum", True, outs)
    assert_same_bits(torch.cat(outs[1:]).cpu(), outs[0].cpu())


@pytest.mark.parametrize("n", [1, 17, 4097, 2 * 4096 + 1])
@pytest.mark.parametrize("dtypes", [(BF16,), (F32,), DTYPES])
def test_kth_magnitude(n: int, dtypes: tuple[torch.dtype, ...]) -> None:
    tensors = _inputs(n, 3, n, dtypes)
    ks = sorted({k for k in (1, 2, n // 5, n // 2, n) if 1 <= k <= n})
    ranks = [(i, k) for k in reversed(ks) for i in (1, 0)] + [(0, 1)]
    found = TRITON.kth_magnitude(moved(tensors[0]), moved(tensors[1:]), ranks)
    assert found == REFERENCE.kth_magnitude(tensors[0], tensors[1:], ranks)
    assert TRITON.kth_magnitude(moved(tensors[0]), moved(tensors[1:]), []) == []


def test_every_rank_around_the_ties() -> None:
    """k just before, at and just after each place where the sorted values change."""
    n = 300
    x = ordinary(n, F32, 9).mul(2).round()
    ordered = x.abs().sort(descending=True).values
    edges = (ordered[1:] != ordered[:-1]).nonzero().flatten() + 1
    ks = sorted({int(edge) + step for edge in edges for step in (-1, 0, 1)} & set(range(1, n + 1)))
    ranks = [(0, k) for k in ks]
    found = TRITON.kth_magnitude(moved(torch.zeros(n)), [moved(x)], ranks)
    assert found == REFERENCE.kth_magnitude(torch.zeros(n), [x], ranks)


def test_a_program_of_the_selection_takes_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULES["triton_selection"], "PROGRAMS", 1)
    base, x = _inputs(3 * 4096 + 7, 2, 5, (BF16,))
    ranks = [(0, 1), (0, 5000), (0, 12_000)]
    found = TRITON.kth_magnitude(moved(base), [moved(x)], ranks)
    assert found == REFERENCE.kth_magnitude(base, [x], ranks)


def test_rank_jobs() -> None:
    jobs = [
        RankJob(x[0], x[1:], [(1, n), (0, 1), (0, n // 2 + 1)])
        for n, x in ((n, _inputs(n, 3, n)) for n in (1, 40, 1030))
    ]
    jobs.append(RankJob(torch.empty(0), [torch.empty(0)], []))
    assert TRITON.rank_jobs(moved(jobs)) == REFERENCE.rank_jobs(jobs)
    assert TRITON.rank_jobs([]) == []


@pytest.mark.parametrize("n", [0, 1, 1025])
def test_histogram(n: int) -> None:
    tensors = _inputs(n, 3, n + 1)
    base, experts = tensors[0], tensors[1:]
    on_device = moved(tensors)
    high = REFERENCE.magnitude_histogram(base, experts, None)
    prefixes = [int(row.argmax()) for row in high]
    low = REFERENCE.magnitude_histogram(base, experts, prefixes)
    assert torch.equal(TRITON.magnitude_histogram(on_device[0], on_device[1:], None).cpu(), high)
    assert torch.equal(TRITON.magnitude_histogram(on_device[0], on_device[1:], prefixes).cpu(), low)
