"""The CUDA kernels give the reference's bits: on a GPU where there is one, else the same sources on
the host, where threads are fibers and vector accesses check their alignment.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from mergesafe import _native
from mergesafe.errors import BackendError
from mergesafe.methods.spec import KEEP_NONE, Sparsify
from mergesafe.ops.backends.base import MergeJob, RankJob
from mergesafe.ops.backends.cuda import CudaBackend
from mergesafe.ops.backends.elementary import random_words

from . import emulated
from .helpers import (
    BF16,
    DTYPES,
    F16,
    F32,
    REFERENCE,
    assert_same_bits,
    merge_arguments,
    ordinary,
    patterns,
    same_floats,
    some_mask,
)

ON_GPU = torch.cuda.is_available() and _native.cuda_compiled
DEVICE = torch.device("cuda", 0) if ON_GPU else torch.device("cpu")
MODULE = _native.cuda if ON_GPU else emulated.module().cuda
CUDA = CudaBackend(MODULE)

KINDS = ("none", "magnitude", "window", "random", "empty")
ELECT = ("none", "sum", "count")
#: Around vectors of 8, rows of 16, groups of 64, blocks of 4096 and tiles of 8192.
SIZES = (0, 1, 7, 8, 9, 17, 63, 65, 1025, 4095, 4097, 8191, 8193, 20000)


def there(value: Any) -> Any:
    """Tensors, lists and jobs on the device under test."""
    if isinstance(value, torch.Tensor):
        return value.to(DEVICE)
    if isinstance(value, (list, tuple)):
        return [there(each) for each in value]
    if isinstance(value, MergeJob):
        return MergeJob(there(value.base), there(value.experts), value.vectors, value.offset)
    if isinstance(value, RankJob):
        return RankJob(there(value.base), there(value.experts), value.ranks)
    return value


def finite(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x.isfinite(), x, torch.zeros_like(x))


def inputs(n: int, count: int, seed: int, dtypes: Any = DTYPES) -> list[torch.Tensor]:
    return [patterns(n, dtypes[(seed + i) % len(dtypes)], seed * 31 + i) for i in range(count)]


def a_job(n: int, count: int, seed: int, kinds: Any = KINDS, offset: int = 0) -> Any:
    """A job and its weights [1, count]."""
    tensors = inputs(n, count + 1, seed)
    made = merge_arguments(tensors[0], tensors[1:], kinds, seed)
    job = MergeJob(tensors[0], tensors[1:], made["vectors"], offset)
    return job, torch.tensor([made["weights"]], dtype=torch.float32)


def check_merge(job: MergeJob, weights: torch.Tensor, **options: Any) -> None:
    arguments = {
        "base": job.base, "experts": job.experts, "vectors": job.vectors,
        "weights": weights[0].tolist(), "offset": job.offset, **options,
    }  # fmt: skip
    actual = CUDA.merge_task_vectors(**{key: there(value) for key, value in arguments.items()})
    assert_same_bits(actual.cpu(), REFERENCE.merge_task_vectors(**arguments))


@pytest.mark.parametrize("n", SIZES)
def test_merge_at_every_size(n: int) -> None:
    for seed, (elect, normalize) in enumerate(itertools.product(ELECT, (False, True))):
        job, weights = a_job(n, 1 + (seed + n) % 5, seed + n, offset=(0, 64, 1)[seed % 3])
        scale, dtype = (1.0, 0.3, -2.0)[seed % 3], DTYPES[seed % 3]
        check_merge(job, weights, elect=elect, normalize=normalize, scale=scale, out_dtype=dtype)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 60])
@pytest.mark.parametrize("kinds", [("window",), ("random",), ("random", "window", "empty")])
def test_merge_with_every_option(count: int, kinds: tuple[str, ...]) -> None:
    for seed, (elect, normalize) in enumerate(itertools.product(ELECT, (False, True))):
        job, weights = a_job(300, count, seed, kinds, (0, 2**40 + 64, 2**40 + 17)[seed % 3])
        check_merge(job, weights, elect=elect, normalize=normalize, scale=0.5, out_dtype=BF16)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_merge_of_bfloat16_alone(count: int) -> None:
    """Kernels of their own; with an output of another type, not those."""
    for seed, (elect, normalize, dtype) in enumerate(
        itertools.product(ELECT[:2], (False, True), (BF16, F32))
    ):
        tensors = inputs(8199, count + 1, seed, (BF16,))
        made = merge_arguments(tensors[0], tensors[1:], ("window", "magnitude"), seed)
        job = MergeJob(tensors[0], tensors[1:], made["vectors"])
        weights = torch.tensor([made["weights"]], dtype=torch.float32)
        check_merge(job, weights, elect=elect, normalize=normalize, scale=0.5, out_dtype=dtype)


def test_more_experts_than_a_launch_describes() -> None:
    job, weights = a_job(10, 61, 1)
    with pytest.raises(BackendError, match=r"61 experts.* at most 60"):
        check_merge(job, weights, elect="sum", normalize=True, scale=1.0, out_dtype=BF16)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
def test_weighted_sum(count: int) -> None:
    for n in SIZES:
        tensors = inputs(n, count, n + count)
        weights = [(0.3, -1.0, 1e-40, 3e38, 0.0, 1.0)[(n + i) % 6] for i in range(count)]
        actual = CUDA.weighted_sum(there(tensors), weights, DTYPES[n % 3])
        assert_same_bits(actual.cpu(), REFERENCE.weighted_sum(tensors, weights, DTYPES[n % 3]))


def test_overflowing_coefficients_become_infinite_alike() -> None:
    job, _ = a_job(257, 2, 1)
    vectors = [Sparsify(rescale=1e300), Sparsify(random=True, threshold=1 << 31)]
    job = MergeJob(job.base, job.experts, vectors)
    arguments = {
        "weights": [1e300, -1e300], "elect": "none", "normalize": True, "scale": 1e-300,
        "out_dtype": F32,
    }  # fmt: skip
    expected = REFERENCE.merge_task_vectors(job.base, job.experts, vectors, offset=0, **arguments)
    actual = CUDA.merge_task_vectors(
        there(job.base), there(job.experts), vectors, offset=0, **arguments
    )
    assert_same_bits(actual.cpu(), expected)


@pytest.mark.parametrize("weights", [[-0.5, 0.25], [1e300, 1.0], [-1e300, 1.0], [1e300, -1e300]])
@pytest.mark.parametrize("elect", ELECT)
def test_zeros_are_divided_exactly(weights: list[float], elect: str) -> None:
    """Where nothing is kept a device does not divide; the zero has the sign that a division gives,
    which shows where the base is -0.
    """
    base = torch.tensor([0.0, -0.0, 1.0, float("nan")] * 20)
    for vectors in ([Sparsify(*KEEP_NONE)] * 2, [Sparsify(0x3F800000)] * 2):
        job = MergeJob(base, [base + 0.5, base - 2.0], vectors)
        options = {"elect": elect, "normalize": True, "scale": 1.0, "out_dtype": F32}
        check_merge(job, torch.tensor([weights], dtype=torch.float64), **options)


@pytest.mark.parametrize("n", [4096, 4099, 4103])
def test_misaligned_inputs_and_outputs(n: int) -> None:
    """Nothing is written beside the output, whether vectors fit or not."""
    for shift in (1, 3, 4, 8):
        tensors = there([patterns(n + shift, DTYPES[i], shift + i) for i in range(3)])
        tensors = [x[shift:] for x in tensors]
        masks = [some_mask("window", tensors[0].cpu(), x.cpu(), shift) for x in tensors[1:]]
        options = {"elect": "sum", "normalize": True, "scale": 0.5, "offset": shift}
        around = torch.full((n + 64,), 7.0, dtype=BF16, device=DEVICE)
        out = around[32 - shift : 32 - shift + n]
        CUDA.merge_task_vectors(
            tensors[0], tensors[1:], masks, [0.3, 0.7], out_dtype=BF16, out=out, **options
        )
        local = [x.cpu() for x in tensors]
        expected = REFERENCE.merge_task_vectors(
            local[0], local[1:], masks, [0.3, 0.7], out_dtype=BF16, **options
        )
        assert_same_bits(out.cpu(), expected)
        assert (around[: 32 - shift] == 7.0).all()
        assert (around[32 - shift + n :] == 7.0).all()


def check_gradient(grad: torch.Tensor, job: MergeJob, weights: Any, elect: Any, norm: bool) -> None:
    expected = REFERENCE.merge_gradients([grad], [job], weights, elect, norm)
    actual = CUDA.merge_gradients([there(grad)], [there(job)], there(weights), elect, norm)
    assert same_floats(actual.flatten().tolist(), expected.flatten().tolist())


@pytest.mark.parametrize("elect", ELECT)
@pytest.mark.parametrize("normalize", [False, True])
def test_gradients(elect: str, normalize: bool) -> None:
    for seed, n in enumerate((*SIZES, 70_001)):
        for count in (1 + seed % 4, 5 + seed % 5):
            job, weights = a_job(n, count, seed, offset=(0, 64, 3)[seed % 3])
            grad = patterns(n, DTYPES[seed % 3], seed)
            check_gradient(grad, job, weights, elect, normalize)
            job = MergeJob(
                finite(job.base), [finite(x) for x in job.experts], job.vectors, job.offset
            )
            check_gradient(finite(grad), job, weights, elect, normalize)


@pytest.mark.parametrize("offset", [0, 2**40 + 64, 3])
@pytest.mark.parametrize("count", [2, 5])
def test_gradients_under_random_masks(offset: int, count: int) -> None:
    for seed in (0, 3):  # thresholds of three tenths and one half
        tensors = [finite(x) for x in inputs(8300, count + 1, seed)]
        masks = [some_mask("random", tensors[0], tensors[1], seed) for _ in range(count)]
        masks = [replace(mask, key=mask.key ^ i) for i, mask in enumerate(masks)]
        job = MergeJob(tensors[0], tensors[1:], masks, offset)
        weights = torch.tensor([[0.3, -0.7, 1.0, 0.25, 2.5][:count]])
        for elect, normalize in (("none", False), ("sum", True)):
            check_gradient(ordinary(8300, BF16, 3), job, weights, elect, normalize)


def test_gradients_of_a_tensor_with_more_blocks_than_one_level_adds() -> None:
    """More than 64 * 64 blocks of 4096 would take long here; 65 take two levels."""
    n = 65 * 4096 + 5
    job, weights = a_job(n, 2, 1, ("none",))
    job = MergeJob(finite(job.base), [finite(x) for x in job.experts], job.vectors)
    check_gradient(ordinary(n, BF16, 3), job, weights, "none", False)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_inner_products(count: int) -> None:
    for n in SIZES:
        grads = [finite(patterns(n, DTYPES[n % 3], n)), patterns(n, BF16, n + 1)]
        tensors = [[finite(x) for x in inputs(n, count, n)], inputs(n, count, n + 2)]
        expected = REFERENCE.inner_products(grads, tensors)
        actual = CUDA.inner_products(there(grads), there(tensors))
        assert same_floats(actual.flatten().tolist(), expected.flatten().tolist())


def test_a_thousand_tensors_in_a_handful_of_launches() -> None:
    jobs, rows, grads = [], [], []
    for seed in range(1000):
        job, weights = a_job((0, 33, 64, 129)[seed % 4], 3, seed)
        jobs.append(job)
        rows.append(weights)
        grads.append(patterns(job.base.numel(), BF16, seed))
    weights = torch.cat(rows)
    scales = torch.linspace(-1, 1, 1000)
    outs = [torch.empty(job.base.shape, dtype=BF16, device=DEVICE) for job in jobs]
    moved = there(jobs)
    before = 0 if ON_GPU else MODULE.launches()
    CUDA.merge_jobs(moved, there(weights), there(scales), "sum", True, outs)
    assert ON_GPU or MODULE.launches() - before <= 8
    for job, row, scale, out in zip(jobs, weights.tolist(), scales.tolist(), outs, strict=True):
        expected = REFERENCE.merge_task_vectors(
            job.base, job.experts, job.vectors, row, "sum", True, scale, job.offset, BF16
        )
        assert_same_bits(out.cpu(), expected)
    actual = CUDA.merge_gradients(there(grads), moved, there(weights), "sum", True)
    expected = REFERENCE.merge_gradients(grads, jobs, weights, "sum", True)
    assert same_floats(actual.flatten().tolist(), expected.flatten().tolist())


def test_sums_of_several_tensors_take_their_own_weights() -> None:
    tensors = [inputs(n, 3, n) for n in (5, 0, 9000)]
    weights = torch.rand(3, 3, generator=torch.Generator().manual_seed(1))
    outs = [torch.empty(x[0].shape, dtype=F16, device=DEVICE) for x in tensors]
    CUDA.sum_jobs(there(tensors), there(weights), outs)
    for xs, row, out in zip(tensors, weights.tolist(), outs, strict=True):
        assert_same_bits(out.cpu(), REFERENCE.weighted_sum(xs, row, F16))


def ks(n: int) -> list[int]:
    return sorted({1, 2, max(1, n // 10), max(1, n // 2), max(1, n - 1), n} & set(range(1, n + 1)))


@pytest.mark.parametrize("n", [1, 2, 9, 4097, 16384, 16385, 40_000, 131_075])
def test_kth_magnitude(n: int) -> None:
    base = ordinary(n, BF16, 1)
    experts = [
        ordinary(n, BF16, 2),
        base.float() + ordinary(n, F32, 3) * 0.01,
        base.clone(),
        patterns(n, F16, 4),
        patterns(n, F32, 5),
        torch.where(torch.arange(n) % 3 == 0, base, ordinary(n, BF16, 6)),
        torch.arange(n).float(),
    ]
    jobs = [
        RankJob(base, experts, [(i, k) for i in range(len(experts)) for k in ks(n)]),
        RankJob(base, experts, []),
        RankJob(base[: n // 2 + 1], [x[: n // 2 + 1] for x in experts], [(3, 1), (0, 1)]),
    ]
    assert CUDA.rank_jobs(there(jobs)) == REFERENCE.rank_jobs(jobs)


@pytest.mark.parametrize("inside", [0.0, 9.0])
def test_a_sample_that_sees_nothing_of_the_answer(inside: float) -> None:
    """What csrc/cuda/kth.cu samples is smaller, or larger, than everything else: the bracket
    misses the answer, above or below, and later rounds find it.
    """
    n, runs, run = 90_001, 2048, 8
    stride = n // runs
    counters = torch.arange(runs)
    elements = 64 * (counters // 16) + counters % 16  # those that take word 0 of the counters
    words = random_words(0, int(elements[-1]) + 1, 0, torch.device("cpu"))[elements]
    starts = counters * stride + words % (stride - run)
    seen = (starts.unsqueeze(1) + torch.arange(run)).flatten()
    x = ordinary(n, F32, 1).abs().clamp(max=4.0) + 1.0
    x[seen] = inside
    job = RankJob(torch.zeros(n), [x], [(0, k) for k in (1, n // 10, n // 2, n - 16384, n - 16383)])
    assert CUDA.rank_jobs([there(job)]) == REFERENCE.rank_jobs([job])


@pytest.mark.parametrize("n", [0, 1, 17, 4097, 70_001])
def test_gram_norms_and_histogram(n: int) -> None:
    base, *experts = (patterns(n, DTYPES[i % 3], n + i) for i in range(4))
    clean = [finite(x) for x in experts]
    totals = [0.5 * i for i in range(9)]
    upper = [i for i in range(9) if i // 3 <= i % 3]
    for tensors in (clean, experts):
        actual, expected = CUDA.gram(there(tensors), totals), REFERENCE.gram(tensors, totals)
        assert same_floats([actual[i] for i in upper], [expected[i] for i in upper])
    masks = [some_mask(kind, base, x, 1) for kind, x in zip(KINDS[1:], experts, strict=False)]
    for norm, start in itertools.product(("l1", "l2", "linf"), (experts, clean)):
        arguments = (masks, norm, [0.5 * i for i in range(6)], 4096 * 3)
        actual = CUDA.delta_norms(there(base), there(start), *arguments)
        assert same_floats(actual, REFERENCE.delta_norms(base, start, *arguments))
    jobs = [MergeJob(base, clean, masks), MergeJob(base[: n // 2], [x[: n // 2] for x in clean],
                                                   masks)]  # fmt: skip
    for actual, expected in zip(
        CUDA.norm_jobs(there(jobs), "l1"), REFERENCE.norm_jobs(jobs, "l1"), strict=True
    ):
        assert same_floats(actual, expected)
    high = REFERENCE.magnitude_histogram(base, experts, None)
    assert torch.equal(CUDA.magnitude_histogram(there(base), there(experts), None).cpu(), high)
    prefixes = [int(row.argmax()) for row in high]
    low = CUDA.magnitude_histogram(there(base), there(experts), prefixes)
    assert torch.equal(low.cpu(), REFERENCE.magnitude_histogram(base, experts, prefixes))


@pytest.mark.parametrize("n", [0, 1, 17, 4097, 70_001])
def test_changes_are_counted_as_by_the_specification(n: int) -> None:
    base, *experts = (patterns(n, DTYPES[i % 3], n + i) for i in range(5))
    for count, epsilon in itertools.product((1, 2, 4), (0.0, 1e-3, 1.0, float("inf"))):
        given, totals = experts[:count], list(range(2 * count))
        found = CUDA.count_changes(there(base), there(given), epsilon, totals)
        assert found == REFERENCE.count_changes(base, given, epsilon, totals)


def test_the_pattern_for_new_kernels_launches() -> None:
    MODULE.run_nothing(1000, 0, 0)


@pytest.mark.skipif(ON_GPU, reason="needs a machine without a GPU")
def test_without_a_gpu_the_extension_says_why() -> None:
    if not _native.cuda_compiled:
        pytest.skip("the extension was built without CUDA")
    assert _native.cuda.problem_of(0).startswith("cudaError")
    with pytest.raises(_native.cuda.CudaError, match="cudaError"):
        _native.cuda.run_nothing(1, 0, 0)


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="has 2 values; expected 1"):
        MODULE.Jobs(1, [0], [0], [0], [0], [1], [0], [0, 0], [0])
