"""Models against each other, question by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from types import MappingProxyType
from typing import Final

from mergesafe.safety.evaluation.result import Comparison, Figure, ModelResult
from mergesafe.safety.statistics import (
    Estimate,
    bootstrap_mean,
    holm,
    permutation_test,
    proportion_difference,
)

#: No metric repeats another.
NONE: Final[Mapping[str, str]] = MappingProxyType({})


def compare(
    models: Sequence[ModelResult], confidence: float, repeated: Mapping[str, str] = NONE
) -> list[Comparison]:
    """Every pair of models, for every metric that both have on the same questions.

    ``repeated``: metrics that only repeat another one, and which. They are no tests of their own:
    Holm's correction does not count them, and they get what their other one gets.
    """
    found: list[Comparison] = []
    for first, second in combinations(models, 2):
        for metric, one in first.figures.items():
            two = second.figures.get(metric)
            if two is not None and len(one.outcomes) == len(two.outcomes):
                estimate = difference(one, two, 1.0, confidence)
                p = permutation_test(one.outcomes, two.outcomes)
                found.append(Comparison(first.name, second.name, metric, estimate, p))
    tests = _tests(found, repeated)
    corrected = dict(zip(map(_pair, tests), holm([each.p for each in tests]), strict=True))
    return [
        replace(each, p_holm=corrected[each.first, each.second, _original(each, repeated)])
        for each in found
    ]


def _tests(found: Sequence[Comparison], repeated: Mapping[str, str]) -> list[Comparison]:
    """Those that do not only repeat another one."""
    return [each for each in found if _original(each, repeated) == each.metric]


def _pair(compared: Comparison) -> tuple[str, str, str]:
    return compared.first, compared.second, compared.metric


def _original(compared: Comparison, repeated: Mapping[str, str]) -> str:
    """The metric itself, or the one that it repeats, on the same set."""
    family, dot, name = compared.metric.partition(".")
    return repeated.get(family, family) + dot + name


def disagreements(
    comparisons: Sequence[Comparison], confidence: float, repeated: Mapping[str, str] = NONE
) -> list[str]:
    """A note where interval and p-value say different things about "equal", and which decides.

    They are of two methods (an interval of scores, an exact test), so it happens near the bound.
    """
    alpha = 1 - confidence
    found = []
    for each in _tests(comparisons, repeated):
        excludes = each.estimate.low > 0 or each.estimate.high < 0
        if excludes != (each.p <= alpha):
            side, verdict = ("excludes", "not shown") if excludes else ("includes", "shown")
            found.append(
                f"{each.second} against {each.first}, {each.metric} (the interval {side} 0, p is "
                f"{each.p:.2g}: a difference is {verdict})"
            )
    if not found:
        return []
    return [
        f"interval and p-value disagree at {100 * confidence:g} %: {'; '.join(found)}. Whether two "
        "models differ, the p-value decides; the interval says by how much"
    ]


def difference(first: Figure, second: Figure, factor: float, confidence: float) -> Estimate:
    """first − factor · second with a paired interval: of rates by Newcombe's method, of means by
    the bootstrap of the differences.
    """
    if first.kind == "rate":
        return proportion_difference(first.outcomes, second.outcomes, factor, confidence)
    pairs = zip(first.outcomes, second.outcomes, strict=True)
    return bootstrap_mean([one - factor * two for one, two in pairs], confidence)
