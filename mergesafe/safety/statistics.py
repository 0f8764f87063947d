"""Intervals and tests for what is measured on a set of questions.

The question is the unit that is drawn at random. Where each was answered several times (with
several seeds), its mean over them is one value: more seeds make a value steadier, not the set
larger.

Rates have Wilson intervals and their differences intervals built from them. The bootstrap is given
beside them, but no decision rests on it: of 48 safe answers to 48 questions every resample is 48 of
48, and the interval [1, 1] would promise what 48 questions cannot show.

Not from scipy, without which a base install is 140 MB smaller, and which has neither these paired
intervals nor Holm's correction; the tests compare what both have.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING, Any, Final

from mergesafe.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 10_000
#: Distinct sums up to which the permutation distribution is enumerated.
_ENUMERATED: Final = 4096
#: Values up to which means are resampled, which takes a second.
_RESAMPLED: Final = 10_000
#: Values drawn at a time by the bootstrap, 8 bytes each.
_DRAWN: Final = 1 << 22


@dataclass(frozen=True)
class Estimate:
    """A figure with its confidence interval [low, high], over ``n`` questions."""

    value: float
    low: float
    high: float
    n: int

    def rounded(self) -> Estimate:
        """With four digits, as it is written. An end becomes 0 or 1 only where it is there."""
        return Estimate(round(self.value, 4), *ends(self.low, self.high, 4), self.n)

    def as_dict(self) -> dict[str, float | int]:
        """For JSON: value, low, high, n, rounded."""
        return dict(vars(self.rounded()))


def ends(low: float, high: float, digits: int) -> tuple[float, float]:
    """The ends of an interval, rounded; what is below 1 or above 0 does not become 1 or 0.

    [0.99996, 1] of 100,000 questions would else be [1, 1], which no number of questions shows.
    """
    step = 10.0**-digits
    lower, upper = round(low, digits), round(high, digits)
    if lower == 1 > low:
        lower = round(1 - step, digits)
    if upper == 0 < high:
        upper = step
    return lower, upper


def interval(low: float, high: float, digits: int = 2) -> str:
    """``"[0.93, 1.00]"``, rounded as by :func:`ends`."""
    lower, upper = ends(low, high, digits)
    return f"[{lower:.{digits}f}, {upper:.{digits}f}]"


def check_confidence(confidence: float) -> None:
    """Refuse what is no confidence level of intervals.

    Raises:
        ArgumentError: it is none.
    """
    if not 0.5 <= confidence < 1:
        raise ArgumentError(
            f"confidence is {confidence}; expected a share such as 0.95, from 0.5 up to but not "
            "including 1"
        )


def wilson(value: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The Wilson score interval of a proportion ``value`` of ``n`` cases (Wilson 1927).

    (p + z²/2n ± z·sqrt(p(1−p)/n + z²/4n²)) / (1 + z²/n), z the normal quantile of
    (1 + confidence) / 2. [0, 1] when there is no case.

    ``value`` may be a mean of n numbers in [0, 1] that are not all 0 or 1: their variance is at
    most p(1−p), so the interval is then too wide rather than too narrow.
    """
    if not n:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = value + z * z / (2 * n)
    half = z * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At 0 and 1 the formula gives the bound itself, but for rounding.
    low = 0.0 if value <= 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if value >= 1 else min(1.0, (centre + half) / scale)
    return low, high


@dataclass(frozen=True)
class Rate:
    """A share of ``n`` cases with its 95 % Wilson score interval (Wilson 1927)."""

    hits: int
    n: int

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Rate:
        """The share of true outcomes."""
        listed = list(outcomes)
        return cls(sum(listed), len(listed))

    @property
    def value(self) -> float:
        """hits / n; 0 when there is no case."""
        return self.hits / self.n if self.n else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high of :func:`wilson`."""
        return wilson(self.value, self.n)

    def as_dict(self) -> dict[str, float | int]:
        """For JSON: value, low, high, hits, n."""
        estimate = Estimate(self.value, *self.interval, self.n).as_dict()
        return {**estimate, "hits": self.hits}


def proportion(shares: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The mean of ``shares`` in [0, 1], one a question, with its Wilson interval."""
    value = fmean(shares) if shares else 0.0
    return Estimate(value, *wilson(value, len(shares), confidence), len(shares))


def proportion_difference(
    first: Sequence[float],
    second: Sequence[float],
    factor: float = 1.0,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """mean(first) − factor · mean(second) over the same questions, with a paired interval.

    With the Wilson intervals [l₁, u₁] and [l₂, u₂], k = ``factor`` ≥ 0 and φ the correlation of the
    two over the questions, Σ(x−x̄)(y−ȳ) / sqrt(Σ(x−x̄)²·Σ(y−ȳ)²) (0 where either is constant). A
    positive numerator is lessened by ½, to no less than 0, so that φ is below 1 and two models that
    agree on every question have an interval too:
    low = d − sqrt((p₁−l₁)² − 2φk(p₁−l₁)(u₂−p₂) + k²(u₂−p₂)²), and
    high = d + sqrt((u₁−p₁)² − 2φk(u₁−p₁)(p₂−l₂) + k²(p₂−l₂)²).
    For k = 1 this is method 10 of Newcombe 1998 (Statistics in Medicine 17:2635), with its
    continuity correction of φ; for other k, Zou and Donner 2008 (ibid. 27:1693).

    Raises:
        ValueError: the two are not of equal length.
    """
    one, two = proportion(first, confidence), proportion(second, confidence)
    phi = _correlation(first, second)

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * factor * a * b + factor * factor * b * b))

    difference = one.value - factor * two.value
    return Estimate(
        difference,
        difference - reach(one.value - one.low, two.high - two.value),
        difference + reach(one.high - one.value, two.value - two.low),
        one.n,
    )


def bootstrap_mean(
    values: Sequence[float],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The mean with its percentile bootstrap interval (Efron 1979).

    ``resamples`` times, as many values as there are are drawn with replacement; low and high are
    the quantiles (1 ∓ confidence) / 2 of their means. Of paired values give the differences: then
    questions are drawn, each with both of its values. Of more than 10,000 values, whose mean is
    normal for all that a figure shows, the interval is mean ± z · s / sqrt(n).
    """
    import numpy

    given = numpy.asarray(values, dtype=numpy.float64)
    if not given.size:
        return Estimate(0.0, 0.0, 0.0, 0)
    if given.size > _RESAMPLED:
        mean = float(given.mean())
        reach = NormalDist().inv_cdf((1 + confidence) / 2) * float(given.std()) / given.size**0.5
        return Estimate(mean, mean - reach, mean + reach, given.size)
    means = numpy.concatenate(list(_resampled_means(given, resamples, seed)))
    low, high = numpy.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(given.mean()), float(low), float(high), given.size)


def permutation_test(
    first: Sequence[float],
    second: Sequence[float],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """The two-sided p-value of the paired permutation test (Fisher 1935) for equal means.

    If the two do not differ, the sign of each question's difference is a coin's: p is the share of
    sign patterns whose |Σ d| is at least the one observed. All patterns are counted while their
    distinct sums are few, as for yes/no outcomes, where this is McNemar's exact test; otherwise
    ``resamples`` are drawn, and p = (1 + hits) / (1 + resamples).

    Raises:
        ValueError: the two are not of equal length.
    """
    differences = [a - b for a, b in zip(first, second, strict=True) if a != b]
    observed = abs(math.fsum(differences)) - 1e-9  # sums of the same numbers in another order
    sums: dict[float, float] = {0.0: 1.0}
    for difference in differences:
        grown: dict[float, float] = defaultdict(float)
        for total, probability in sums.items():
            for signed in (total + difference, total - difference):
                grown[round(signed, 10)] += probability / 2
        sums = grown
        if len(sums) > _ENUMERATED:
            return _sampled_p(differences, observed, resamples, seed)
    return min(1.0, math.fsum(p for total, p in sums.items() if abs(total) >= observed))


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's step-down method (Holm 1979).

    Of m in ascending order, the i-th becomes max over j ≤ i of min(1, (m − j + 1)·p_j). Rejecting
    where the corrected value is at most α errs in any of the m with a probability of at most α,
    whatever their dependence.
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    found, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        found[place] = largest
    return found


def _sampled_p(differences: list[float], observed: float, resamples: int, seed: int) -> float:
    import numpy

    generator = numpy.random.default_rng(seed)
    values = numpy.asarray(differences)
    hits = 0
    for rows in _portions(resamples, values.size):
        signs = generator.integers(0, 2, (rows, values.size)) * 2 - 1
        hits += int((numpy.abs(signs @ values) >= observed).sum())
    return (1 + hits) / (1 + resamples)


def _resampled_means(given: NDArray[Any], resamples: int, seed: int) -> Iterator[NDArray[Any]]:
    import numpy

    generator = numpy.random.default_rng(seed)
    for rows in _portions(resamples, given.size):
        yield given[generator.integers(0, given.size, (rows, given.size))].mean(axis=1)


def _portions(resamples: int, width: int) -> Iterator[int]:
    """``resamples`` in portions of bounded memory."""
    step = max(1, _DRAWN // width)
    for begin in range(0, resamples, step):
        yield min(step, resamples - begin)


def _correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's with Newcombe's continuity correction; 0 where either is constant.

    Of yes/no outcomes Σ(x−x̄)(y−ȳ) is (ad − bc)/n, and he takes n/2 off ad − bc.
    """
    pairs = list(zip(first, second, strict=True))
    if not pairs:
        return 0.0
    mean_1, mean_2 = fmean(first), fmean(second)
    covariance = math.fsum((a - mean_1) * (b - mean_2) for a, b in pairs)
    if covariance > 0:
        covariance = max(0.0, covariance - 0.5)
    spread = math.sqrt(
        math.fsum((a - mean_1) ** 2 for a in first) * math.fsum((b - mean_2) ** 2 for b in second)
    )
    return max(-1.0, min(1.0, covariance / spread)) if spread else 0.0
