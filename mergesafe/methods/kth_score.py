"""The k-th largest of scores that a method computes from its operands; see :class:`KthScore`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from mergesafe.methods.combinations import Combination, TileFunction
from mergesafe.methods.contract import BrokenContractError, Scope, Used, shown
from mergesafe.methods.fused import Fused
from mergesafe.methods.statistics import INFINITY, Statistic, is_rank


@dataclass(frozen=True)
class KthScore(Statistic):
    """Ask for the bits of the k-th largest score, for pairs (number of the score, k).

    A score is what a :class:`TileFunction` (of elements or rows) or a :class:`Fused` makes of the
    operands: a float32 of at least 0 for each element; of a negative one the magnitude counts. Any
    k between 1 and the number of elements may be asked for, several at once. The answer is exact:
    the same for every cut of the tensor into tiles.

    What the scores depend on (``settings``) must be hashable: tuples of numbers, not lists. A tile
    function is given what a combination is: references and calibration with the operands.
    """

    title: ClassVar[str] = "k-th score"
    ranks: tuple[tuple[int, int], ...]
    scores: tuple[Combination, ...]

    def check(self, scope: Scope) -> None:
        if not self.scores or not self.ranks:
            raise BrokenContractError(
                "merge() asked for a KthScore without scores or ranks", "one at least"
            )
        for score in self.scores:
            whole = not isinstance(score, (TileFunction, Fused)) or score.unit.is_whole
            if whole or (isinstance(score, TileFunction) and score.scores):
                raise BrokenContractError(
                    f"merge() asked for a KthScore of {shown(score)}",
                    "a TileFunction of elements or rows without scores, or a Fused",
                )
            score.check(scope, finite=True)
        for rank in self.ranks:
            if not is_rank(rank, len(self.scores), scope.numel):
                raise BrokenContractError(
                    f"merge() asked for the k-th score of {rank!r}",
                    f"pairs (score, k) with a score in [0, {len(self.scores) - 1}] and a k in "
                    f"[1, {scope.numel}]",
                )
        try:
            hash(self)
        except TypeError as error:
            raise BrokenContractError(
                f"merge() asked for a KthScore that cannot be kept: {error}",
                "settings of tuples and numbers",
            ) from error

    def neutral(self, scope: Scope) -> list[int]:
        return [0] * len(self.ranks)

    def is_finite(self, answer: Iterable[int]) -> bool:
        return all(bits < INFINITY for bits in answer)

    def narrowed(self, used: Used) -> KthScore:
        return replace(self, scores=tuple(score.narrowed(used) for score in self.scores))

    def widened(self, answer: Any, used: Used) -> Any:
        return answer

    def is_like(self, other: Statistic) -> bool:
        """k itself may differ, and what the scores depend on."""
        return (
            isinstance(other, KthScore)
            and [score for score, _ in self.ranks] == [score for score, _ in other.ranks]
            and len(self.scores) == len(other.scores)
            and all(a.is_like(b) for a, b in zip(self.scores, other.scores, strict=True))
        )

    @property
    def rank_count(self) -> int:
        return len(set(self.ranks))

    @property
    def count_number(self) -> int:
        return max(len(self.ranks), len(self.scores))

    def passes(self, *, selects: bool) -> int:
        return 1 if selects else 2
