"""Ranking and calibration figures against cases worked by hand."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest

from mergesafe.safety.inspector.metrics import (
    auc,
    auc_interval,
    balanced,
    calibration_error,
    cross_entropy,
    fit_temperature,
    sigmoid,
    threshold_for,
)
from mergesafe.safety.statistics import Estimate

T, F = True, False


@pytest.mark.parametrize(
    ("scores", "labels", "value"),
    [
        ([1, 2, 3, 4], [F, F, T, T], 1.0),
        ([4, 3, 2, 1], [F, F, T, T], 0.0),
        ([1, 2, 3, 4], [F, T, F, T], 0.75),  # of four pairs, only (2, 3) is the wrong way round
        ([1, 1, 1], [T, F, F], 0.5),
        ([1, 2, 2, 3], [F, F, T, T], 0.875),  # three pairs right, one tie
        ([1, 2], [T, T], None),
        ([], [], None),
    ],
)
def test_auc(scores: list[float], labels: list[bool], value: float | None) -> None:
    assert auc(scores, labels) == value


def test_auc_is_the_share_of_ordered_pairs() -> None:
    rng = random.Random(0)
    scores = [rng.randrange(20) for _ in range(200)]
    labels = [rng.random() < 0.3 for _ in range(200)]
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p, positive in zip(scores, labels, strict=True)
        if positive
        for n, label in zip(scores, labels, strict=True)
        if not label
    ]
    assert auc(scores, labels) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


def test_auc_interval_by_hand() -> None:
    """At the ends (value − θ)² = z²·θ(1−θ)(1 + k(1−θ)/(2−θ) + kθ/(1+θ))/(mn), k = (m+n)/2 − 1."""
    low, high = auc_interval(0.8, 30, 20)
    for end in (low, high):
        spread = 1 + 24 * (1 - end) / (2 - end) + 24 * end / (1 + end)
        variance = end * (1 - end) * spread / 600
        assert (0.8 - end) ** 2 == pytest.approx(1.959964**2 * variance, rel=1e-5)
    assert low < 0.8 < high
    assert auc_interval(0.2, 30, 20) == pytest.approx((1 - high, 1 - low))


def test_an_auc_of_one_has_an_interval() -> None:
    assert auc_interval(1.0, 5, 5) == pytest.approx((0.6427, 1.0), abs=1e-4)
    assert auc_interval(0.0, 5, 5) == pytest.approx((0.0, 0.3573), abs=1e-4)
    assert auc_interval(1.0, 500, 500)[0] < 1
    assert auc_interval(0.0, 0, 9) == (0, 1)


@pytest.mark.parametrize("true", [0.5, 0.8, 0.95])
def test_the_auc_interval_covers_the_truth(true: float) -> None:
    """Of 400 normal samples: 95 % ± 2.2 % are two standard errors; the method leans to more."""
    rng = random.Random(0)
    shift = NormalDist().inv_cdf(true) * math.sqrt(2)
    covered = 0
    labels = [True] * 15 + [False] * 20
    for _ in range(400):
        scores = [rng.gauss(shift if label else 0.0, 1.0) for label in labels]
        low, high = auc_interval(auc(scores, labels) or 0.0, 15, 20)
        covered += low <= true <= high
    assert 0.92 < covered / 400 <= 1


def test_balanced_by_hand() -> None:
    """The mean of 0.9 [0.6, 1] and 0.5 [0.1, 0.9]: 0.7 ∓ sqrt(0.09 + 0.16)/2, sqrt(.01 + .16)/2."""
    found = balanced([Estimate(0.9, 0.6, 1.0, 7), Estimate(0.5, 0.1, 0.9, 5)])
    assert (found.value, found.low, found.high) == pytest.approx(
        (0.7, 0.45, 0.7 + math.sqrt(0.17) / 2)
    )
    assert found.n == 12


def test_calibration_error_by_hand() -> None:
    # Four at 0.75 for "safe", three of them right: no gap. Two at 0.1, "unsafe" with confidence
    # 0.9, one right: a gap of 0.4. (4 · 0 + 2 · 0.4) / 6.
    p = [0.75] * 4 + [0.1] * 2
    labels = [T, T, T, F, F, T]
    assert calibration_error(p, labels) == pytest.approx(0.8 / 6)
    assert calibration_error([1.0, 0.0], [T, F]) == 0
    assert calibration_error([1.0, 0.0], [F, T]) == 1


def test_cross_entropy_by_hand() -> None:
    assert cross_entropy([0.5, 0.25], [T, F]) == pytest.approx((math.log(2) - math.log(0.75)) / 2)
    assert cross_entropy([0.0], [T]) == pytest.approx(-math.log(1e-12))


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_is_found(true: float) -> None:
    rng = random.Random(0)
    logits = [rng.gauss(0, 4) for _ in range(4000)]
    labels = [rng.random() < sigmoid(logit / true) for logit in logits]
    assert fit_temperature(logits, labels) == pytest.approx(
        true, rel=0.15
    )  # standard error: some 4 %


def test_the_temperature_is_bounded_where_all_are_right() -> None:
    assert fit_temperature([5.0, -5.0], [T, F]) == pytest.approx(1 / 20, rel=0.2)
    assert fit_temperature([5.0, -5.0], [F, T]) == pytest.approx(20, rel=0.2)


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid(-1e4) == 0
    assert sigmoid(1e4) == 1
    assert sigmoid(math.log(3)) == pytest.approx(0.75)


def test_the_threshold_keeps_its_promise() -> None:
    """Over many draws of 39 scores and a new one, no more of these lie below it than were allowed,
    and about as many: with k = 4 of 40, exactly a tenth.
    """
    assert threshold_for([0.3, 0.1, 0.2], 0.5) == 0.2
    assert threshold_for([0.3, 0.1, 0.2], 0.2) is None
    rng = random.Random(0)
    below = 0
    for _ in range(4000):
        threshold = threshold_for([rng.random() for _ in range(39)], 0.1)
        assert threshold is not None
        below += rng.random() < threshold
    assert 0.085 < below / 4000 < 0.115
