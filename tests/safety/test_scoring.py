"""Exact match, by hand."""

from __future__ import annotations

import pytest

from mergesafe.safety.evaluation.scoring import is_correct, normalized


@pytest.mark.parametrize(
    ("answer", "response"),
    [
        ("42", "42"),
        ("42", "The sum is 20 + 22 = 42."),
        ("42", "First 7, then 42.0"),
        ("20 + 22 = 42", "It is 42"),
        ("She has 3 + 4 = 7 apples.\n#### 7", "So she has 7 apples."),
        ("$1,250.50", "That makes $1250.5"),
        ("12 %", "about 12%"),
        ("-5", "The result is -5"),
        ("1,000,000", "1000000"),
        ("28, 55, 60", "Sorted:\n28, 55, 60"),
        ("28, 55, 60", "The order is 28 < 55 < 60"),
        ("-3 -1 2", "-3, -1, 2"),
        ("1,2,3", "1, 2, 3"),
        ("Paris", "paris."),
        ("The Pacific Ocean", "It is\nPacific ocean"),
        ("don't know", "Don\u2019t know!"),
        ("B", "(B)"),
        ("C++", "c++"),
    ],
)
def test_right(answer: str, response: str) -> None:
    assert is_correct(answer, response)


@pytest.mark.parametrize(
    ("answer", "response"),
    [
        ("42", ""),
        ("42", "42 of the 43"),  # the last number counts
        ("42", "The answer is forty-two"),
        ("5", "7-5 = 2"),
        ("5", "-5"),
        ("42", "x42"),
        ("28, 55, 60", "28, 60, 55"),
        ("28, 55, 60", "28, 55, 60, 61"),
        ("28, 55, 60", "28\n55\n60"),
        ("Paris", "The capital is Paris"),
        ("C++", "C"),
        ("Paris", ""),
    ],
)
def test_wrong(answer: str, response: str) -> None:
    assert not is_correct(answer, response)


def test_normalized() -> None:
    assert normalized("  The  “\uff26ull—width” STRASSE, an end\t") == "full width strasse end"
