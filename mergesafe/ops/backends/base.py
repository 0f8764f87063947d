"""What a backend provides. All of them give the same bits for the same call.

Every tensor is one-dimensional, contiguous, of dtype bfloat16, float16 or float32, on one device,
and all tensors of a call have the same number of elements. Callers have checked the arguments.

A tensor may be worked on in pieces: reductions continue the ``totals`` they are given, and
``offset`` is the position of the first element within its tensor. Reductions give the same bits
for any cut at multiples of 4096 elements, everything else for any cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch

from mergesafe.methods.spec import RankMask, Sparsify

Elect: TypeAlias = Literal["none", "sum", "count"]
Norm: TypeAlias = Literal["l1", "l2", "linf"]


@dataclass(frozen=True)
class MergeJob:
    """A run of elements of one tensor of every model: a whole tensor, or a block of its rows.

    ``offset`` is the position of the run's first element within its tensor.
    """

    base: torch.Tensor
    experts: Sequence[torch.Tensor]
    vectors: Sequence[Sparsify]
    offset: int = 0


@dataclass(frozen=True)
class RankJob:
    """Asks for the k-th largest ``|expert - base|`` for pairs (expert, k), k from 1."""

    base: torch.Tensor
    experts: Sequence[torch.Tensor]
    ranks: Sequence[tuple[int, int]]


class Backend(Protocol):
    """The fused primitives.

    Methods on *jobs* serve many tensors, or blocks of tensors, in one call. All jobs of a call
    have the same number of experts and lie on one device; their sizes and dtypes may differ.
    ``weights`` [jobs, experts] and ``scales`` [jobs] are contiguous tensors on the jobs' device,
    float32 (float64 where the reference computes in float64); no method of a device backend reads
    them on the host.
    """

    @property
    def name(self) -> str: ...

    def weighted_sum(
        self,
        tensors: Sequence[torch.Tensor],
        weights: Sequence[float],
        out_dtype: torch.dtype,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``sum_i weights[i] * tensors[i]``, in order; into ``out`` where given."""

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
        """The whole task-arithmetic chain, see :func:`mergesafe.ops.merge_task_vectors`; into
        ``out`` where given.
        """

    def fused(
        self,
        kernel: str,
        base: torch.Tensor,
        inputs: Sequence[torch.Tensor],
        coefficients: Sequence[float],
        out_dtype: torch.dtype,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """A combination of :data:`mergesafe.ops.fused.ELEMENTS`, in float32, rounded once."""

    def count_changes(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        epsilon: float,
        totals: Sequence[int],
    ) -> list[int]:
        """``totals`` (two per expert) plus the counts of
        :class:`mergesafe.methods.statistics.ChangeCounts`.
        """

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

    def ranked_experts(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        masks: Sequence[RankMask],
        offset: int,
    ) -> list[torch.Tensor]:
        """Copies of the experts, of whole rows, in which what its mask drops is the base's value.

        In the type of base and expert where they have one, else in float32.
        """

    def score_histogram(
        self, base: torch.Tensor, experts: Sequence[torch.Tensor], prefix: int | None
    ) -> tuple[torch.Tensor, int]:
        """int64 counts [65536] as :meth:`magnitude_histogram`'s, of the scores of all experts
        together (see :class:`mergesafe.methods.statistics.ScoreThreshold`), and how many scores
        are not 0.
        """

    def score_norms(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        lo: int,
        totals: Sequence[float],
    ) -> list[float]:
        """``totals`` (one per expert) continued by the squares of deltas whose score has bits of
        at least ``lo``.
        """

    def merge_selected(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        lo: int,
        weights: Sequence[float],
        out_dtype: torch.dtype,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See :class:`mergesafe.methods.combinations.MergeSelected`; into ``out`` where given."""

    def sum_jobs(
        self,
        inputs: Sequence[Sequence[torch.Tensor]],
        weights: torch.Tensor,
        outs: Sequence[torch.Tensor],
    ) -> None:
        """``outs[j] = sum_i weights[j, i] * inputs[j][i]``, in order."""

    def merge_jobs(
        self,
        jobs: Sequence[MergeJob],
        weights: torch.Tensor,
        scales: torch.Tensor,
        elect: Elect,
        normalize: bool,
        outs: Sequence[torch.Tensor],
    ) -> None:
        """``outs[j]`` = :meth:`merge_task_vectors` of job j."""

    def rank_jobs(self, jobs: Sequence[RankJob]) -> list[list[int]]:
        """:meth:`kth_magnitude` of every job."""

    def norm_jobs(self, jobs: Sequence[MergeJob], norm: Norm) -> list[list[float]]:
        """:meth:`delta_norms` of every job, from totals of zero."""

    def inner_products(
        self, grads: Sequence[torch.Tensor], inputs: Sequence[Sequence[torch.Tensor]]
    ) -> torch.Tensor:
        """float64 [jobs, inputs]: the sums over elements of ``grads[j] * inputs[j][i]``.

        Products are exact in float64. Their sum runs in the order of csrc/core/reduce.h: sixteen
        lanes within blocks of 4096 elements, lanes as a tree, then 64 consecutive terms at a time
        until one is left.
        """

    def merge_gradients(
        self,
        grads: Sequence[torch.Tensor],
        jobs: Sequence[MergeJob],
        weights: torch.Tensor,
        elect: Elect,
        normalize: bool,
    ) -> torch.Tensor:
        """float64 [jobs, experts + 1]: what the gradients of weights and scale are made of.

        With ``u_i`` the sparsified and rescaled delta, ``a_i`` whether it agrees with the elected
        sign (always, without election), ``S`` and ``D`` the sums of the ``u_i * w_i`` and ``w_i``
        that agree, all float32, masks and signs constant; and ``g`` the gradient of the output:

        - with election and ``normalize``: ``sum g/D * a_i (u_i - S/D)`` per expert, then
          ``sum g * S/D``. Where D is 0: ``sum g * a_i u_i``, then ``sum g * S``.
        - else ``sum g * a_i u_i`` per expert, then 0.

        Quotients and differences are rounded to float32, products with g or g/D are exact, and
        the sums run in float64 in the order of :meth:`inner_products`.
        :func:`mergesafe.ops.gradients.finish` makes gradients of them.
        """
