"""The fused primitives in Triton, for GPUs where the compiled CUDA kernels are missing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mergesafe.methods.spec import Sparsify
from mergesafe.ops.backends import triton_kernels as kernels
from mergesafe.ops.backends.base import Elect, MergeJob, Norm, RankJob
from mergesafe.ops.backends.selected import SelectedByTorch
from mergesafe.ops.backends.triton_fused import fused as fused_kernel
from mergesafe.ops.backends.triton_launch import float32_rows, launch, masks, random_bits
from mergesafe.ops.backends.triton_selection import selected
from mergesafe.ops.backends.triton_sums import (
    added_in_order,
    continued_norms,
    gradient_terms,
    products,
    rows_of_products,
    tree_sums,
)
from mergesafe.ops.numbers import TINY_DIVISOR_BITS

#: Elements per program of an element-wise kernel: 8 per thread, one 16-byte access of bfloat16.
TILE = 1024
HISTOGRAM_BINS = 1 << 16


class TritonBackend(SelectedByTorch):
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

    def fused(
        self,
        kernel: str,
        base: torch.Tensor,
        inputs: Sequence[torch.Tensor],
        coefficients: Sequence[float],
        out_dtype: torch.dtype,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if out is None:
            out = torch.empty_like(base, dtype=out_dtype)
        launch(
            fused_kernel,
            out.numel(),
            TILE,
            out,
            base,
            tuple(inputs),
            float32_rows([coefficients], out.device),
            out.numel(),
            KERNEL=kernel,
            COUNT=len(inputs),
            BLOCK=TILE,
        )
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
                SMALLEST=TINY_DIVISOR_BITS,
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
            terms = gradient_terms(grad, job, vectors, weights, row, elect, normalize)
            sums.append(tree_sums(terms))
        return torch.stack(sums)
