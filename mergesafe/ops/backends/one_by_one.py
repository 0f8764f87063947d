"""Calls on many jobs, served one job at a time: for backends whose calls cost little to start."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mergesafe.ops.backends.base import Backend, Elect, MergeJob, Norm, RankJob


class OneByOne:
    """The methods on jobs of :class:`mergesafe.ops.backends.base.Backend` by those on tensors."""

    def sum_jobs(
        self: Backend,
        inputs: Sequence[Sequence[torch.Tensor]],
        weights: torch.Tensor,
        outs: Sequence[torch.Tensor],
    ) -> None:
        for tensors, row, out in zip(inputs, weights.tolist(), outs, strict=True):
            self.weighted_sum(tensors, row, out.dtype, out)

    def merge_jobs(
        self: Backend,
        jobs: Sequence[MergeJob],
        weights: torch.Tensor,
        scales: torch.Tensor,
        elect: Elect,
        normalize: bool,
        outs: Sequence[torch.Tensor],
    ) -> None:
        rows = zip(jobs, weights.tolist(), scales.tolist(), outs, strict=True)
        for job, row, scale, out in rows:
            self.merge_task_vectors(
                job.base, job.experts, job.vectors, row, elect, normalize, scale, job.offset,
                out.dtype, out,
            )  # fmt: skip

    def rank_jobs(self: Backend, jobs: Sequence[RankJob]) -> list[list[int]]:
        return [self.kth_magnitude(job.base, job.experts, job.ranks) for job in jobs]

    def norm_jobs(self: Backend, jobs: Sequence[MergeJob], norm: Norm) -> list[list[float]]:
        return [
            self.delta_norms(
                job.base, job.experts, job.vectors, norm, [0.0] * (2 * len(job.experts)), job.offset
            )
            for job in jobs
        ]
