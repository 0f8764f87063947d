"""How well probabilities rank and how true they are. Plain functions on plain numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Final

BINS: Final = 15
RESAMPLES: Final = 1000


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
    scores: Sequence[float], labels: Sequence[bool], seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of :func:`auc` (percentiles of ``RESAMPLES`` resamples)."""
    rng = random.Random(seed)
    drawn = []
    for _ in range(RESAMPLES):
        rows = rng.choices(range(len(scores)), k=len(scores))
        value = auc([scores[row] for row in rows], [labels[row] for row in rows])
        if value is not None:
            drawn.append(value)
    if not drawn:
        return 0.0, 1.0
    drawn.sort()
    return drawn[int(0.025 * len(drawn))], drawn[min(len(drawn) - 1, int(0.975 * len(drawn)))]


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
