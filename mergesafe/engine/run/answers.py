"""Answers a method's requests for statistics of one tensor, which may be streamed in tiles.

A selection over several tiles samples and collects in one pass, or counts histograms in two; norms
and inner products continue from tile to tile. Every answer is the same as for the whole tensor.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.plan.tiling import Tiling, sample_runs
from mergesafe.engine.run.kernels import Buffer, Kernels, Selection
from mergesafe.engine.run.trace import Lap
from mergesafe.methods.numbers import float32_of
from mergesafe.methods.spec import (
    ChangeCounts,
    Combination,
    DeltaNorms,
    Gram,
    KthMagnitude,
    KthScore,
    LowestTensors,
    ModelKthMagnitude,
    OperandSet,
    RankMask,
    ScoreNorms,
    ScoreThreshold,
    Statistic,
)
from mergesafe.methods.statistics import bin_of, threshold_of
from mergesafe.native import Array, extension


class Tensor(Protocol):
    """The tensor that statistics are asked of, as the engine reads it."""

    task: TensorTask
    kernels: Kernels
    layout: Tiling
    lap: Lap
    #: Address of what a selection samples and collects in; 0 where histograms decide.
    storage: int

    def tiles(
        self, *, planned: bool = True, beside: bool = False
    ) -> Iterator[tuple[int, int, list[Buffer]]]:
        """(first element, count, inputs) of every tile; ``planned``: as progress was announced;
        ``beside``: with references and calibration.
        """

    def pieces(
        self, inputs: Sequence[Buffer], count: int
    ) -> Iterator[tuple[int, int, list[Buffer]]]:
        """(first element in the tile, count, inputs) of what stays in a cache, whole units."""

    def ranked(
        self, inputs: Sequence[Buffer], masks: Sequence[RankMask], n: int, begin: int
    ) -> Sequence[Buffer]:
        """The base, then the experts without what masks by rank drop; flags are reported."""

    def scored(
        self,
        inputs: Sequence[Buffer],
        scores: Sequence[Combination],
        n: int,
        begin: int,
        floors: Sequence[float] = (),
    ) -> Sequence[Buffer]:
        """Zeros, then what functions of the method make of a piece; flags are reported.

        ``floors``: of each score, a number below which all may come out as any other.
        """

    def add_scored(
        self,
        selection: Selection,
        inputs: Sequence[Buffer],
        scores: Sequence[Combination],
        n: int,
        begin: int,
        floors: Sequence[float],
    ) -> None:
        """Give a selection the scores of a piece, as :meth:`scored` finds them."""

    @property
    def keeps_scores(self) -> bool:
        """Whether scores of the whole tensor stay in memory."""

    def all_scores(self) -> Sequence[Buffer]:
        """Zeros, then all of them, once :meth:`scored` has found those of all pieces."""

    def scores(self, begin: int, count: int) -> Array | None:
        """Memory for the scores of these elements, where they are kept."""

    def inputs(self, begin: int, count: int, *, beside: bool = False) -> list[Buffer]: ...

    def check(self, flags: int, inputs: Sequence[int] | None = None) -> None: ...

    def operands(self, of: OperandSet) -> Sequence[int]:
        """Which of the task's sources belong to a set of operands."""


def answer(request: Statistic, tensor: Tensor) -> Any:
    """What the method is told: bits, (norm, norm of kept) pairs, or a matrix as nested lists."""
    return ANSWERS[type(request)](request, tensor)


def known_answer(request: Statistic, task: TensorTask) -> list[int] | tuple[bool, ...]:
    """What was found about the whole model before the first tensor was merged."""
    if isinstance(request, LowestTensors):
        return task.lowest
    assert isinstance(request, ModelKthMagnitude)  # the other one that is about the model
    return [task.magnitudes[rank] for rank in request.ranks]


def _of_model(request: Statistic, tensor: Tensor) -> list[int] | tuple[bool, ...]:
    return known_answer(request, tensor.task)


def _kth(request: KthMagnitude, tensor: Tensor) -> list[int]:
    """Each rank once, by expert, as kernels want them; then as they were asked for."""
    ascending = tuple(sorted(set(request.ranks)))
    found = dict(zip(ascending, _ascending(KthMagnitude(ascending), tensor), strict=True))
    return [found[rank] for rank in request.ranks]


def _ascending(request: KthMagnitude, tensor: Tensor) -> list[int]:
    if tensor.layout.tile >= tensor.task.numel:
        for _, count, inputs in tensor.tiles():
            flags, answers = tensor.kernels.kth_magnitude(inputs, request.ranks, count)
            tensor.lap("statistics", 0, _bytes(inputs))
            tensor.check(flags)
            return answers
    if not tensor.storage:
        return _radix(request, tensor)
    answers, missed = _select(request, tensor)
    if missed:
        again = KthMagnitude(tuple(request.ranks[i] for i in missed))
        for i, bits in zip(missed, _radix(again, tensor, planned=False), strict=True):
            answers[i] = bits
    return answers


def _select(request: KthMagnitude, tensor: Tensor) -> tuple[list[int], list[int]]:
    """Sample, then one pass; answers by rank, and which ranks have none."""
    runs = sample_runs(tensor.task, request)
    selection = _selection(request.ranks, runs, tensor)
    for begin, count in runs:
        selection.sample(tensor.inputs(begin, count), count)
        tensor.lap("statistics", begin, 0)
    for begin, count, inputs in tensor.tiles():
        tensor.check(selection.add(inputs, count))
        tensor.lap("statistics", begin, _bytes(inputs))
    found = selection.finish()
    tensor.lap("statistics", 0, 0)
    return found


def _selection(
    ranks: Sequence[tuple[int, int]], runs: Sequence[tuple[int, int]], tensor: Tensor
) -> Selection:
    return tensor.kernels.selection(
        ranks,
        tensor.task.numel,
        sum(count for _, count in runs),
        tensor.storage,
        tensor.layout.select // 4 * len(ranks),
    )


def _radix(request: KthMagnitude, tensor: Tensor, *, planned: bool = True) -> list[int]:
    """Histograms over streamed tiles: the high 16 bits, then the low 15 within those."""
    ks = [k for _, k in request.ranks]
    high = _histogram(request, [], ks, tensor, planned)
    prefixes = [prefix for prefix, _ in high]
    low = _histogram(request, prefixes, [rest for _, rest in high], tensor, planned)
    return [p << extension.low_bits | bits for p, (bits, _) in zip(prefixes, low, strict=True)]


def _histogram(
    request: KthMagnitude, prefixes: list[int], ranks: Sequence[int], tensor: Tensor, planned: bool
) -> list[tuple[int, int]]:
    """The bin of each rank, and the rank within that bin, in one pass over the tensor."""
    bins = extension.histogram_bins
    counts = (ctypes.c_int64 * (bins * len(ranks)))()
    chosen = [0, *(1 + i for i, _ in request.ranks)]
    for begin, count, inputs in tensor.tiles(planned=planned):
        flags = tensor.kernels.histogram([inputs[i] for i in chosen], prefixes, counts, count)
        tensor.lap("statistics", begin, _bytes(inputs))
        tensor.check(flags, chosen)
    return [bin_of(counts[i * bins : (i + 1) * bins], k) for i, k in enumerate(ranks)]


def _gram(request: Gram, tensor: Tensor) -> list[list[float]]:
    deltas = request.of == "deltas"
    chosen = tensor.operands("all" if deltas else request.of)
    n = len(chosen) - deltas
    totals = [0.0] * (n * n)
    products = tensor.kernels.delta_gram if deltas else tensor.kernels.gram
    for begin, count, inputs in tensor.tiles():
        flags, totals = products([inputs[i] for i in chosen], totals, count)
        tensor.lap("statistics", begin, _bytes(inputs))
        tensor.check(flags, chosen)
    return [[totals[min(i, j) * n + max(i, j)] for j in range(n)] for i in range(n)]


def _norms(request: DeltaNorms, tensor: Tensor) -> list[tuple[float, float]]:
    n = len(request.sparsify)
    totals = [0.0] * (2 * n)
    if request.ranked:
        totals = _ranked_norms(request, tensor)
    for begin, count, inputs in () if request.ranked else tensor.tiles():
        flags, totals = tensor.kernels.delta_norms(inputs, request, totals, count, begin)
        tensor.lap("statistics", begin, _bytes(inputs))
        tensor.check(flags)
    if request.norm == "l2":
        totals = [math.sqrt(total) for total in totals]
    return [(totals[2 * i], totals[2 * i + 1]) for i in range(n)]


def _ranked_norms(request: DeltaNorms, tensor: Tensor) -> list[float]:
    """Sums of whole task vectors, and of what masks by rank have left of them."""
    totals = [0.0] * (2 * len(request.sparsify))
    for begin, count, inputs in tensor.tiles():
        for at, n, parts in tensor.pieces(inputs, count):
            left = tensor.ranked(parts, request.ranked, n, begin + at)
            flags, totals = tensor.kernels.ranked_norms(parts, left, request, totals, n, begin + at)
            tensor.lap("statistics", begin + at, _bytes(parts))
            tensor.check(flags)
    return totals


def _changes(request: ChangeCounts, tensor: Tensor) -> list[tuple[int, int]]:
    totals = [0] * (2 * (len(tensor.task.members) - 1))
    for begin, n, inputs in tensor.tiles():
        flags, totals = tensor.kernels.count_changes(inputs, request.epsilon, totals, n)
        tensor.lap("statistics", begin, _bytes(inputs))
        tensor.check(flags)
    return list(zip(totals[0::2], totals[1::2], strict=True))


def _score_threshold(request: ScoreThreshold, tensor: Tensor) -> int:
    def count(prefix: int | None) -> tuple[Sequence[int], int]:
        counts = (ctypes.c_int64 * extension.histogram_bins)()
        nonzero = 0
        for begin, n, inputs in tensor.tiles():
            flags, found = tensor.kernels.score_histogram(
                inputs, prefix, counts, n, tensor.scores(begin, n)
            )
            nonzero += found
            tensor.lap("statistics", begin, _bytes(inputs))
            tensor.check(flags)
        return counts[:], nonzero

    return threshold_of(request.share, count)


def _kth_score(request: KthScore, tensor: Tensor) -> list[int]:
    if tensor.keeps_scores:
        return _kth_of_kept(request, tensor)
    found: dict[tuple[int, int], int] = {}
    runs = sample_runs(tensor.task, request) if tensor.storage else []
    if runs:
        found = _select_scores(request, runs, tensor)
    left = [rank for rank in sorted(set(request.ranks)) if rank not in found]
    if left:
        found |= _radix_of_scores(request, left, tensor, planned=not runs)
    return [found[rank] for rank in request.ranks]


def _select_scores(
    request: KthScore, runs: Sequence[tuple[int, int]], tensor: Tensor
) -> dict[tuple[int, int], int]:
    """Sample, then one pass; bits by rank where they were found.

    Below what the sample takes to be possible, scores need not be told apart.
    """
    ranks = sorted(set(request.ranks))
    selection = _selection(ranks, runs, tensor)
    for begin, count in runs:
        sampled = tensor.scored(
            tensor.inputs(begin, count, beside=True), request.scores, count, begin
        )
        selection.sample(sampled, count)
        tensor.lap("statistics", begin, 0)
    least: dict[int, int] = {}
    for (score, _), bound in zip(ranks, selection.least(), strict=True):
        least[score] = min(bound, least.get(score, bound))
    floors = [float32_of(least.get(number, 0)) for number in range(len(request.scores))]
    for begin, count, inputs in tensor.tiles(beside=True):
        for at, n, parts in tensor.pieces(inputs, count):
            tensor.add_scored(selection, parts, request.scores, n, begin + at, floors)
            tensor.lap("statistics", begin + at, _bytes(parts))
    bits, missed = selection.finish()
    tensor.lap("statistics", 0, 0)
    return {rank: bits[i] for i, rank in enumerate(ranks) if i not in missed}


def _radix_of_scores(
    request: KthScore, ranks: Sequence[tuple[int, int]], tensor: Tensor, *, planned: bool
) -> dict[tuple[int, int], int]:
    """Counts of the high 16 bits of every score, then of the low 15 bits of those that begin like
    one that is asked for.
    """
    wanted = sorted({score for score, _ in ranks})
    high = _ScoreCounts(request, wanted, [], tensor, planned)
    begins = {(score, k): high.find(wanted.index(score), k) for score, k in ranks}
    alike = sorted({(score, prefix) for (score, _), (prefix, _) in begins.items()})
    scores, prefixes = [score for score, _ in alike], [prefix for _, prefix in alike]
    low = _ScoreCounts(request, scores, prefixes, tensor, planned)
    found = {}
    for (score, k), (prefix, rest) in begins.items():
        bits, _ = low.find(alike.index((score, prefix)), rest)
        found[score, k] = prefix << extension.low_bits | bits
    return found


def _kth_of_kept(request: KthScore, tensor: Tensor) -> list[int]:
    """Selected as magnitudes are, from the scores of the whole tensor."""
    for begin, count, inputs in tensor.tiles(beside=True):
        for at, n, parts in tensor.pieces(inputs, count):
            tensor.scored(parts, request.scores, n, begin + at)
            tensor.lap("statistics", begin + at, _bytes(parts))
    ranks = sorted(set(request.ranks))
    _, bits = tensor.kernels.kth_magnitude(tensor.all_scores(), ranks, tensor.task.numel)
    tensor.lap("statistics", 0, 0)
    found = dict(zip(ranks, bits, strict=True))
    return [found[rank] for rank in request.ranks]


class _ScoreCounts:
    """The counts of scores, of which one may come again, from one pass over the tensor."""

    def __init__(
        self,
        request: KthScore,
        scores: Sequence[int],
        prefixes: list[int],
        tensor: Tensor,
        planned: bool,
    ) -> None:
        self._counts = (ctypes.c_int64 * (extension.histogram_bins * len(scores)))()
        for begin, count, inputs in tensor.tiles(planned=planned, beside=True):
            for at, n, parts in tensor.pieces(inputs, count):
                zeros, *found = tensor.scored(parts, request.scores, n, begin + at)
                given = [zeros, *(found[i] for i in scores)]
                tensor.kernels.histogram(given, prefixes, self._counts, n)
                tensor.lap("statistics", begin + at, _bytes(parts))

    def find(self, number: int, k: int) -> tuple[int, int]:
        """The bin of the k-th largest of a score, and k within that bin."""
        bins = extension.histogram_bins
        address = ctypes.addressof(self._counts) + 8 * bins * number
        return extension.bin_of_rank(Array(address, bins), k)


def _score_norms(request: ScoreNorms, tensor: Tensor) -> list[float]:
    totals = [0.0] * (len(tensor.task.members) - 1)
    for begin, n, inputs in tensor.tiles():
        flags, totals = tensor.kernels.score_norms(
            inputs, request.lo, totals, n, tensor.scores(begin, n)
        )
        tensor.lap("statistics", begin, _bytes(inputs))
        tensor.check(flags)
    return totals


#: By type of statistic; :mod:`mergesafe.ops.statistics` has the table for tensors in memory.
ANSWERS: Final[Mapping[type, Callable[..., Any]]] = {
    KthMagnitude: _kth, ModelKthMagnitude: _of_model, LowestTensors: _of_model,
    KthScore: _kth_score,
    DeltaNorms: _norms, Gram: _gram,
    ScoreThreshold: _score_threshold, ScoreNorms: _score_norms,
    ChangeCounts: _changes,
}  # fmt: skip


def _bytes(inputs: Sequence[Buffer]) -> int:
    return sum(buffer.view.nbytes for buffer in inputs)
