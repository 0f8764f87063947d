"""The compiled CPU kernels on torch tensors: addresses in, bits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch

from mergesafe import _native
from mergesafe.methods.spec import Sparsify
from mergesafe.ops.backends.base import Elect, MergeJob, Norm
from mergesafe.ops.backends.one_by_one import OneByOne
from mergesafe.ops.numbers import divisor_of, float32

# The numbering of csrc/core/dtype.h and job.h.
DTYPES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}
ELECT: dict[Elect, int] = {"none": 0, "sum": 1, "count": 2}
NORMS: dict[Norm, int] = {"l1": 0, "l2": 1, "linf": 2}

#: (address, dtype, dtype that values are cast to at load).
Input: TypeAlias = tuple[int, int, int]
#: (input, weight, rescale, lo, hi, random, threshold, key).
Vector: TypeAlias = tuple[Input, float, float, int, int, bool, int, int]


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
        _native.weighted_sum(
            [input_of(x) for x in tensors],
            [float32(w) for w in weights],
            (out.data_ptr(), DTYPES[out_dtype]),
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
        _native.merge_task_vectors(
            input_of(base),
            vectors_of(experts, vectors, weights),
            (out.data_ptr(), DTYPES[out_dtype]),
            out.numel(),
            offset,
            ELECT[elect],
            normalize,
            divisor_of(weights, normalize),
            float32(scale),
            False,
            torch.get_num_threads(),
        )
        return out

    def kth_magnitude(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        ranks: Sequence[tuple[int, int]],
    ) -> list[int]:
        # sorted, because the kernels read each expert once, in ascending order
        ascending = sorted(set(ranks))
        _, bits = _native.kth_magnitude(
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
        counts = torch.zeros(len(experts), _native.histogram_bins, dtype=torch.int64)
        _native.magnitude_histogram(
            input_of(base),
            [input_of(x) for x in experts],
            list(prefixes or ()),
            (counts.data_ptr(), counts.numel()),
            base.numel(),
            False,
            torch.get_num_threads(),
        )
        return counts

    def gram(self, tensors: Sequence[torch.Tensor], totals: Sequence[float]) -> list[float]:
        inputs = [input_of(x) for x in tensors]
        numel = tensors[0].numel()
        _, sums = _native.gram(inputs, list(totals), numel, False, torch.get_num_threads())
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
        _, sums = _native.delta_norms(
            input_of(base),
            vectors_of(experts, sparsify, [1.0] * len(experts)),
            NORMS[norm],
            list(totals),
            base.numel(),
            offset,
            False,
            torch.get_num_threads(),
        )
        return sums

    def inner_products(
        self, grads: Sequence[torch.Tensor], inputs: Sequence[Sequence[torch.Tensor]]
    ) -> torch.Tensor:
        rows = [
            _native.inner_products(
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
            _native.merge_gradient(
                input_of(grad),
                input_of(job.base),
                vectors_of(job.experts, job.vectors, row),
                grad.numel(),
                job.offset,
                ELECT[elect],
                normalize,
                torch.get_num_threads(),
            )
            for grad, job, row in zip(grads, jobs, weights.tolist(), strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64)


def input_of(tensor: torch.Tensor) -> Input:
    dtype = DTYPES[tensor.dtype]
    return tensor.data_ptr(), dtype, dtype


def vectors_of(
    experts: Sequence[torch.Tensor], vectors: Sequence[Sparsify], weights: Sequence[float]
) -> list[Vector]:
    return [
        (input_of(x), float32(w), float32(v.rescale), v.lo, v.hi, v.random, v.threshold, v.key)
        for x, v, w in zip(experts, vectors, weights, strict=True)
    ]
