"""What a merge method may ask about a tensor: each request knows its answer and what it costs.

How a request is answered is not here: :mod:`mergesafe.ops.statistics` does it for tensors in
memory, :mod:`mergesafe.engine.run.answers` for streamed ones, each with a table by type.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Literal

from mergesafe.methods.contract import BrokenContractError, OperandSet, Scope, Used, shown

#: Bit pattern bounds of |delta| that keep everything (see :class:`Sparsify`).
KEEP_ALL: Final = (0, 0x7FFFFFFF)
#: An empty interval: keeps nothing.
KEEP_NONE: Final = (1, 0)
NORMS: Final = ("l1", "l2", "linf")
#: Bits of the float32 infinity; those of NaN are above.
_INFINITY: Final = 0x7F800000


@dataclass(frozen=True)
class Sparsify:
    """Which elements of one task vector survive, and their factor.

    ``window``: keep where ``lo <= bits(|delta|) <= hi``; magnitudes compare as the bit patterns of
    non-negative float32 values, which order like the values. ``random``: keep where the Philox
    word of (``key``, element index) is below ``threshold`` (a 32-bit integer; probability
    threshold / 2**32). ``rescale`` multiplies the survivors.
    """

    lo: int = KEEP_ALL[0]
    hi: int = KEEP_ALL[1]
    random: bool = False
    key: int = 0
    threshold: int = 0
    rescale: float = 1.0


class Statistic(ABC):
    """A request for a few numbers about one tensor."""

    #: What a plan calls it.
    title: ClassVar[str]

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


@dataclass(frozen=True)
class KthMagnitude(Statistic):
    """Ask for the bits of the k-th largest ``|x_i - base|``, for pairs (input index, k)."""

    title: ClassVar[str] = "k-th magnitude"
    ranks: tuple[tuple[int, int], ...]

    def check(self, scope: Scope) -> None:
        scope.check_base("KthMagnitude")
        for rank in self.ranks:
            if not _is_rank(rank, scope):
                raise BrokenContractError(
                    f"merge() asked for the k-th magnitude of {rank!r}",
                    f"pairs (expert, k) with an expert in [0, {scope.inputs - 1}] and a k in "
                    f"[1, {scope.numel}]",
                )

    def neutral(self, scope: Scope) -> list[int]:
        return [0] * len(self.ranks)

    def is_finite(self, answer: Iterable[int]) -> bool:
        return all(bits < _INFINITY for bits in answer)

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

    @property
    def _experts(self) -> list[int]:
        return [i for i, _ in self.ranks]


@dataclass(frozen=True)
class DeltaNorms(Statistic):
    """Ask for ``(norm of delta_i, norm of sparsified delta_i)`` per expert, float64."""

    title: ClassVar[str] = "norms"
    norm: Literal["l1", "l2", "linf"]
    sparsify: tuple[Sparsify, ...]

    def check(self, scope: Scope) -> None:
        scope.check_base("DeltaNorms")
        if self.norm not in NORMS:
            raise BrokenContractError(
                f"merge() asked for the norm {self.norm!r}", f"one of {', '.join(NORMS)}"
            )
        check_masks("DeltaNorms", self.sparsify, scope)

    def neutral(self, scope: Scope) -> list[tuple[float, float]]:
        return [(1.0, 1.0)] * len(self.sparsify)

    def is_finite(self, answer: Iterable[Sequence[float]]) -> bool:
        return _all_finite(answer)

    def narrowed(self, used: Used) -> DeltaNorms | None:
        masks = used.keep(self.sparsify)
        return replace(self, sparsify=masks) if masks else None

    def widened(
        self, answer: Iterable[tuple[float, float]] | None, used: Used
    ) -> list[tuple[float, float]]:
        norms = iter(answer or ())
        there = set(used.indices)
        return [next(norms) if i in there else (1.0, 1.0) for i in range(used.count)]

    def is_like(self, other: Statistic) -> bool:
        """Bounds of masks may differ."""
        return (
            isinstance(other, DeltaNorms)
            and self.norm == other.norm
            and len(self.sparsify) == len(other.sparsify)
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


def spread(small: Sequence[Sequence[float]], used: Sequence[int], count: int) -> list[list[float]]:
    """A Gram matrix of all tensors from that of some: the others are unit vectors of their own."""
    matrix = [[1.0 if i == j else 0.0 for j in range(count)] for i in range(count)]
    for row, i in enumerate(used):
        for column, j in enumerate(used):
            matrix[i][j] = small[row][column]
    return matrix


def check_masks(name: str, masks: Sequence[object], scope: Scope) -> None:
    """Raise where there is not one :class:`Sparsify` for each input."""
    if len(masks) != scope.inputs:
        raise BrokenContractError(
            f"{name} has {len(masks)} masks in 'sparsify'",
            f"{scope.inputs}, one per {scope.noun}",
        )
    for i, mask in enumerate(masks):
        if not isinstance(mask, Sparsify):
            raise BrokenContractError(f"{name} has sparsify[{i}] = {shown(mask)}", "a Sparsify")


def _is_rank(rank: Any, scope: Scope) -> bool:
    return (
        isinstance(rank, tuple)
        and len(rank) == 2
        and all(isinstance(number, int) for number in rank)
        and 0 <= rank[0] < scope.inputs
        and 1 <= rank[1] <= scope.numel
    )


def _all_finite(rows: Iterable[Sequence[float]]) -> bool:
    return all(math.isfinite(value) for row in rows for value in row)
