"""Reductions: the launches of :mod:`mergesafe.ops.backends.triton_reductions`, and what is left to
add up, one sum per block of 4096 elements, in the order of csrc/core/reduce.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from mergesafe.ops.backends import triton_reductions as reductions
from mergesafe.ops.backends.base import Elect, MergeJob, Norm
from mergesafe.ops.backends.triton_launch import launch, masks, random_bits

#: As in csrc/core/reduce.h; REDUCE_BLOCKS of them per program, one element per thread.
BLOCK, LANES, FAN = 4096, 16, 64
REDUCE_BLOCKS = 8
#: Inner products per launch, each with its own sum in registers.
MAX_PRODUCTS = 36


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


def gradient_terms(
    grad: torch.Tensor,
    job: MergeJob,
    vectors: torch.Tensor,
    weights: torch.Tensor,
    row: int,
    elect: Elect,
    normalize: bool,
) -> torch.Tensor:
    """Float64 [experts + 1, blocks]: block sums of job ``row``."""
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
    return terms
