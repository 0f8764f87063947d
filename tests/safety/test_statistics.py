"""Intervals and tests against values worked out by hand and against published and exact ones."""

from __future__ import annotations

import math
import random
import time

import pytest

from mergesafe.safety.statistics import (
    Estimate,
    Rate,
    bootstrap_mean,
    ends,
    holm,
    interval,
    permutation_test,
    proportion,
    proportion_difference,
    wilson,
)

Z = 1.959963984540054


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        # p = 1: (1 + z²/2n ± z²/2n) / (1 + z²/n), so low = n / (n + z²) and high = 1.
        (48, 48, 48 / (48 + Z * Z), 1.0),
        (0, 48, 0.0, Z * Z / (48 + Z * Z)),
        # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson(hits: int, n: int, low: float, high: float) -> None:
    assert Rate(hits, n).interval == pytest.approx((low, high), abs=5e-5)


def test_wilson_at_other_confidence() -> None:
    z = 1.6448536269514722  # 90 %, two-sided
    assert wilson(1.0, 10, 0.9)[0] == pytest.approx(10 / (10 + z * z))


def test_rate_of_outcomes() -> None:
    rate = Rate.of([True, False, True, True])
    assert (rate.hits, rate.n, rate.value) == (3, 4, 0.75)
    assert rate.as_dict() == {"value": 0.75, "low": 0.3006, "high": 0.9544, "n": 4, "hits": 3}


def test_seeds_do_not_make_the_set_larger() -> None:
    """Ten questions answered alike three times tell no more than ten answered once."""
    once = proportion([1.0] * 9 + [0.0])
    thrice = proportion([(1 + 1 + 1) / 3] * 9 + [0.0])
    assert once == thrice
    assert once.n == 10


def test_bootstrap_of_two_values() -> None:
    """Means of pairs drawn from {0, 1} are 0, ½, 1 with ¼, ½, ¼: the 95 % quantiles are 0 and 1,
    the 40 % ones both ½.
    """
    assert bootstrap_mean([0.0, 1.0]) == bootstrap_mean([1.0, 0.0])
    wide, narrow = bootstrap_mean([0.0, 1.0]), bootstrap_mean([0.0, 1.0], confidence=0.4)
    assert (wide.value, wide.low, wide.high, wide.n) == (0.5, 0.0, 1.0, 2)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_bootstrap_of_normal_values_is_about_the_normal_interval() -> None:
    drawn = random.Random(1)
    values = [drawn.gauss(2, 0.5) for _ in range(400)]
    mean = sum(values) / 400
    sd = math.sqrt(sum((v - mean) ** 2 for v in values) / 400)
    estimate = bootstrap_mean(values)
    # The quantiles of 10,000 resamples have a standard error of about 0.027 sd of the mean.
    error = 0.1 * sd / 20
    assert estimate.low == pytest.approx(mean - Z * sd / 20, abs=error)
    assert estimate.high == pytest.approx(mean + Z * sd / 20, abs=error)


def test_bootstrap_repeats_and_needs_no_value() -> None:
    values = [math.sqrt(v) for v in range(40)]
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values)
    assert bootstrap_mean([]).n == 0


def test_bootstrap_in_portions_covers_all_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [float(v % 7) for v in range(50)]
    whole = bootstrap_mean(values, resamples=101)
    monkeypatch.setattr("mergesafe.safety.statistics._DRAWN", 500)
    portions = bootstrap_mean(values, resamples=101)
    assert portions == whole


def test_difference_by_newcombe() -> None:
    """36 right in both, 12 in the first alone, 2 in the second alone, so φ from the four counts."""
    first = [1.0] * 48 + [0.0] * 2
    second = [1.0] * 36 + [0.0] * 12 + [1.0] * 2
    estimate = proportion_difference(first, second)
    l1, _ = wilson(0.96, 50)
    u1, l2, u2 = wilson(0.96, 50)[1], *wilson(0.76, 50)
    phi = (36 * 0 - 12 * 2) / math.sqrt(48 * 2 * 38 * 12)
    low = 0.2 - math.sqrt((0.96 - l1) ** 2 - 2 * phi * (0.96 - l1) * (u2 - 0.76) + (u2 - 0.76) ** 2)
    high = 0.2 + math.sqrt(
        (u1 - 0.96) ** 2 - 2 * phi * (u1 - 0.96) * (0.76 - l2) + (0.76 - l2) ** 2
    )
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.2, low, high))


def test_difference_with_a_factor() -> None:
    """All right in both: p₁ − 0.9 p₂ = 0.1, and only p₁ can be lower: low = 0.1 − (1 − l₁)."""
    estimate = proportion_difference([1.0] * 40, [1.0] * 40, factor=0.9)
    low = 40 / (40 + Z * Z)
    assert estimate.value == pytest.approx(0.1)
    assert estimate.low == pytest.approx(0.1 - (1 - low))
    assert estimate.high == pytest.approx(0.1 + 0.9 * (1 - low))


@pytest.mark.parametrize("share", [0, 20, 36, 40])
def test_models_that_agree_on_every_question_are_not_certainly_equal(share: int) -> None:
    same = [1.0] * share + [0.0] * (40 - share)
    found = proportion_difference(same, same)
    assert found.value == 0
    assert found.low == pytest.approx(-found.high)
    assert 0.02 < found.high < 0.15


def test_the_continuity_correction_is_newcombes() -> None:
    """20 and 15 right and wrong in both, 3 and 2 in one alone: φ from 20·15 − 3·2 − 40/2."""
    first = [1.0] * 20 + [1.0] * 3 + [0.0] * 2 + [0.0] * 15
    second = [1.0] * 20 + [0.0] * 3 + [1.0] * 2 + [0.0] * 15
    phi = (20 * 15 - 3 * 2 - 20) / math.sqrt(23 * 17 * 22 * 18)
    a, b = 23 / 40 - wilson(23 / 40, 40)[0], wilson(22 / 40, 40)[1] - 22 / 40
    estimate = proportion_difference(first, second)
    assert estimate.low == pytest.approx(1 / 40 - math.sqrt(a * a - 2 * phi * a * b + b * b))


def test_holm_by_hand() -> None:
    """Sorted .01 .02 .03 .5, times 4 3 2 1, never falling: .04 .06 .06 .5."""
    assert holm([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([0.4, 0.5, 0.9]) == pytest.approx([1, 1, 1])
    assert holm([]) == []
    assert holm([0.03]) == [0.03]


def test_ends_are_rounded_to_0_and_1_only_where_they_are_there() -> None:
    assert ends(0.99996, 1.0, 4) == (0.9999, 1.0)
    assert ends(0.0, 0.00003, 4) == (0.0, 0.0001)
    assert ends(0.93449, 0.98123, 3) == (0.934, 0.981)
    assert ends(1.0, 1.0, 2) == (1.0, 1.0)
    assert interval(0.9962, 1.0) == "[0.99, 1.00]"
    found = Estimate(1.0, *wilson(1.0, 10**6), 10**6).as_dict()
    assert found["low"] < found["high"]


def test_pairing_narrows_the_difference() -> None:
    first, second = [1.0, 1.0, 1.0, 0.0] * 10, [1.0, 1.0, 0.0, 0.0] * 10
    paired = proportion_difference(first, second)
    shuffled = proportion_difference(first, second[2:] + second[:2])
    assert paired.value == shuffled.value == 0.25
    assert paired.high - paired.low < shuffled.high - shuffled.low


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        # 5 differences of one sign: 2 of 2⁵ patterns are as extreme.
        ([1.0] * 5, [0.0] * 5, 2 / 32),
        # 1 against 3: |Σ| ≥ 2 of 4 signs has all but the 6 patterns with two of each.
        ([1, 0, 0, 0], [0, 1, 1, 1], 10 / 16),
        ([1, 0, 1], [1, 0, 1], 1.0),
        # Sums of ±1 ±2 ±4 are all different: 7 is reached by 2 of 8, 5 by 4.
        ([1, 2, 4], [0, 0, 0], 2 / 8),
        ([0, 2, 4], [1, 0, 0], 4 / 8),
    ],
)
def test_permutation_by_hand(first: list[float], second: list[float], p: float) -> None:
    assert permutation_test(first, second) == pytest.approx(p)
    assert permutation_test(second, first) == pytest.approx(p)


def test_permutation_of_outcomes_is_mcnemars_exact_test() -> None:
    first, second = [1.0] * 30 + [0.0] * 12, [0.0] * 30 + [1.0] * 12
    p = 2 * sum(math.comb(42, k) for k in range(13)) / 2**42
    assert permutation_test(first, second) == pytest.approx(p)


def test_sampled_permutations_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = random.Random(2)
    first, second = ([drawn.gauss(mean, 1) for _ in range(12)] for mean in (0.6, 0))
    exact = permutation_test(first, second)
    assert 0.005 < exact < 0.5
    monkeypatch.setattr("mergesafe.safety.statistics._ENUMERATED", 1)
    # Four standard errors of a share of 10,000.
    margin = 4 * math.sqrt(exact * (1 - exact) / 10_000)
    assert permutation_test(first, second) == pytest.approx(exact, abs=margin)


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        permutation_test([1.0], [1.0, 0.0])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        proportion_difference([1.0], [1.0, 0.0])


def test_intervals_do_not_jump_where_resampling_ends() -> None:
    """Of skewed values, too: NLL has a long tail."""
    drawn = random.Random(7)
    values = [math.exp(drawn.gauss(0, 1)) for _ in range(10_001)]
    few, many = bootstrap_mean(values[:-1], resamples=2000), bootstrap_mean(values)
    width = few.high - few.low
    assert many.low == pytest.approx(few.low, abs=0.05 * width)
    assert many.high == pytest.approx(few.high, abs=0.05 * width)


def test_many_values_have_the_normal_interval() -> None:
    values = [0.0, 1.0] * 5000
    few, many = bootstrap_mean(values), bootstrap_mean([*values, 0.0, 1.0])
    assert (many.value, many.n) == (0.5, 10_002)
    assert (many.low, many.high) == pytest.approx((few.low, few.high), abs=5e-4)
    began = time.process_time()
    bootstrap_mean([0.5] * 1_000_000)
    assert time.process_time() - began < 5
