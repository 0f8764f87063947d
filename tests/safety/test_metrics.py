"""Ranking and calibration figures against cases worked by hand."""

from __future__ import annotations

import math
import random

import pytest

from mergesafe.safety.inspector.metrics import (
    auc,
    auc_interval,
    calibration_error,
    cross_entropy,
    fit_temperature,
    sigmoid,
)

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


def test_auc_interval_holds_the_value() -> None:
    rng = random.Random(1)
    labels = [rng.random() < 0.5 for _ in range(100)]
    scores = [rng.gauss(1.0 if label else 0.0, 1.0) for label in labels]
    low, high = auc_interval(scores, labels)
    assert low < (auc(scores, labels) or 0) < high
    # Standard error about 0.05 (Hanley and McNeil 1982): a 95 % interval some 0.18 wide.
    assert 0.1 < high - low < 0.3
    assert auc_interval(scores, labels) == (low, high)


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
