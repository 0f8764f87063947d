"""How well probabilities rank and how true they are. Plain functions on plain numbers.

Not from scipy or scikit-learn, which a base install does without; the tests compare with scipy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

from mergesafe.safety.statistics import CONFIDENCE, Estimate

BINS: Final = 15


def sigmoid(logit: float) -> float:
    """1 / (1 + e^−logit), without overflow."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    grown = math.exp(logit)
    return grown / (1 + grown)


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float | None:
    """The probability that a positive scores above a negative; ties count one half.

    Area under the ROC curve = U / (n₊ n₋), the Mann–Whitney statistic. None without both classes.
    """
    order = sorted(range(len(scores)), key=scores.__getitem__)
    ranks = [0.0] * len(scores)
    begin = 0
    while begin < len(order):
        end = begin
        while end < len(order) and scores[order[end]] == scores[order[begin]]:
            end += 1
        for row in order[begin:end]:
            ranks[row] = (begin + 1 + end) / 2  # the mean of the ranks that tie
        begin = end
    positive = sum(labels)
    negative = len(labels) - positive
    if not positive or not negative:
        return None
    total = sum(rank for rank, label in zip(ranks, labels, strict=True) if label)
    return (total - positive * (positive + 1) / 2) / (positive * negative)


def auc_interval(
    value: float, positive: int, negative: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The interval of an :func:`auc` of so many examples: Newcombe's method 5.

    The ends are the θ for which |value − θ| = z·SE(θ), with the variance of Hanley and McNeil 1982
    at θ and the mean class size in it:
    SE² = θ(1−θ)·(1 + k(1−θ)/(2−θ) + kθ/(1+θ)) / (n₊n₋), k = (n₊+n₋)/2 − 1
    (Newcombe 2006, Statistics in Medicine 25:559). As of Wilson's interval, an end is at 0 or 1
    only where the value is: an AUC of 1 on 5 + 5 examples has the interval [0.64, 1]. The bootstrap
    gives [1, 1] there, and DeLong's variance is 0. [0, 1] where a class is missing.
    """
    if not positive or not negative:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    k = (positive + negative) / 2 - 1

    def inside(theta: float) -> bool:
        spread = 1 + k * (1 - theta) / (2 - theta) + k * theta / (1 + theta)
        variance = theta * (1 - theta) * spread / (positive * negative)
        return abs(value - theta) <= z * math.sqrt(variance)

    def end(outer: float) -> float:
        """Between ``value``, which is inside, and ``outer``, which is not."""
        inner = value
        for _ in range(60):
            middle = (inner + outer) / 2
            inner, outer = (middle, outer) if inside(middle) else (inner, middle)
        return inner

    return (end(0.0) if value > 0 else 0.0), (end(1.0) if value < 1 else 1.0)


def balanced(parts: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates, one a class, with its interval.

    m ∓ sqrt(Σ (value − end)²) / k for k classes, of the ends of theirs (MOVER; Zou and Donner
    2008, Statistics in Medicine 27:1693).
    """
    value = sum(each.value for each in parts) / len(parts)
    below = math.sqrt(sum((each.value - each.low) ** 2 for each in parts)) / len(parts)
    above = math.sqrt(sum((each.high - each.value) ** 2 for each in parts)) / len(parts)
    return Estimate(value, value - below, value + above, sum(each.n for each in parts))


def calibration_error(probabilities: Sequence[float], labels: Sequence[bool]) -> float:
    """Expected calibration error Σ_b |b|/n · |accuracy(b) − confidence(b)| (arXiv 1706.04599).

    Over ``BINS`` bins of equal width of the confidence max(p, 1 − p) in the likelier class.
    """
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for p, label in zip(probabilities, labels, strict=True):
        confidence = max(p, 1 - p)
        place = min(BINS - 1, int(confidence * BINS))
        bins[place].append((confidence, label == (p >= 0.5)))
    gaps = (
        abs(sum(right for _, right in each) - sum(confidence for confidence, _ in each))
        for each in bins
    )
    return sum(gaps) / len(probabilities) if probabilities else 0.0


def cross_entropy(probabilities: Sequence[float], labels: Sequence[bool]) -> float:
    """Mean −log p(label), in nats; a probability of 0 counts as 1e-12."""
    logs = (
        math.log(max(p if label else 1 - p, 1e-12))
        for p, label in zip(probabilities, labels, strict=True)
    )
    return -sum(logs) / len(probabilities)


def threshold_for(scores: Sequence[float], false_alarms: float) -> float | None:
    """The score below which a new good response lies with probability ``false_alarms`` at most.

    The k-th smallest of ``scores``, those of n good responses that took no part in training, with
    k = ⌊false_alarms · (n + 1)⌋: of n + 1 exchangeable responses, at most k are below it (split
    conformal prediction, arXiv 2107.07511). None where k is 0.
    """
    k = math.floor(false_alarms * (len(scores) + 1))
    return sorted(scores)[k - 1] if k else None


def fit_temperature(logits: Sequence[float], labels: Sequence[bool]) -> float:
    """The T > 0 for which sigmoid(logit / T) has the least cross-entropy (arXiv 1706.04599).

    Found on a grid of log T from 1/20 to 20, then by golden section between the neighbours of its
    best point: the cross-entropy is convex in 1/T, so it has one minimum.
    """

    def loss(log_t: float) -> float:
        scale = math.exp(-log_t)
        return cross_entropy([sigmoid(logit * scale) for logit in logits], labels)

    limit, steps = math.log(20), 60
    grid = [limit * (2 * step / steps - 1) for step in range(steps + 1)]
    best = min(range(len(grid)), key=lambda place: loss(grid[place]))
    low, high = grid[max(0, best - 1)], grid[min(steps, best + 1)]
    golden = (math.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)
