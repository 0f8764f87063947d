"""How many questions show a difference: against the test that ``evaluate`` makes, and by hand."""

from __future__ import annotations

import json
import math

import in_process
import pytest

from mergesafe.errors import ArgumentError
from mergesafe.safety.sample_size import (
    disagreement,
    paired_power,
    sample_size,
    smallest_difference,
)
from mergesafe.safety.statistics import permutation_test, wilson


@pytest.mark.parametrize(("difference", "share"), [(0.4, 0.5), (0.3, 0.3), (0.1, 0.8)])
def test_the_power_is_that_of_the_test_that_evaluate_makes(difference: float, share: float) -> None:
    n = 12
    up = (share + difference) / 2
    down = share - up
    expected = 0.0
    for better in range(n + 1):
        for worse in range(n - better + 1):
            same = n - better - worse
            first = [1.0] * better + [0.0] * worse + [1.0] * same
            second = [0.0] * better + [1.0] * worse + [1.0] * same
            if better > worse and permutation_test(first, second) <= 0.05:
                ways = math.comb(n, better) * math.comb(n - better, worse)
                expected += ways * up**better * down**worse * (1 - share) ** same
    assert paired_power(n, difference, share) == pytest.approx(expected, rel=1e-9)


def test_models_that_differ_only_one_way_need_six_differences() -> None:
    # 2 · (1/2)⁵ > 0.05 ≥ 2 · (1/2)⁶, so six of six; all answers differ here.
    assert paired_power(5, 1.0, 1.0) == 0
    assert paired_power(6, 1.0, 1.0) == 1


@pytest.mark.parametrize(("points", "rate"), [(0.05, 0.9), (0.1, 0.9), (0.2, 0.5)])
def test_so_many_questions_have_the_power_and_fewer_have_not(points: float, rate: float) -> None:
    found = sample_size(points, rate)
    shares = disagreement(rate, points)
    for needed, share in zip((found.alike, found.half, found.independent), shares, strict=True):
        assert needed is not None
        assert all(paired_power(needed + more, points, share) >= 0.8 for more in range(10))
        assert paired_power(needed - 1, points, share) < 0.8
    assert found.interval is not None
    for n, fits in ((found.interval, True), (found.interval - 1, False)):
        low, high = wilson(rate, n)
        assert (high - low <= 2 * points) is fits


def test_the_shares_of_differing_answers() -> None:
    # By chance 0.9 · 0.15 + 0.85 · 0.1 of the answers differ.
    assert disagreement(0.9, 0.05) == pytest.approx((0.05, 0.135, 0.22))


def test_what_a_number_of_questions_shows() -> None:
    for least, kind in zip(smallest_difference(100), range(3), strict=True):
        assert least is not None
        share = disagreement(0.9, least)[kind]
        assert paired_power(100, least, share) >= 0.8
        before = least - 0.001
        assert paired_power(100, before, disagreement(0.9, before)[kind]) < 0.8
    # Five questions never give a p of 0.05.
    assert smallest_difference(5) == (None, None, None)


def test_the_command() -> None:
    shown = in_process.run("sample-size", "10", "--json")
    assert shown.returncode == 0
    found = json.loads(shown.stdout)
    assert found["independent"] == sample_size(0.1).independent
    shown = in_process.run("sample-size", "--questions", "48")
    assert "48 questions show" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "expected either POINTS"),
        (("5", "--questions", "9"), "expected either POINTS"),
        (("95",), "the difference is 95 points; expected more than 0, up to the rate of 90 %"),
        (("5", "--power", "100"), "power is 1; expected a share between 0 and 1"),
        (("5", "--power", "0.8"), "--power is 0.8 %; write 80 for a share of 0.8"),
        (("--questions", "0"), "0 questions; expected from 1 to 20000"),
        (("5", "--rate", "0"), "the rate is 0 %"),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], complaint: str) -> None:
    shown = in_process.run("sample-size", *arguments)
    assert shown.returncode == 2
    assert complaint in shown.stderr


def test_numbers_that_are_no_shares() -> None:
    with pytest.raises(ArgumentError, match="the difference is nan points"):
        sample_size(math.nan)
