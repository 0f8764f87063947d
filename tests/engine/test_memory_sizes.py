"""Sizes as people write them."""

from __future__ import annotations

import pytest

from mergesafe.engine.memory import MAXIMUM_SIZE, budget_of, format_size, parse_size
from mergesafe.errors import ArgumentError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 << 30),
        ("2gib", 2 << 30),
        ("500MB", 500_000_000),
        ("1.5 k", 1500),
        (" 7 ", 7),
        ("1TiB", 1 << 40),
        (123, 123),
        ("9" * 400, MAXIMUM_SIZE),
        ("9" * 30 + "TiB", MAXIMUM_SIZE),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text, "--memory") == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1", "1e9", "1 0", "5 XB", "1GiB2", "inf", 0, -5, "0"]
)
def test_what_is_not_a_size(text: str | int) -> None:
    with pytest.raises(ArgumentError, match="--memory"):
        parse_size(text, "--memory")


def test_budget_has_a_minimum_and_a_default() -> None:
    assert budget_of("16MiB") == 16 << 20
    with pytest.raises(ArgumentError, match="at least 16MiB"):
        budget_of((16 << 20) - 1)
    assert 16 << 20 <= budget_of(None) <= 4 << 30


def test_sizes_are_shown_in_decimal_units() -> None:
    shown = [format_size(size) for size in (999, 1000, 1_500_000, 2e9, 3e12, 4e15)]
    assert shown == ["999 B", "1.0 kB", "1.5 MB", "2.0 GB", "3.0 TB", "4000.0 TB"]
