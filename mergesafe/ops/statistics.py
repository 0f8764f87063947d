"""Answers a merge method's requests for statistics, and carries out its combination, on tensors
that are whole in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import torch

from mergesafe.methods import driver
from mergesafe.methods.spec import (
    ChangeCounts,
    Combination,
    DeltaNorms,
    Fused,
    Gram,
    KthMagnitude,
    KthScore,
    LowestTensors,
    MergeSelected,
    MergeTaskVectors,
    ModelKthMagnitude,
    OperandSet,
    ScoreNorms,
    ScoreThreshold,
    Statistic,
    TensorContext,
    TileFunction,
    Unit,
    WeightedSum,
)
from mergesafe.methods.statistics import threshold_of
from mergesafe.ops.backends.base import Backend, MergeJob, Norm, RankJob
from mergesafe.ops.tiles import apply

Base: TypeAlias = torch.Tensor | None
Tensors: TypeAlias = Sequence[torch.Tensor]
#: Elements of a tensor that a tile function is given at a time.
PIECE: Final = 1 << 18

T = TypeVar("T")


def drive(
    steps: Generator[Statistic, Any, T],
    backend: Backend,
    base: torch.Tensor | None,
    inputs: Sequence[torch.Tensor],
    tensor: TensorContext | None = None,
    beside: Sequence[torch.Tensor] = (),
) -> T:
    """Runs the generator to its return value, answering every request it yields.

    ``tensor``, ``beside``: as for :func:`answer`.
    """

    def found(request: Statistic) -> Any:
        return answer(request, backend, base, inputs, tensor, beside)

    return driver.drive(steps, found)


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
        elif isinstance(request, DeltaNorms) and not request.ranked:
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
    tensor: TensorContext | None = None,
    beside: Sequence[torch.Tensor] = (),
) -> Any:
    """The scalars of one request: bits, (norm, norm of kept) pairs, or a matrix as nested lists.

    ``tensor``: what is known about it, which functions that compute scores are given; so is
    ``beside``, see :func:`combine`.
    """
    if isinstance(request, KthScore):
        assert tensor is not None  # for methods that ask for scores
        return _kth_score(request, backend, tensor, base, inputs, beside)
    return _ANSWERS[type(request)](request, backend, base, inputs)


def _kth(
    request: KthMagnitude | ModelKthMagnitude, backend: Backend, base: Base, inputs: Tensors
) -> list[int]:
    return backend.kth_magnitude(_there(base), inputs, request.ranks)


def _kth_score(
    request: KthScore,
    backend: Backend,
    tensor: TensorContext,
    base: Base,
    inputs: Tensors,
    beside: Tensors,
) -> list[int]:
    found: dict[tuple[int, int], int] = {}
    for number, score in enumerate(request.scores):
        ks = sorted({k for wanted, k in request.ranks if wanted == number})
        if not ks:
            continue
        values = combine(score, backend, tensor, base, inputs, torch.float32, beside)
        zeros = torch.zeros_like(values, dtype=torch.bfloat16)
        bits = backend.kth_magnitude(zeros, [values], [(0, k) for k in ks])
        found |= {(number, k): each for k, each in zip(ks, bits, strict=True)}
    return [found[rank] for rank in request.ranks]


def _norms(
    request: DeltaNorms, backend: Backend, base: Base, inputs: Tensors
) -> list[tuple[float, float]]:
    there, zeros = _there(base), [0.0] * (2 * len(inputs))
    sums = backend.delta_norms(there, inputs, request.sparsify, request.norm, zeros, 0)
    if request.ranked:
        left = backend.ranked_experts(there, inputs, request.ranked, 0)
        kept = backend.delta_norms(there, left, request.sparsify, request.norm, zeros, 0)
        sums = [kept[i] if i % 2 else value for i, value in enumerate(sums)]
    return norm_pairs(request.norm, sums)


def _changes(
    request: ChangeCounts, backend: Backend, base: Base, inputs: Tensors
) -> list[tuple[int, int]]:
    zeros = [0] * (2 * len(inputs))
    counts = backend.count_changes(_there(base), inputs, request.epsilon, zeros)
    return list(zip(counts[0::2], counts[1::2], strict=True))


def _alone(
    request: LowestTensors, backend: Backend, base: Base, inputs: Tensors
) -> tuple[bool, ...]:
    """A tensor in memory has no others to be compared with."""
    return (True,) * len(inputs)


def _score_threshold(request: ScoreThreshold, backend: Backend, base: Base, inputs: Tensors) -> int:
    def count(prefix: int | None) -> tuple[Sequence[int], int]:
        counts, nonzero = backend.score_histogram(_there(base), inputs, prefix)
        return counts.tolist(), nonzero

    return threshold_of(request.share, count)


def _score_norms(request: ScoreNorms, backend: Backend, base: Base, inputs: Tensors) -> list[float]:
    return backend.score_norms(_there(base), inputs, request.lo, [0.0] * len(inputs))


def _gram(request: Gram, backend: Backend, base: Base, inputs: Tensors) -> list[list[float]]:
    tensors = operands(request.of, base, inputs)
    n = len(tensors)
    return full_matrix(backend.gram(tensors, [0.0] * (n * n)), n)


#: By type of statistic; :data:`mergesafe.engine.run.answers.ANSWERS` is that of streamed tensors.
_ANSWERS: Final[Mapping[type, Callable[..., Any]]] = {
    KthMagnitude: _kth, ModelKthMagnitude: _kth, DeltaNorms: _norms, Gram: _gram,
    ScoreThreshold: _score_threshold, ScoreNorms: _score_norms,
    ChangeCounts: _changes, LowestTensors: _alone,
}  # fmt: skip


def operands(of: OperandSet, base: Base, inputs: Tensors) -> list[torch.Tensor]:
    """The tensors of a set; task vectors in float32, as the kernels subtract."""
    if of == "deltas":
        subtrahend = _there(base).float()
        return [x.float() - subtrahend for x in inputs]
    return [*([base] if of == "all" and base is not None else []), *inputs]


def _there(base: Base) -> torch.Tensor:
    assert base is not None  # the driver has checked that there is one
    return base


def combine(
    how: Combination,
    backend: Backend,
    tensor: TensorContext,
    base: torch.Tensor | None,
    inputs: Sequence[torch.Tensor],
    out_dtype: torch.dtype,
    beside: Sequence[torch.Tensor] = (),
) -> torch.Tensor:
    """The pass that ends a merge; every tensor is one-dimensional.

    ``beside``: what ``tensor.references`` names, then what ``tensor.calibration`` names, one for
    each input, in its order.

    Raises:
        BrokenContractError: a tile function does not keep to its contract.
    """
    if isinstance(how, WeightedSum):
        return backend.weighted_sum(operands(how.of, base, inputs), how.weights, out_dtype)
    if isinstance(how, Fused):
        first, *others = how.operands(operands("all", base, inputs), beside)
        return backend.fused(how.kernel, first, others, how.coefficients, out_dtype)
    if isinstance(how, MergeTaskVectors):
        there = _there(base)
        if how.ranked:
            inputs = backend.ranked_experts(there, inputs, how.ranked, 0)
        return backend.merge_task_vectors(
            there, inputs, how.sparsify, how.weights, how.elect, how.normalize, how.scale,
            0, out_dtype,
        )  # fmt: skip
    if isinstance(how, MergeSelected):
        return backend.merge_selected(_there(base), inputs, how.lo, how.weights, out_dtype)
    assert isinstance(how, TileFunction)  # the driver has checked that it is one of these
    return _by_tiles(how, tensor, [*operands("all", base, inputs), *beside], out_dtype)


def _by_tiles(
    how: TileFunction, tensor: TensorContext, tensors: Tensors, dtype: torch.dtype
) -> torch.Tensor:
    """In pieces of whole units, so that float32 copies of all operands never lie side by side."""
    n = tensor.numel
    step = n
    if how.unit is Unit.ELEMENT:
        step = PIECE
    elif how.unit is Unit.ROW and tensor.shape:
        step = max(1, PIECE // max(1, tensor.shape[-1])) * tensor.shape[-1]
    out = torch.empty(n, dtype=dtype, device=tensors[0].device)
    for begin in range(0, n, max(1, step)):
        piece = [(x[begin : begin + step] if len(x) == n else x).float() for x in tensors]
        out[begin : begin + step] = apply(how, tensor, piece, begin).to(dtype)
    return out


def full_matrix(upper: Sequence[float], n: int) -> list[list[float]]:
    """Nested lists of the symmetric matrix whose upper triangle is given by rows."""
    return [[upper[min(i, j) * n + max(i, j)] for j in range(n)] for i in range(n)]
