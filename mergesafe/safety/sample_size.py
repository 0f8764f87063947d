"""How many questions show a difference, and what difference a number of questions shows.

Two models answer the same n questions with yes or no. The comparison of ``evaluate`` is the paired
permutation test, which for such answers is McNemar's exact test (McNemar 1947): of the k questions
on which the models differ, how uneven are the two sides, against a fair coin?

Its power depends on the share d of questions on which the models differ, which is at least the
difference δ itself and for models that have nothing in common p₁(1 − p₂) + p₂(1 − p₁). Merges of
the same parents lie between the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from mergesafe.errors import ArgumentError
from mergesafe.safety.statistics import CONFIDENCE, wilson

if TYPE_CHECKING:
    from numpy.typing import NDArray

POWER: Final = 0.8
#: More questions than these are not looked for.
MOST: Final = 20_000
#: The power goes up and down by a little from n to n + 1; it must hold for so many in a row.
_STEADY: Final = 10
#: Standard deviations of a binomial that are summed; what lies outside has less than 1e-14.
_TAIL: Final = 8


@dataclass(frozen=True)
class SampleSize:
    """What n questions do for a rate near ``rate`` and a second one ``difference`` below it.

    ``alike``, ``half`` and ``independent``: questions needed to show the difference by a paired
    test where the models differ on no more questions than they must, where they have nothing in
    common, and half-way between; None: more than :data:`MOST`. ``interval``: questions with which
    the Wilson interval of one rate is no wider than ± the difference.
    """

    rate: float
    difference: float
    power: float
    confidence: float
    alike: int | None
    half: int | None
    independent: int | None
    interval: int | None


def sample_size(
    difference: float, rate: float = 0.9, power: float = POWER, confidence: float = CONFIDENCE
) -> SampleSize:
    """Questions needed to show that one rate is ``difference`` below another, ``rate``.

    Raises:
        ArgumentError: the numbers are no shares, or ``difference`` is larger than ``rate``.
    """
    _check(difference, rate, power, confidence)
    alike, half, independent = (
        _needed(difference, share, power, confidence) for share in disagreement(rate, difference)
    )
    interval = _interval(difference, rate, confidence)
    return SampleSize(rate, difference, power, confidence, alike, half, independent, interval)


def smallest_difference(
    questions: int, rate: float = 0.9, power: float = POWER, confidence: float = CONFIDENCE
) -> tuple[float | None, float | None, float | None]:
    """The least difference, in steps of 0.001, that so many questions show.

    For models that are as alike as can be, half-way, and independent; None: not even the largest.

    Raises:
        ArgumentError: the numbers are no shares, or there is no question.
    """
    if not 1 <= questions <= MOST:
        raise ArgumentError(f"{questions} questions; expected from 1 to {MOST}")
    _check(rate, rate, power, confidence)
    found: list[float | None] = []
    for kind in range(3):
        low, high = 0, math.floor(1000 * rate)
        shows = _shows(questions, rate, kind, power, confidence)
        if high == 0 or not shows(high):
            found.append(None)
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if shows(middle) else (middle, high)
        found.append(high / 1000)
    return found[0], found[1], found[2]


def disagreement(rate: float, difference: float) -> tuple[float, float, float]:
    """Shares of questions on which two models differ: the least, half-way, and by chance alone."""
    other = rate - difference
    chance = rate * (1 - other) + other * (1 - rate)
    return difference, (difference + chance) / 2, chance


def paired_power(
    questions: int, difference: float, share: float, confidence: float = CONFIDENCE
) -> float:
    """The probability that McNemar's exact test finds ``difference`` with so many questions.

    Σ_k B(k; n, share) Σ_{x ∈ R(k)} B(x; k, (share + difference) / 2·share): k of n questions tell
    the models apart, x of them for the better one. R(k): every x on its side with a two-sided p
    of at most 1 − confidence against a fair coin.
    """
    differing = _near(questions, share)
    up = (share + difference) / (2 * share)
    found = [_from(_critical(int(k), confidence), int(k), up) for k in differing]
    return float(_binomial(differing, questions, share) @ found)


@cache
def _critical(k: int, confidence: float) -> int:
    """The least x > k/2 whose two-sided p against a fair coin is at most 1 − confidence.

    k + 1 where not even k of k are so unlikely.
    """
    import numpy

    # Rounding must not decide a p of exactly alpha, as of 1/16 with five questions.
    most = (1 - confidence) * (1 + 1e-9) / 2
    falling = _near(k, 0.5)[::-1]
    falling = falling[2 * falling > k]
    above = numpy.cumsum(_binomial(falling, k, 0.5))
    fitting = int(numpy.searchsorted(above, most, side="right"))
    return int(falling[0]) + 1 - fitting if falling.size else k + 1


def _from(begin: int, k: int, p: float) -> float:
    """P(x ≥ begin) of a binomial."""
    xs = _near(k, p)
    return float(_binomial(xs[xs >= begin], k, p).sum())


def _near(n: int, p: float) -> NDArray[Any]:
    """The numbers of successes of n that have a probability worth counting, ascending."""
    import numpy

    reach = _TAIL * math.sqrt(n * p * (1 - p)) + 1
    return numpy.arange(max(0, math.floor(n * p - reach)), min(n, math.ceil(n * p + reach)) + 1)


def _binomial(xs: NDArray[Any], n: int, p: float) -> NDArray[Any]:
    import numpy

    likely: NDArray[Any]
    if p in (0.0, 1.0):
        likely = (xs == (n if p else 0)).astype(float)
        return likely
    ways = _log_factorials()[n] - _log_factorials()[xs] - _log_factorials()[n - xs]
    likely = numpy.exp(ways + xs * math.log(p) + (n - xs) * math.log1p(-p))
    return likely


@cache
def _log_factorials() -> NDArray[Any]:
    import numpy

    logs = numpy.log(numpy.arange(1, MOST + 1))
    return numpy.asarray(numpy.concatenate([[0.0], numpy.cumsum(logs)]))


def _shows(
    questions: int, rate: float, kind: int, power: float, confidence: float
) -> Callable[[int], bool]:
    """Whether a difference, in thousandths, is found with the power that is asked for."""

    def shows(thousandths: int) -> bool:
        difference = thousandths / 1000
        share = disagreement(rate, difference)[kind]
        return paired_power(questions, difference, share, confidence) >= power

    return shows


def _needed(difference: float, share: float, power: float, confidence: float) -> int | None:
    """The least number of questions from which on the power holds."""

    def enough(n: int) -> bool:
        return paired_power(n, difference, share, confidence) >= power

    low, high = 0, 8
    while not enough(high):
        if high == MOST:
            return None
        low, high = high, min(2 * high, MOST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    n = steady = high
    while n < steady + _STEADY and n < MOST:
        n += 1
        if not enough(n):
            steady = n + 1
    return steady


def _interval(difference: float, rate: float, confidence: float) -> int | None:
    """The least number of questions whose Wilson interval is no wider than ± the difference."""

    def narrow(n: int) -> bool:
        low, high = wilson(rate, n, confidence)
        return high - low <= 2 * difference

    if not narrow(MOST):
        return None
    low, high = 0, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if narrow(middle) else (middle, high)
    return high


def _check(difference: float, rate: float, power: float, confidence: float) -> None:
    for name, value in (("power", power), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ArgumentError(f"{name} is {value:.4g}; expected a share between 0 and 1")
    if not 0 < rate <= 1:
        raise ArgumentError(f"the rate is {100 * rate:.4g} %; expected more than 0, up to 100 %")
    if not 0 < difference <= rate:
        raise ArgumentError(
            f"the difference is {100 * difference:.4g} points; expected more than 0, up to the "
            f"rate of {100 * rate:.4g} %"
        )
