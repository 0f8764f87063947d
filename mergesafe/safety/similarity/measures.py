"""Cosine, distance, sign conflict and norm ratio of task vectors, from their sums."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from mergesafe.results.similarity import Addition, Measures
from mergesafe.safety.similarity.tiles import TensorSums

#: A squared length of a sum of task vectors that is this share of Σ ‖τ‖² or less is of rounding.
_ROUNDING: Final = 1e-12


@dataclass(frozen=True)
class Sums:
    """Sums of several tensors for all experts, by their numbers; an absent expert counts zero."""

    gram: list[list[float]]
    both: list[list[int]]
    opposite: list[list[int]]

    def norm(self, expert: int) -> float:
        """‖τ‖ of one expert."""
        return math.sqrt(max(0.0, self.gram[expert][expert]))

    def compare(self, first: int, second: int) -> Measures:
        """The measures of one pair."""
        one, two = self.norm(first), self.norm(second)
        inner, both = self.gram[first][second], self.both[first][second]
        squared = self.gram[first][first] + self.gram[second][second] - 2 * inner
        return Measures(
            # of a vector with itself the quotient may exceed one by rounding
            cosine=max(-1.0, min(1.0, inner / (one * two))) if one and two else None,
            l2=math.sqrt(max(0.0, squared)),
            sign_conflict=self.opposite[first][second] / both if both else None,
            norm_ratio=one / two if two else None,
        )

    def addition(self, expert: int) -> Addition:
        """What one task vector adds to the sum T of all: its share of it, and T without it.

        ⟨τ, T⟩ / ‖T‖² and ⟨T, T − τ⟩ / (‖T‖ ‖T − τ‖), all from the inner products of pairs.
        """
        least = _ROUNDING * math.fsum(row[i] for i, row in enumerate(self.gram))
        with_sum = [math.fsum(row) for row in self.gram]  # ⟨τ_i, T⟩
        own, total = with_sum[expert], math.fsum(with_sum)
        rest = total - 2 * own + self.gram[expert][expert]  # ‖T − τ‖²
        if total <= least:
            return Addition(None, None)
        if rest <= least:
            return Addition(own / total, None)
        cosine = (total - own) / math.sqrt(total * rest)
        return Addition(own / total, max(-1.0, min(1.0, cosine)))


def add_up(tensors: Iterable[TensorSums], count: int) -> Sums:
    """The sums of several tensors of ``count`` experts, exact but for one rounding."""
    terms: list[list[list[float]]] = [[[] for _ in range(count)] for _ in range(count)]
    both, opposite = ([[0] * count for _ in range(count)] for _ in range(2))
    for tensor in tensors:
        for i, row in enumerate(tensor.experts):
            for j, column in enumerate(tensor.experts):
                terms[row][column].append(tensor.gram[i][j])
                both[row][column] += tensor.both[i][j]
                opposite[row][column] += tensor.opposite[i][j]
    return Sums([[_total(each) for each in row] for row in terms], both, opposite)


def _total(terms: Sequence[float]) -> float:
    """Their sum, correctly rounded; NaN where a term is NaN or infinite."""
    return math.fsum(terms) if all(map(math.isfinite, terms)) else math.nan


def pairs(count: int) -> Sequence[tuple[int, int]]:
    """Every pair of ``count`` models, the first before the second."""
    return [(i, j) for i in range(count) for j in range(i + 1, count)]
