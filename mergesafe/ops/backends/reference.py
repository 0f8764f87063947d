"""The specification: every primitive in plain torch, in the order of operations of csrc/core.

Slow and memory-hungry on purpose; the other backends must give the same bits. Float32 arithmetic
one operation at a time (so nothing can be contracted), experts ascending, one rounding at the end.

Float64 tensors are taken too, here alone: everything is then computed in float64 (masks are still
those of the float32 deltas). It is what results are compared with, and what gradients are checked
with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mergesafe.methods.spec import Sparsify
from mergesafe.ops.backends.base import Elect, MergeJob, Norm
from mergesafe.ops.backends.elementary import (
    F64,
    HISTOGRAM_BINS,
    LOW_BITS,
    agreement,
    all_same,
    arithmetic,
    continued_norm,
    delta_of,
    elected,
    keep_mask,
    magnitude_bits,
    number,
    ordered_sum,
    pick,
    rounded,
    sparsified,
    stored,
    sum_in_order,
    tree_sum,
)
from mergesafe.ops.backends.one_by_one import OneByOne
from mergesafe.ops.backends.selected import SelectedByTorch
from mergesafe.ops.fused import ELEMENTS
from mergesafe.ops.numbers import divisor_of, sums_to_one


class ReferenceBackend(OneByOne, SelectedByTorch):
    """See :class:`mergesafe.ops.backends.base.Backend`."""

    name = "reference"

    def weighted_sum(
        self,
        tensors: Sequence[torch.Tensor],
        weights: Sequence[float],
        out_dtype: torch.dtype,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        real = arithmetic(tensors)
        values = [x.to(real) for x in tensors]
        total = values[0] * number(weights[0], real)
        for x, weight in zip(values[1:], weights[1:], strict=True):
            total = total + x * number(weight, real)
        if sums_to_one(weights, float64=real is F64):
            total = torch.where(all_same(values), values[0], total)
        return stored(rounded(total, out_dtype), out)

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
        real = arithmetic([base, *experts])
        b = base.to(real)
        job = MergeJob(base, experts, vectors, offset)
        weighted = [
            pick(mask, rescaled * number(w, real))
            for (mask, rescaled), w in zip(sparsified(job, real), weights, strict=True)
        ]
        if elect == "none":
            total = sum_in_order(weighted)
            divisor = torch.full_like(b, divisor_of(weights, normalize, float64=real is F64))
        else:
            agrees = agreement(weighted, elect)
            total, divisor = elected(weighted, weights, agrees)
            divisor = divisor.where((divisor != 0) & normalize, torch.ones_like(b))
        # a tensor divisor, because torch multiplies by the reciprocal of a number on CUDA
        change = (total / divisor) * number(scale, real)
        merged = torch.where(change == 0, b, b + change)  # -0 + +0 would be +0
        return stored(rounded(merged, out_dtype), out)

    def fused(
        self,
        kernel: str,
        base: torch.Tensor,
        inputs: Sequence[torch.Tensor],
        coefficients: Sequence[float],
        out_dtype: torch.dtype,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        real = arithmetic([base, *inputs])
        scalars = [torch.tensor(c, dtype=real, device=base.device) for c in coefficients]
        merged = ELEMENTS[kernel](base.to(real), [x.to(real) for x in inputs], scalars)
        return stored(rounded(merged, out_dtype), out)

    def inner_products(
        self, grads: Sequence[torch.Tensor], inputs: Sequence[Sequence[torch.Tensor]]
    ) -> torch.Tensor:
        rows = [
            torch.stack([tree_sum(g.double() * x.double()) for x in xs])
            for g, xs in zip(grads, inputs, strict=True)
        ]
        return torch.stack(rows)

    def merge_gradients(
        self,
        grads: Sequence[torch.Tensor],
        jobs: Sequence[MergeJob],
        weights: torch.Tensor,
        elect: Elect,
        normalize: bool,
    ) -> torch.Tensor:
        rows = [
            merge_gradient(grad, job, row, elect, normalize)
            for grad, job, row in zip(grads, jobs, weights.tolist(), strict=True)
        ]
        return torch.stack(rows)

    def kth_magnitude(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        ranks: Sequence[tuple[int, int]],
    ) -> list[int]:
        found = []
        for expert, k in ranks:
            magnitudes = magnitude_bits(delta_of(experts[expert], base))
            found.append(int(magnitudes.sort(descending=True).values[k - 1]))
        return found

    def magnitude_histogram(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        prefixes: Sequence[int] | None,
    ) -> torch.Tensor:
        rows = []
        for i, x in enumerate(experts):
            bits = magnitude_bits(delta_of(x, base))
            high, low = bits >> LOW_BITS, bits & ((1 << LOW_BITS) - 1)
            bins = high if prefixes is None else low[high == prefixes[i]]
            rows.append(torch.bincount(bins, minlength=HISTOGRAM_BINS))
        return torch.stack(rows)

    def gram(self, tensors: Sequence[torch.Tensor], totals: Sequence[float]) -> list[float]:
        n = len(tensors)
        result = list(totals)
        for i in range(n):
            for j in range(i, n):
                products = tensors[i].double() * tensors[j].double()
                result[i * n + j] = ordered_sum(products, result[i * n + j])
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
        result = list(totals)
        for i, (x, vector) in enumerate(zip(experts, sparsify, strict=True)):
            delta = delta_of(x, base)
            kept = pick(keep_mask(vector, delta, offset), delta)
            result[2 * i] = continued_norm(norm, delta, result[2 * i])
            result[2 * i + 1] = continued_norm(norm, kept, result[2 * i + 1])
        return result


def merge_gradient(
    grad: torch.Tensor, job: MergeJob, weights: Sequence[float], elect: Elect, normalize: bool
) -> torch.Tensor:
    """One row of :meth:`ReferenceBackend.merge_gradients`."""
    real = arithmetic([job.base, *job.experts])
    kept = [pick(mask, rescaled) for mask, rescaled in sparsified(job, real)]
    share, last = grad.to(real), torch.zeros((), dtype=torch.float64, device=grad.device)
    if elect != "none":
        weighted = [u * number(w, real) for u, w in zip(kept, weights, strict=True)]
        agrees = agreement(weighted, elect)
        if normalize:
            total, divisor = elected(weighted, weights, agrees)
            by = divisor.where(divisor != 0, torch.ones_like(divisor))
            mean = total / by
            last = tree_sum(grad.double() * mean.double())
            share = share / by
            kept = [u - pick(divisor != 0, mean) for u in kept]
        kept = [pick(a, u) for a, u in zip(agrees, kept, strict=True)]
    return torch.stack([*(tree_sum(share.double() * u.double()) for u in kept), last])
