"""Answers a merge method's requests for statistics, and carries out its combination, on tensors
that are whole in memory.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeVar

import torch

from mergesafe.methods import driver
from mergesafe.methods.spec import (
    Combine,
    DeltaNorms,
    Gram,
    KthMagnitude,
    Statistic,
    WeightedSum,
)
from mergesafe.ops.backends.base import Backend, MergeJob, Norm, RankJob

T = TypeVar("T")


def drive(
    steps: Generator[Statistic, Any, T],
    backend: Backend,
    base: torch.Tensor | None,
    inputs: Sequence[torch.Tensor],
) -> T:
    """Runs the generator to its return value, answering every request it yields."""
    return driver.drive(steps, lambda request: answer(request, backend, base, inputs))


def drive_many(
    steps: Sequence[Generator[Statistic, Any, T]],
    backend: Backend,
    bases: Sequence[torch.Tensor],
    inputs: Sequence[Sequence[torch.Tensor]],
) -> list[T]:
    """Runs one generator per tensor in lockstep: requests of a kind are answered by one call."""
    results: dict[int, T] = {}
    answers: dict[int, Any] = dict.fromkeys(range(len(steps)))
    while answers:
        requests: dict[int, Statistic] = {}
        for t, found in answers.items():
            try:
                requests[t] = steps[t].send(found)
            except StopIteration as stop:
                results[t] = stop.value
        answers = answer_many(requests, backend, bases, inputs)
    return [results[t] for t in range(len(steps))]


def answer_many(
    requests: Mapping[int, Statistic],
    backend: Backend,
    bases: Sequence[torch.Tensor],
    inputs: Sequence[Sequence[torch.Tensor]],
) -> dict[int, Any]:
    """The scalars of every request, by the number of its tensor."""
    answers: dict[int, Any] = {}
    ranks: dict[int, RankJob] = {}
    norms: dict[Norm, dict[int, MergeJob]] = {}
    for t, request in requests.items():
        if isinstance(request, KthMagnitude):
            ranks[t] = RankJob(bases[t], inputs[t], request.ranks)
        elif isinstance(request, DeltaNorms):
            job = MergeJob(bases[t], inputs[t], request.sparsify)
            norms.setdefault(request.norm, {})[t] = job
        else:
            answers[t] = answer(request, backend, bases[t], inputs[t])
    if ranks:
        found = backend.rank_jobs(list(ranks.values()))
        answers |= dict(zip(ranks, found, strict=True))
    for norm, jobs in norms.items():
        sums = backend.norm_jobs(list(jobs.values()), norm)
        answers |= {t: norm_pairs(norm, each) for t, each in zip(jobs, sums, strict=True)}
    return answers


def norm_pairs(norm: Norm, sums: Sequence[float]) -> list[tuple[float, float]]:
    """(norm of the whole, norm of what is kept) per expert, from a backend's sums."""
    if norm == "l2":
        sums = [math.sqrt(value) for value in sums]
    return list(zip(sums[0::2], sums[1::2], strict=True))


def answer(
    request: Statistic,
    backend: Backend,
    base: torch.Tensor | None,
    inputs: Sequence[torch.Tensor],
) -> Any:
    """The scalars of one request: bits, (norm, norm of kept) pairs, or a matrix as nested lists."""
    n = len(inputs)
    if isinstance(request, Gram):
        return full_matrix(backend.gram(inputs, [0.0] * (n * n)), n)
    if base is None:
        raise TypeError(f"{type(request).__name__} is about task vectors, which need a base")
    if isinstance(request, KthMagnitude):
        return backend.kth_magnitude(base, inputs, request.ranks)
    if isinstance(request, DeltaNorms):
        totals = [0.0] * (2 * n)
        sums = backend.delta_norms(base, inputs, request.sparsify, request.norm, totals, 0)
        return norm_pairs(request.norm, sums)
    raise TypeError(f"unknown statistic {request!r}")


def combine(
    how: Combine,
    backend: Backend,
    base: torch.Tensor | None,
    inputs: Sequence[torch.Tensor],
    out_dtype: torch.dtype,
) -> torch.Tensor:
    """The element-wise pass that ends a merge."""
    if isinstance(how, WeightedSum):
        return backend.weighted_sum(inputs, how.weights, out_dtype)
    if base is None:
        raise TypeError("a merge of task vectors needs a base")
    return backend.merge_task_vectors(
        base,
        inputs,
        how.sparsify,
        how.weights,
        how.elect,
        how.normalize,
        how.scale,
        0,
        out_dtype,
    )


def full_matrix(upper: Sequence[float], n: int) -> list[list[float]]:
    """Nested lists of the symmetric matrix whose upper triangle is given by rows."""
    return [[upper[min(i, j) * n + max(i, j)] for j in range(n)] for i in range(n)]
