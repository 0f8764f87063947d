"""The compiled CPU kernels on torch tensors: addresses in, bits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

from mergesafe.methods.spec import RankMask, Sparsify
from mergesafe.native import DTYPES as CODES
from mergesafe.native import (
    ELECTIONS,
    NORMS,
    Array,
    Input,
    Output,
    TaskVector,
    extension,
    rank_masks,
    task_vectors,
)
from mergesafe.ops.backends.base import Elect, MergeJob, Norm
from mergesafe.ops.backends.one_by_one import OneByOne

#: Codes of the element types that kernels take.
DTYPES: Final = {
    torch.bfloat16: CODES["BF16"],
    torch.float16: CODES["F16"],
    torch.float32: CODES["F32"],
}


class NativeBackend(OneByOne):
    """See :class:`mergesafe.ops.backends.base.Backend`; uses as many threads as torch does."""

    name = "native"

    def weighted_sum(
        self,
        tensors: Sequence[torch.Tensor],
        weights: Sequence[float],
        out_dtype: torch.dtype,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Into ``out`` where given: fresh memory costs more than the sum."""
        if out is None:
            out = torch.empty_like(tensors[0], dtype=out_dtype)
        extension.weighted_sum(
            [input_of(x) for x in tensors],
            list(weights),
            Output(out.data_ptr(), DTYPES[out_dtype]),
            out.numel(),
            False,
            torch.get_num_threads(),
        )
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
        """Into ``out`` where given: fresh memory costs more than the merge."""
        if out is None:
            out = torch.empty_like(base, dtype=out_dtype)
        extension.merge_task_vectors(
            input_of(base),
            _vectors(experts, vectors, weights),
            Output(out.data_ptr(), DTYPES[out_dtype]),
            out.numel(),
            offset,
            ELECTIONS[elect],
            normalize,
            scale,
            False,
            torch.get_num_threads(),
        )
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
        """Into ``out`` where given: fresh memory costs more than the merge."""
        if out is None:
            out = torch.empty_like(base, dtype=out_dtype)
        extension.fused(
            kernel,
            input_of(base),
            [input_of(x) for x in inputs],
            list(coefficients),
            Output(out.data_ptr(), DTYPES[out_dtype]),
            out.numel(),
            False,
            torch.get_num_threads(),
        )
        return out

    def count_changes(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        epsilon: float,
        totals: Sequence[int],
    ) -> list[int]:
        inputs, threads = [input_of(x) for x in experts], torch.get_num_threads()
        _, counts = extension.count_changes(
            input_of(base), inputs, epsilon, list(totals), base.numel(), False, threads
        )
        return counts

    def kth_magnitude(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        ranks: Sequence[tuple[int, int]],
    ) -> list[int]:
        # sorted, because the kernels read each expert once, in ascending order
        ascending = sorted(set(ranks))
        _, bits = extension.kth_magnitude(
            input_of(base),
            [input_of(x) for x in experts],
            ascending,
            base.numel(),
            False,
            torch.get_num_threads(),
        )
        found = dict(zip(ascending, bits, strict=True))
        return [found[rank] for rank in ranks]

    def magnitude_histogram(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        prefixes: Sequence[int] | None,
    ) -> torch.Tensor:
        counts = torch.zeros(len(experts), extension.histogram_bins, dtype=torch.int64)
        extension.magnitude_histogram(
            input_of(base),
            [input_of(x) for x in experts],
            list(prefixes or ()),
            Array(counts.data_ptr(), counts.numel()),
            base.numel(),
            False,
            torch.get_num_threads(),
        )
        return counts

    def gram(self, tensors: Sequence[torch.Tensor], totals: Sequence[float]) -> list[float]:
        inputs = [input_of(x) for x in tensors]
        numel = tensors[0].numel()
        _, sums = extension.gram(inputs, list(totals), numel, False, torch.get_num_threads())
        return sums

    def delta_norms(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        sparsify: Sequence[Sparsify],
        norm: Norm,
        totals: Sequence[float],
        offset: int,
    ) -> list[float]:
        _, sums = extension.delta_norms(
            input_of(base),
            _vectors(experts, sparsify, [1.0] * len(experts)),
            NORMS[norm],
            list(totals),
            base.numel(),
            offset,
            False,
            torch.get_num_threads(),
        )
        return sums

    def ranked_experts(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        masks: Sequence[RankMask],
        offset: int,
    ) -> list[torch.Tensor]:
        n, threads = base.numel(), torch.get_num_threads()
        keeps = [torch.empty(n, dtype=torch.uint8) for _ in experts]
        inputs = [input_of(x) for x in experts]
        arrays = [Array(keep.data_ptr(), n) for keep in keeps]
        columns = masks[0].columns
        extension.rank_masks(
            input_of(base), inputs, rank_masks(masks), columns, n, offset, arrays, False, threads
        )
        found = []
        for x, described, keep in zip(experts, inputs, arrays, strict=True):
            out = torch.empty_like(x, dtype=x.dtype if x.dtype == base.dtype else torch.float32)
            target = Output(out.data_ptr(), DTYPES[out.dtype])
            extension.masked_copy(input_of(base), described, keep, target, n, False, threads)
            found.append(out)
        return found

    def score_histogram(
        self, base: torch.Tensor, experts: Sequence[torch.Tensor], prefix: int | None
    ) -> tuple[torch.Tensor, int]:
        counts = torch.zeros(extension.histogram_bins, dtype=torch.int64)
        _, nonzero = extension.score_histogram(
            input_of(base),
            [input_of(x) for x in experts],
            -1 if prefix is None else prefix,
            Array(counts.data_ptr(), counts.numel()),
            None,
            base.numel(),
            False,
            torch.get_num_threads(),
        )
        return counts, nonzero

    def score_norms(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        lo: int,
        totals: Sequence[float],
    ) -> list[float]:
        inputs, n = [input_of(x) for x in experts], base.numel()
        threads = torch.get_num_threads()
        _, sums = extension.score_norms(
            input_of(base), inputs, lo, list(totals), None, n, False, threads
        )
        return sums

    def merge_selected(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        lo: int,
        weights: Sequence[float],
        out_dtype: torch.dtype,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Into ``out`` where given: fresh memory costs more than the merge."""
        if out is None:
            out = torch.empty_like(base, dtype=out_dtype)
        extension.merge_scored(
            input_of(base),
            [input_of(x) for x in experts],
            lo,
            list(weights),
            Output(out.data_ptr(), DTYPES[out_dtype]),
            None,
            out.numel(),
            False,
            torch.get_num_threads(),
        )
        return out

    def inner_products(
        self, grads: Sequence[torch.Tensor], inputs: Sequence[Sequence[torch.Tensor]]
    ) -> torch.Tensor:
        rows = [
            extension.inner_products(
                input_of(grad), [input_of(x) for x in xs], grad.numel(), torch.get_num_threads()
            )
            for grad, xs in zip(grads, inputs, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64)

    def merge_gradients(
        self,
        grads: Sequence[torch.Tensor],
        jobs: Sequence[MergeJob],
        weights: torch.Tensor,
        elect: Elect,
        normalize: bool,
    ) -> torch.Tensor:
        rows = [
            extension.merge_gradient(
                input_of(grad),
                input_of(job.base),
                _vectors(job.experts, job.vectors, row),
                grad.numel(),
                job.offset,
                ELECTIONS[elect],
                normalize,
                torch.get_num_threads(),
            )
            for grad, job, row in zip(grads, jobs, weights.tolist(), strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64)


def input_of(tensor: torch.Tensor) -> Input:
    dtype = DTYPES[tensor.dtype]
    return Input(tensor.data_ptr(), dtype, dtype)


def _vectors(
    experts: Sequence[torch.Tensor], vectors: Sequence[Sparsify], weights: Sequence[float]
) -> list[TaskVector]:
    return task_vectors([input_of(x) for x in experts], vectors, weights)
