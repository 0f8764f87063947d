"""Statistics written here agree with scipy's, which the base install does without."""

from __future__ import annotations

import random
from typing import Any

import numpy
import pytest

from mergesafe.safety.inspector.metrics import auc, fit_temperature, sigmoid
from mergesafe.safety.statistics import bootstrap_mean, permutation_test, wilson

stats: Any = pytest.importorskip("scipy.stats")
optimize: Any = pytest.importorskip("scipy.optimize")


@pytest.mark.parametrize("n", [1, 7, 48, 1000])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson(n: int, confidence: float) -> None:
    for hits in sorted({0, 1, n // 3, n - 1, n}):
        theirs = stats.binomtest(hits, n).proportion_ci(confidence, method="wilson")
        assert wilson(hits / n, n, confidence) == pytest.approx(tuple(theirs), abs=1e-12)


def test_bootstrap() -> None:
    drawn = random.Random(1)
    values = [drawn.expovariate(1.0) for _ in range(200)]
    ours = bootstrap_mean(values)
    theirs = stats.bootstrap((values,), numpy.mean, n_resamples=10_000, method="percentile")
    interval = theirs.confidence_interval
    # A 2.5% quantile of 10,000 draws errs by 0.027 of their deviation, two of them
    # by 0.038: 0.2 is five times that.
    near = 0.2 * float(theirs.standard_error)
    assert ours.low == pytest.approx(interval.low, abs=near)
    assert ours.high == pytest.approx(interval.high, abs=near)


@pytest.mark.parametrize("seed", range(5))
def test_all_sign_patterns(seed: int) -> None:
    drawn = random.Random(seed)
    first, second = ([drawn.randrange(5) / 4 for _ in range(10)] for _ in range(2))
    theirs = stats.permutation_test(
        (first, second),
        lambda a, b, axis: (a - b).sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=numpy.inf,
    )
    assert permutation_test(first, second) == pytest.approx(theirs.pvalue, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_mann_whitneys_share(seed: int) -> None:
    drawn = random.Random(seed)
    scores = [drawn.randrange(20) / 20 for _ in range(60)]  # with ties
    labels = [drawn.random() < 0.4 for _ in scores]
    yes = [score for score, label in zip(scores, labels, strict=True) if label]
    no = [score for score, label in zip(scores, labels, strict=True) if not label]
    share = stats.mannwhitneyu(yes, no).statistic / (len(yes) * len(no))
    assert auc(scores, labels) == pytest.approx(share, abs=1e-12)


def test_temperature() -> None:
    drawn = random.Random(2)
    logits = [drawn.gauss(0, 4) for _ in range(300)]
    labels = [drawn.random() < sigmoid(logit / 2.5) for logit in logits]

    def loss(log_t: float) -> float:
        signed = numpy.where(labels, -1, 1) * numpy.asarray(logits) / numpy.exp(log_t)
        return float(numpy.logaddexp(0, signed).mean())

    theirs = optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded")
    # Both stop where log T is known to about 1e-4.
    assert fit_temperature(logits, labels) == pytest.approx(float(numpy.exp(theirs.x)), rel=3e-4)
