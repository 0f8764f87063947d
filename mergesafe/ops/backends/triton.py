"""The fused primitives in Triton, for GPUs where the compiled CUDA kernels are missing."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from typing import Any

import torch

from mergesafe.methods.spec import Sparsify
from mergesafe.ops.backends import triton_kernels as kernels
from mergesafe.ops.backends import triton_reductions as reductions
from mergesafe.ops.backends.base import Elect, MergeJob, Norm, RankJob
from mergesafe.ops.numbers import float32

#: Elements per program of an element-wise kernel: 8 per thread, one 16-byte access of bfloat16.
TILE = 1024
#: Elements that a program of a selection counts at a time, how many times at most, and how many
#: programs there should be before it does so more than once.
DIGIT_TILE, DIGIT_STEPS, DIGIT_PROGRAMS = 4096, 16, 512
#: The 31 magnitude bits in digits, highest first: (bits below, number of digits).
DIGITS = ((20, 2048), (10, 1024), (0, 1024))
HISTOGRAM_BINS = 1 << 16
#: Reductions, as in csrc/core/reduce.h; REDUCE_BLOCKS of them per program, one element per thread.
BLOCK, LANES, FAN = 4096, 16, 64
REDUCE_BLOCKS = 8
#: Inner products per launch, each with its own sum in registers.
MAX_PRODUCTS = 36
#: Bits of the smallest float32 of at least :data:`mergesafe.ops.numbers.TINY_DIVISOR`.
SMALLEST_DIVISOR = 0x322BCC78
_LARGEST = 0x7FFFFFFF


class TritonBackend:
    """See :class:`mergesafe.ops.backends.base.Backend`.

    Jobs are launched one by one and nothing waits for the device, but where Python numbers are
    returned: once per call.
    """

    name = "triton"

    def weighted_sum(
        self,
        tensors: Sequence[torch.Tensor],
        weights: Sequence[float],
        out_dtype: torch.dtype,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if out is None:
            out = torch.empty_like(tensors[0], dtype=out_dtype)
        self.sum_jobs([tensors], float32_rows([weights], out.device), [out])
        return out

    def merge_task_vectors(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        vectors: Sequence[Sparsify],
        weights: Sequence[float],
        elect: Elect,
        normalize: bool,
        scale: float,
        offset: int,
        out_dtype: torch.dtype,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if out is None:
            out = torch.empty_like(base, dtype=out_dtype)
        job = MergeJob(base, experts, vectors, offset)
        numbers = float32_rows([[*weights, scale]], out.device)
        # one transfer for both; a row of weights is contiguous
        self.merge_jobs([job], numbers[:, :-1], numbers[0, -1:], elect, normalize, [out])
        return out

    def kth_magnitude(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        ranks: Sequence[tuple[int, int]],
    ) -> list[int]:
        return self.rank_jobs([RankJob(base, experts, ranks)])[0]

    def magnitude_histogram(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        prefixes: Sequence[int] | None,
    ) -> torch.Tensor:
        shape = (len(experts), HISTOGRAM_BINS)
        counts = torch.zeros(shape, dtype=torch.int64, device=base.device)
        for i, x in enumerate(experts):
            launch(
                kernels.magnitude_counts,
                base.numel(),
                TILE,
                counts[i],
                base,
                x,
                0 if prefixes is None else prefixes[i],
                base.numel(),
                LOW=prefixes is not None,
                BLOCK=TILE,
            )
        return counts

    def gram(self, tensors: Sequence[torch.Tensor], totals: Sequence[float]) -> list[float]:
        n = len(tensors)
        sums: list[torch.Tensor] = []
        pairs: list[int] = []
        first = 0
        while first < n:
            rows = rows_of_products(n - first)
            sums.append(products(tensors[first:], rows, 0))
            pairs += [i * n + j for i in range(first, first + rows) for j in range(i, n)]
            first += rows
        result = list(totals)
        for pair, terms in zip(pairs, torch.cat(sums).tolist(), strict=True):
            result[pair] = added_in_order(terms, result[pair])
        return result

    def delta_norms(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        sparsify: Sequence[Sparsify],
        norm: Norm,
        totals: Sequence[float],
        offset: int,
    ) -> list[float]:
        return continued_norms([MergeJob(base, experts, sparsify, offset)], norm, [totals])[0]

    def sum_jobs(
        self,
        inputs: Sequence[Sequence[torch.Tensor]],
        weights: torch.Tensor,
        outs: Sequence[torch.Tensor],
    ) -> None:
        for row, (tensors, out) in enumerate(zip(inputs, outs, strict=True)):
            launch(
                kernels.weighted_sum,
                out.numel(),
                TILE,
                out,
                tuple(tensors),
                weights,
                row,
                out.numel(),
                COUNT=len(tensors),
                BLOCK=TILE,
            )

    def merge_jobs(
        self,
        jobs: Sequence[MergeJob],
        weights: torch.Tensor,
        scales: torch.Tensor,
        elect: Elect,
        normalize: bool,
        outs: Sequence[torch.Tensor],
    ) -> None:
        vectors = masks(jobs, weights.device)
        for row, (job, out) in enumerate(zip(jobs, outs, strict=True)):
            random = random_bits(job.vectors)
            group, shift = divmod(job.offset, 64) if random else (0, 0)
            launch(
                kernels.merge,
                out.numel() and out.numel() + shift,
                TILE,
                out,
                job.base,
                tuple(job.experts),
                vectors,
                weights,
                scales,
                row,
                group,
                shift,
                out.numel(),
                COUNT=len(job.experts),
                ELECT=elect,
                NORMALIZE=normalize,
                RANDOM=random,
                SMALLEST=SMALLEST_DIVISOR,
                BLOCK=TILE,
            )

    def rank_jobs(self, jobs: Sequence[RankJob]) -> list[list[int]]:
        pairs = [(job.base, job.experts[expert]) for job in jobs for expert, _ in job.ranks]
        found = iter(selected(pairs, [k for job in jobs for _, k in job.ranks]))
        return [[next(found) for _ in job.ranks] for job in jobs]

    def norm_jobs(self, jobs: Sequence[MergeJob], norm: Norm) -> list[list[float]]:
        return continued_norms(jobs, norm, [[0.0] * (2 * len(job.experts)) for job in jobs])

    def inner_products(
        self, grads: Sequence[torch.Tensor], inputs: Sequence[Sequence[torch.Tensor]]
    ) -> torch.Tensor:
        rows = [tree_sums(products([g, *xs], 1, 1)) for g, xs in zip(grads, inputs, strict=True)]
        return torch.stack(rows)

    def merge_gradients(
        self,
        grads: Sequence[torch.Tensor],
        jobs: Sequence[MergeJob],
        weights: torch.Tensor,
        elect: Elect,
        normalize: bool,
    ) -> torch.Tensor:
        sums = []
        vectors = masks(jobs, weights.device)
        for row, (grad, job) in enumerate(zip(grads, jobs, strict=True)):
            n, count = grad.numel(), len(job.experts)
            # zeros, because the last row is not always written
            terms = grad.new_zeros((count + 1, blocks_of(n)), dtype=torch.float64)
            launch(
                reductions.gradient_sums,
                n,
                BLOCK * REDUCE_BLOCKS,
                terms,
                grad,
                job.base,
                tuple(job.experts),
                vectors,
                weights,
                row,
                job.offset,
                n,
                blocks_of(n),
                COUNT=count,
                ELECT=elect,
                NORMALIZE=normalize,
                RANDOM=random_bits(job.vectors),
                STEPS=steps_of(n),
                BLOCKS=REDUCE_BLOCKS,
            )
            sums.append(tree_sums(terms))
        return torch.stack(sums)


def launch(
    kernel: Any, elements: int, share: int, out: torch.Tensor, *args: Any, **meta: Any
) -> None:
    """Runs the kernel on ``out``'s device, one program per ``share`` elements, uncontracted."""
    if elements == 0:
        return
    with device_of(out):
        kernel[(-(-elements // share),)](out, *args, **meta, enable_fp_fusion=False)


def device_of(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, whatever tensors it is given."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def float32_rows(rows: Sequence[Sequence[float]], device: torch.device) -> torch.Tensor:
    """A small tensor on the device; nothing waits for what runs there."""
    values = torch.tensor([[float32(x) for x in row] for row in rows], dtype=torch.float32)
    return values.to(device, non_blocking=True)


def masks(jobs: Sequence[MergeJob], device: torch.device) -> torch.Tensor:
    """[jobs, experts, 6] on the device, int32: see :mod:`mergesafe.ops.backends.triton_elements`.

    Not arguments of the kernels, because Triton compiles anew for integers that are 1 or multiples
    of 16.
    """
    words = [[mask_words(v) for v in job.vectors] for job in jobs]
    return torch.tensor(words, dtype=torch.int32).to(device, non_blocking=True)


def mask_words(v: Sparsify) -> tuple[int, ...]:
    rescale = struct.unpack("=i", struct.pack("=f", float32(v.rescale)))[0]
    lo, hi = min(v.lo, _LARGEST), min(v.hi, _LARGEST)
    return lo, hi, signed(v.key), signed(v.key >> 32), signed(v.threshold), rescale


def signed(word: int) -> int:
    """The int32 with the low 32 bits of ``word``."""
    return ((word + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


def random_bits(vectors: Sequence[Sparsify]) -> int:
    """Bit i is set where vector i has a random mask."""
    return sum(1 << i for i, vector in enumerate(vectors) if vector.random)


def blocks_of(n: int) -> int:
    return -(-n // BLOCK)


def steps_of(n: int) -> int:
    """How many rows of a block are added up: a power of two, so that few kernels are compiled."""
    return power_of_two(min(-(-n // LANES), BLOCK // LANES))


def power_of_two(n: int) -> int:
    """The least that is not below n; 1 for 0."""
    return 1 << max(n - 1, 0).bit_length()


def rows_of_products(n: int) -> int:
    """How many of the first rows of the triangle of n inputs fit in one launch, at least one."""
    *_, rows = (
        r
        for r, total in enumerate(accumulate(range(n, 0, -1)), 1)
        if r == 1 or total <= MAX_PRODUCTS
    )
    return rows


def products(tensors: Sequence[torch.Tensor], rows: int, skip: int) -> torch.Tensor:
    """Float64 [pairs, blocks]: block sums of the products of tensors i < rows and j >= i + skip."""
    n, count = tensors[0].numel(), len(tensors)
    total = sum(count - i - skip for i in range(rows))
    sums = tensors[0].new_empty((total, blocks_of(n)), dtype=torch.float64)
    launch(
        reductions.product_sums,
        n,
        BLOCK * REDUCE_BLOCKS,
        sums,
        tuple(tensors),
        n,
        blocks_of(n),
        COUNT=count,
        ROWS=rows,
        SKIP=skip,
        TOTAL=total,
        STEPS=steps_of(n),
        BLOCKS=REDUCE_BLOCKS,
    )
    return sums


def added_in_order(terms: Sequence[float], total: float) -> float:
    # not sum(), which compensates for rounding from Python 3.12 on
    for term in terms:
        total = total + term
    return total


def tree_sums(terms: torch.Tensor) -> torch.Tensor:
    """The sum of each row: 64 consecutive terms at a time until one is left."""
    while terms.shape[1] > 1:
        groups = -(-terms.shape[1] // FAN)
        padded = torch.nn.functional.pad(terms, (0, groups * FAN - terms.shape[1]))
        columns = padded.view(-1, groups, FAN).unbind(2)
        terms = columns[0]
        for column in columns[1:]:
            terms = terms + column
    return terms.sum(1)


def continued_norms(
    jobs: Sequence[MergeJob], norm: Norm, totals: Sequence[Sequence[float]]
) -> list[list[float]]:
    """The totals of each job, continued over its elements."""
    if not jobs:
        return []
    vectors = masks(jobs, jobs[0].base.device)
    sums = [norm_terms(job, vectors, row, norm) for row, job in enumerate(jobs)]
    flat = iter(torch.cat([terms.flatten() for terms in sums]).tolist())
    result = []
    for terms, before in zip(sums, totals, strict=True):
        rows = [[next(flat) for _ in range(terms.shape[1])] for _ in range(terms.shape[0])]
        result.append(
            [continued(norm, row, total) for row, total in zip(rows, before, strict=True)]
        )
    return result


def continued(norm: Norm, terms: Sequence[float], total: float) -> float:
    if norm != "linf":
        return added_in_order(terms, total)
    for largest in terms:
        # a NaN stays, whichever of the two it is
        if total == total and not total >= largest:
            total = largest
    return total


def norm_terms(job: MergeJob, vectors: torch.Tensor, row: int, norm: Norm) -> torch.Tensor:
    """[2 * experts, blocks] of float64 sums, or [2 * experts, 0 or 1] of largest values."""
    n, count = job.base.numel(), len(job.experts)
    dtype = torch.int32 if norm == "linf" else torch.float64
    terms = job.base.new_empty((2 * count, blocks_of(n)), dtype=dtype)
    launch(
        reductions.norm_sums,
        n,
        BLOCK * REDUCE_BLOCKS,
        terms,
        job.base,
        tuple(job.experts),
        vectors,
        row,
        job.offset,
        n,
        blocks_of(n),
        COUNT=count,
        NORM=norm,
        RANDOM=random_bits(job.vectors),
        STEPS=steps_of(n),
        BLOCKS=REDUCE_BLOCKS,
    )
    if norm == "linf" and n:
        return terms.amax(1, keepdim=True).view(torch.float32)
    return terms


def selected(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], ks: Sequence[int]) -> list[int]:
    """Bits of the k-th largest ``|expert - base|`` of each pair (base, expert).

    A radix selection: count the highest digit, find on the device the one that holds the k-th,
    count the next digit among the magnitudes that begin so, and so on.
    """
    if not pairs:
        return []
    device = pairs[0][0].device
    rest = torch.tensor(ks, dtype=torch.int64).to(device, non_blocking=True).unsqueeze(1)
    prefixes = torch.zeros(len(pairs), dtype=torch.int32, device=device)
    for shift, bins in DIGITS:
        counts = torch.zeros((len(pairs), bins), dtype=torch.int64, device=device)
        for query, (base, x) in enumerate(pairs):
            shares = base.numel() // (DIGIT_TILE * DIGIT_PROGRAMS)
            steps = min(power_of_two(shares), DIGIT_STEPS)
            launch(
                kernels.digit_counts,
                base.numel(),
                DIGIT_TILE * steps,
                counts,
                base,
                x,
                prefixes,
                query,
                base.numel(),
                SHIFT=shift,
                BINS=bins,
                BLOCK=DIGIT_TILE,
                STEPS=steps,
                num_warps=8,
            )
        descending = counts.flip(1)
        at_least = descending.cumsum(1)
        place = (at_least < rest).sum(1, keepdim=True)
        rest = rest - (at_least - descending).gather(1, place)
        prefixes = prefixes * bins + (bins - 1 - place.squeeze(1)).to(torch.int32)
    found: list[int] = prefixes.tolist()
    return found
