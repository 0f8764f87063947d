"""Cohen's kappa against cases worked by hand."""

from __future__ import annotations

import pytest

from mergesafe.errors import ArgumentError
from mergesafe.safety.agreement import Agreement, agreements, cohen_kappa
from mergesafe.safety.judges.base import Verdict

T, F = True, False


def test_kappa_by_hand() -> None:
    # 50 cases, the textbook table: both yes 20, both no 15, only the first 5, only the second 10.
    first = [T] * 20 + [F] * 15 + [T] * 5 + [F] * 10
    second = [T] * 20 + [F] * 15 + [F] * 5 + [T] * 10
    # p_o = 35/50 = 0.7; p_e = (25·30 + 25·20)/2500 = 0.5; κ = 0.2/0.5.
    assert cohen_kappa(first, second) == 0.4


@pytest.mark.parametrize(
    ("first", "second", "kappa"),
    [
        ([T, F, T, F], [T, F, T, F], 1.0),
        ([T, T, F, F], [T, F, T, F], 0.0),  # p_o = p_e = 1/2
        ([T, F], [F, T], -1.0),  # p_o = 0, p_e = 1/2
        ([T, T, T, F], [T, T, T, T], 0.0),  # p_o = p_e = 3/4
        ([T, T], [F, F], 0.0),  # p_o = p_e = 0
        ([T, T], [T, T], None),
        ([], [], None),
    ],
)
def test_edges(first: list[bool], second: list[bool], kappa: float | None) -> None:
    assert cohen_kappa(first, second) == kappa
    assert cohen_kappa(second, first) == kappa


def test_unequal_lengths() -> None:
    with pytest.raises(ArgumentError, match="2 answers with 1"):
        cohen_kappa([T, F], [T])


def test_undecided_cases_are_left_out() -> None:
    a = [Verdict(T, F), Verdict(F, F), Verdict(None, T), Verdict(T, None)]
    b = [Verdict(T, F), Verdict(F, T), Verdict(T, T), Verdict(T, T)]
    assert agreements({"a": a, "b": b}) == [
        # Safe: (T, T), (F, F), (T, T). Refused: (F, F), (F, T), (T, T) with p_o = 2/3, p_e = 4/9.
        Agreement("a", "b", "safe", 1.0, 3),
        Agreement("a", "b", "refused", 0.4, 3),
    ]
    assert len(agreements({"a": a, "b": b, "c": b})) == 6
