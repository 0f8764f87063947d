"""Models against each other, question by question."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from mergesafe.safety.evaluation.result import Comparison, Figure, ModelResult
from mergesafe.safety.statistics import (
    Estimate,
    bootstrap_mean,
    permutation_test,
    proportion_difference,
)


def compare(models: Sequence[ModelResult], confidence: float) -> list[Comparison]:
    """Every pair of models, for every metric that both have on the same questions."""
    found = []
    for first, second in combinations(models, 2):
        for metric, one in first.figures.items():
            two = second.figures.get(metric)
            if two is not None and len(one.outcomes) == len(two.outcomes):
                estimate = difference(one, two, 1.0, confidence)
                p = permutation_test(one.outcomes, two.outcomes)
                found.append(Comparison(first.name, second.name, metric, estimate, p))
    return found


def difference(first: Figure, second: Figure, factor: float, confidence: float) -> Estimate:
    """first − factor · second with a paired interval: of rates by Newcombe's method, of means by
    the bootstrap of the differences.
    """
    if first.kind == "rate":
        return proportion_difference(first.outcomes, second.outcomes, factor, confidence)
    pairs = zip(first.outcomes, second.outcomes, strict=True)
    return bootstrap_mean([one - factor * two for one, two in pairs], confidence)
