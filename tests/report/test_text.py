"""Figures and names as people read them."""

from __future__ import annotations

import pytest

from mergesafe.report.measure import Measure
from mergesafe.report.text import (
    DASH,
    clean,
    is_share,
    listed,
    measured,
    metric_name,
    number,
    p_value,
    percent,
    points,
    shorten,
)
from mergesafe.results.metrics import lower_is_better


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "50 %"),
        (1, "100 %"),
        (0.996, "99.6 %"),
        (0.99999, "> 99.9 %"),
        (0.004, "0.4 %"),
        (1e-9, "< 0.1 %"),
        (0, "0 %"),
        (None, DASH),
    ],
)
def test_percent_never_rounds_to_all_or_nothing(value: float | None, text: str) -> None:
    assert percent(value) == text


def test_numbers() -> None:
    assert number(-2.345) == "\N{MINUS SIGN}2.35" or number(-2.345) == "\N{MINUS SIGN}2.34"
    assert number(0.00012) == "0.00012"
    assert number(-1e-9) == "\N{MINUS SIGN}1e\N{MINUS SIGN}09"
    assert measured(Measure(0.96, 0.86, 0.994), True) == "96 % [86, 99]"
    assert measured(Measure(2.5), False) == "2.50"
    assert points(-0.34, True) == "\N{MINUS SIGN}34"
    assert points(0.34, True) == "+34"
    assert points(0.0, True) == "0"
    assert points(-0.004, True) == "\N{MINUS SIGN}0.4"
    assert (p_value(0.0001), p_value(0.0049), p_value(0.2)) == ("< 0.001", "0.005", "0.20")
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a"]) == "a"


def test_metrics() -> None:
    assert metric_name("domain.sorting.nll") == "sorting, NLL"
    assert metric_name("domain.sorting") == "sorting, score"
    assert metric_name("safe_rate.edgy") == "Safe answers: edgy"
    assert metric_name("lm_eval.gsm8k.exact_match") == "gsm8k, exact_match"
    assert metric_name("own") == "own"
    assert lower_is_better("over_refusal.edgy")
    assert not lower_is_better("domain.sorting")
    assert is_share("domain.x", [Measure(0.5, kind="rate")])
    assert not is_share("lm_eval.x", [Measure(0.5, kind="mean")])
    assert not is_share("domain.x.nll", [Measure(0.5)])
    assert not is_share("domain.x", [Measure(1.5)])


def test_what_cannot_be_seen_is_written_out() -> None:
    assert clean("a\u202eb\x1b[31m\x00") == "a\\u202eb\\x1b[31m\\x00"
    assert clean("line\nline\t") == "line\nline\t"
    assert clean("\u0645\u06cc\u200c\u062e") == "\u0645\u06cc\u200c\u062e"
    assert clean("https://user:secret@host/x?token=secret") == "https://***@host/x?***"


def test_shortening_keeps_both_ends() -> None:
    assert shorten("abcdefghij", 5) == "ab…ij"
    assert shorten("abc", 5) == "abc"
    assert len(shorten("x" * 1000, 20)) == 20
