"""What a merge method may ask about a tensor: each request knows its answer and what it costs.

How a request is answered is not here: :mod:`mergesafe.ops.statistics` does it for tensors in
memory, :mod:`mergesafe.engine.run.answers` for streamed ones, each with a table by type.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Literal

from mergesafe.methods.contract import BrokenContractError, OperandSet, Scope, Used
from mergesafe.methods.masks import RankMask, Sparsify, check_masks, check_ranked

NORMS: Final = ("l1", "l2", "linf")
#: Bits above those of every score, NaN included.
NO_SCORE: Final = 0x7FFFFFFF
#: Bits of the float32 infinity; those of NaN are above.
INFINITY: Final = 0x7F800000


class Statistic(ABC):
    """A request for a few numbers about one tensor."""

    #: What a plan calls it.
    title: ClassVar[str]
    #: What it is about: the tensor, or all that the plan merges, found before the first tensor.
    about: ClassVar[Literal["tensor", "model"]] = "tensor"

    @abstractmethod
    def check(self, scope: Scope) -> None:
        """Raise BrokenContractError where the request does not fit the tensor."""

    @abstractmethod
    def neutral(self, scope: Scope) -> Any:
        """An answer that stands for any other, for a plan."""

    @abstractmethod
    def is_finite(self, answer: Any) -> bool:
        """Whether the answer holds no NaN or infinity, which inputs that hold them give."""

    @abstractmethod
    def narrowed(self, used: Used) -> Statistic | None:
        """The same about the inputs that are there; None where nothing is left to ask."""

    @abstractmethod
    def widened(self, answer: Any, used: Used) -> Any:
        """The answer about all inputs, from that of :meth:`narrowed` (None where it was None)."""

    def is_like(self, other: Statistic) -> bool:
        """Whether both take the same passes and the same memory."""
        return self == other

    @property
    def rank_count(self) -> int:
        """How many magnitudes are selected, each of which takes storage and counts."""
        return 0

    @property
    def count_number(self) -> int:
        """How many counts of 65,536 numbers are kept at a time where a tensor is streamed."""
        return self.rank_count

    def passes(self, *, selects: bool) -> int:
        """How often a tensor that does not fit is read; ``selects``: selections take one pass."""
        return 1


@dataclass(frozen=True)
class KthMagnitude(Statistic):
    """Ask for the bits of the k-th largest ``|x_i - base|``, for pairs (input index, k)."""

    title: ClassVar[str] = "k-th magnitude"
    ranks: tuple[tuple[int, int], ...]

    def check(self, scope: Scope) -> None:
        scope.check_base("KthMagnitude")
        for rank in self.ranks:
            if not is_rank(rank, scope.inputs, scope.numel):
                raise BrokenContractError(
                    f"merge() asked for the k-th magnitude of {rank!r}",
                    f"pairs (expert, k) with an expert in [0, {scope.inputs - 1}] and a k in "
                    f"[1, {scope.numel}]",
                )

    def neutral(self, scope: Scope) -> list[int]:
        return [0] * len(self.ranks)

    def is_finite(self, answer: Iterable[int]) -> bool:
        return all(bits < INFINITY for bits in answer)

    def narrowed(self, used: Used) -> KthMagnitude | None:
        places = {index: place for place, index in enumerate(used.indices)}
        ranks = tuple((places[i], k) for i, k in self.ranks if i in places)
        return KthMagnitude(ranks) if ranks else None

    def widened(self, answer: Iterable[int] | None, used: Used) -> list[int]:
        bits = iter(answer or ())
        there = set(used.indices)
        return [next(bits) if i in there else 0 for i, _ in self.ranks]

    def is_like(self, other: Statistic) -> bool:
        """k itself may differ."""
        return isinstance(other, KthMagnitude) and self._experts == other._experts

    @property
    def rank_count(self) -> int:
        return len(self.ranks)

    def passes(self, *, selects: bool) -> int:
        return 1 if selects else 2

    @property
    def _experts(self) -> list[int]:
        return [i for i, _ in self.ranks]


@dataclass(frozen=True)
class ModelKthMagnitude(Statistic):
    """Ask for the bits of the k-th largest ``|x_i - base|`` of all tensors that are merged.

    ``ranks``: pairs (input index, k), with k in [1, :attr:`TensorContext.model_numel`]. A tensor in
    memory, which no plan is about, is a model of its own.
    """

    title: ClassVar[str] = "k-th magnitude of the model"
    about: ClassVar[Literal["tensor", "model"]] = "model"
    ranks: tuple[tuple[int, int], ...]

    def check(self, scope: Scope) -> None:
        scope.check_base("ModelKthMagnitude")
        for rank in self.ranks:
            if not is_rank(rank, scope.inputs, scope.model_numel):
                raise BrokenContractError(
                    f"merge() asked for the k-th magnitude of the model for {rank!r}",
                    f"pairs (expert, k) with an expert in [0, {scope.inputs - 1}] and a k in "
                    f"[1, {scope.model_numel}]",
                )

    def neutral(self, scope: Scope) -> list[int]:
        return [0] * len(self.ranks)

    def is_finite(self, answer: Iterable[int]) -> bool:
        return all(bits < INFINITY for bits in answer)

    def narrowed(self, used: Used) -> ModelKthMagnitude | None:
        raise BrokenContractError(
            "unused() left out inputs of a tensor, and merge() asks about the whole model",
            "no unused inputs, because what is left out elsewhere counts here",
        )

    def widened(self, answer: Any, used: Used) -> Any:
        raise AssertionError("nothing is narrowed")

    def passes(self, *, selects: bool) -> int:
        return 0


@dataclass(frozen=True)
class DeltaNorms(Statistic):
    """Ask for ``(norm of delta_i, norm of sparsified delta_i)`` per expert, float64.

    ``ranked``: masks by rank, one per expert, in place of ``sparsify``, which then keeps all.
    """

    title: ClassVar[str] = "norms"
    norm: Literal["l1", "l2", "linf"]
    sparsify: tuple[Sparsify, ...]
    ranked: tuple[RankMask, ...] = ()

    def check(self, scope: Scope) -> None:
        scope.check_base("DeltaNorms")
        if self.norm not in NORMS:
            raise BrokenContractError(
                f"merge() asked for the norm {self.norm!r}", f"one of {', '.join(NORMS)}"
            )
        check_masks("DeltaNorms", self.sparsify, scope)
        check_ranked("DeltaNorms", self.ranked, scope)

    def neutral(self, scope: Scope) -> list[tuple[float, float]]:
        return [(1.0, 1.0)] * len(self.sparsify)

    def is_finite(self, answer: Iterable[Sequence[float]]) -> bool:
        return _all_finite(answer)

    def narrowed(self, used: Used) -> DeltaNorms | None:
        masks = used.keep(self.sparsify)
        return replace(self, sparsify=masks, ranked=used.keep_any(self.ranked)) if masks else None

    def widened(
        self, answer: Iterable[tuple[float, float]] | None, used: Used
    ) -> list[tuple[float, float]]:
        norms = iter(answer or ())
        there = set(used.indices)
        return [next(norms) if i in there else (1.0, 1.0) for i in range(used.count)]

    def is_like(self, other: Statistic) -> bool:
        """Bounds and keys of masks may differ: those of parts of a tensor do."""
        return (
            isinstance(other, DeltaNorms)
            and self.norm == other.norm
            and len(self.sparsify) == len(other.sparsify)
            and [m.columns for m in self.ranked] == [m.columns for m in other.ranked]
        )


@dataclass(frozen=True)
class Gram(Statistic):
    """Ask for the float64 matrix of inner products of the tensors of a set, as nested lists."""

    title: ClassVar[str] = "Gram matrix"
    of: OperandSet = "inputs"

    def check(self, scope: Scope) -> None:
        scope.check_set(self.of, "Gram")

    def neutral(self, scope: Scope) -> list[list[float]]:
        return spread([], (), scope.count(self.of))

    def is_finite(self, answer: Iterable[Sequence[float]]) -> bool:
        return _all_finite(answer)

    def narrowed(self, used: Used) -> Gram | None:
        return self if used.places(self.of) else None

    def widened(self, answer: Sequence[Sequence[float]] | None, used: Used) -> list[list[float]]:
        return spread(answer or [], used.places(self.of), used.total(self.of))


@dataclass(frozen=True)
class ScoreThreshold(Statistic):
    """Ask for the bits of the least score among the ``share`` that is selected.

    The score of an element is ``sum_i (delta_i - mean)^2`` over the experts, which orders like
    their variance, in float64, rounded to float32. Selected are the ``trunc(share * count)``
    largest of the ``count`` scores that are not 0, and all that equal the last. Where none is, the
    answer is :data:`NO_SCORE`, which no score reaches.
    """

    title: ClassVar[str] = "variance threshold"
    share: float

    def check(self, scope: Scope) -> None:
        scope.check_base("ScoreThreshold")

    def neutral(self, scope: Scope) -> int:
        return 0

    def is_finite(self, answer: int) -> bool:
        return answer == NO_SCORE or answer < INFINITY

    def narrowed(self, used: Used) -> ScoreThreshold | None:
        return self if used.indices else None

    def widened(self, answer: int | None, used: Used) -> int:
        return NO_SCORE if answer is None else answer

    def passes(self, *, selects: bool) -> int:
        return 2


def threshold_of(share: float, count: Callable[[int | None], tuple[Sequence[int], int]]) -> int:
    """Answers a :class:`ScoreThreshold` from histograms.

    ``count(None)`` counts the high 16 bits of all scores, ``count(prefix)`` the low 15 of those
    with these high bits; each says how many scores are not 0, too.
    """
    counts, nonzero = count(None)
    k = int(nonzero * share)
    if k == 0:
        return NO_SCORE
    prefix, rest = bin_of(counts, k)
    counts, _ = count(prefix)
    return prefix << 15 | bin_of(counts, rest)[0]


def bin_of(counts: Sequence[int], k: int) -> tuple[int, int]:
    """The bin of the k-th largest, and k within that bin."""
    for index in range(len(counts) - 1, -1, -1):
        if k <= counts[index]:
            return index, k
        k -= counts[index]
    raise AssertionError("fewer elements than the rank")


@dataclass(frozen=True)
class ScoreNorms(Statistic):
    """Ask for the float64 sums of the squares of the selected deltas, one per expert.

    Selected are the elements whose score (see :class:`ScoreThreshold`) has bits of at least ``lo``.
    """

    title: ClassVar[str] = "norms"
    lo: int

    def check(self, scope: Scope) -> None:
        scope.check_base("ScoreNorms")

    def neutral(self, scope: Scope) -> list[float]:
        return [1.0] * scope.inputs

    def is_finite(self, answer: Iterable[float]) -> bool:
        return all(math.isfinite(value) for value in answer)

    def narrowed(self, used: Used) -> ScoreNorms | None:
        return self if used.indices else None

    def widened(self, answer: Iterable[float] | None, used: Used) -> list[float]:
        sums = iter(answer or ())
        there = set(used.indices)
        return [next(sums) if i in there else 1.0 for i in range(used.count)]

    def is_like(self, other: Statistic) -> bool:
        """The threshold itself may differ."""
        return isinstance(other, ScoreNorms)


@dataclass(frozen=True)
class ChangeCounts(Statistic):
    """Ask, for each expert, for the number of elements that it alone changes, and of those that
    it and others change.

    An expert changes an element where ``|x_i - base|`` is above ``epsilon`` in float32, or NaN.
    """

    title: ClassVar[str] = "counts of changes"
    epsilon: float

    def check(self, scope: Scope) -> None:
        scope.check_base("ChangeCounts")

    def neutral(self, scope: Scope) -> list[tuple[int, int]]:
        return [(1, 1)] * scope.inputs

    def is_finite(self, answer: object) -> bool:
        return True

    def narrowed(self, used: Used) -> ChangeCounts | None:
        return self if used.indices else None

    def widened(
        self, answer: Iterable[tuple[int, int]] | None, used: Used
    ) -> list[tuple[int, int]]:
        counts = iter(answer or ())
        there = set(used.indices)
        return [next(counts) if i in there else (0, 0) for i in range(used.count)]


def spread(small: Sequence[Sequence[float]], used: Sequence[int], count: int) -> list[list[float]]:
    """A Gram matrix of all tensors from that of some: the others are unit vectors of their own."""
    matrix = [[1.0 if i == j else 0.0 for j in range(count)] for i in range(count)]
    for row, i in enumerate(used):
        for column, j in enumerate(used):
            matrix[i][j] = small[row][column]
    return matrix


def is_rank(rank: Any, inputs: int, numel: int) -> bool:
    """Whether this is a pair (number of one of ``inputs``, k) with a k in [1, ``numel``]."""
    return (
        isinstance(rank, tuple)
        and len(rank) == 2
        and all(isinstance(number, int) for number in rank)
        and 0 <= rank[0] < inputs
        and 1 <= rank[1] <= numel
    )


def _all_finite(rows: Iterable[Sequence[float]]) -> bool:
    return all(math.isfinite(value) for row in rows for value in row)
