"""What a backend provides. All of them give the same bits for the same call.

Every tensor is one-dimensional, contiguous, of dtype bfloat16, float16 or float32, on one device,
and all tensors of a call have the same number of elements. Callers have checked the arguments.

A tensor may be worked on in pieces: reductions continue the ``totals`` they are given, and
``offset`` is the position of the first element within its tensor. Reductions give the same bits
for any cut at multiples of 4096 elements, everything else for any cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

import torch

from mergesafe.methods.spec import Sparsify

Elect: TypeAlias = Literal["none", "sum", "count"]
Norm: TypeAlias = Literal["l1", "l2", "linf"]


class Backend(Protocol):
    """The fused primitives."""

    @property
    def name(self) -> str: ...

    def weighted_sum(
        self,
        tensors: Sequence[torch.Tensor],
        weights: Sequence[float],
        out_dtype: torch.dtype,
    ) -> torch.Tensor:
        """``sum_i weights[i] * tensors[i]``, in order."""

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
    ) -> torch.Tensor:
        """The whole task-arithmetic chain, see :func:`mergesafe.ops.merge_task_vectors`."""

    def kth_magnitude(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        ranks: Sequence[tuple[int, int]],
    ) -> list[int]:
        """Bits of the k-th largest ``|expert - base|`` for pairs (expert, k), k from 1."""

    def magnitude_histogram(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        prefixes: Sequence[int] | None,
    ) -> torch.Tensor:
        """int64 counts [experts, 65536] of the magnitudes' bits: of ``bits >> 15``, or with
        ``prefixes`` of ``bits & 0x7FFF`` among those with ``bits >> 15 == prefixes[expert]``.
        """

    def gram(self, tensors: Sequence[torch.Tensor], totals: Sequence[float]) -> list[float]:
        """``totals`` plus the float64 inner products: n * n values by rows, of which the upper
        triangle counts.
        """

    def delta_norms(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        sparsify: Sequence[Sparsify],
        norm: Norm,
        totals: Sequence[float],
        offset: int,
    ) -> list[float]:
        """``totals`` (two per expert) continued by sums of ``|d|`` (l1) or ``d * d`` (l2), or by
        the largest ``|d|`` (linf), of the whole task vector and of what ``sparsify`` keeps.
        """
