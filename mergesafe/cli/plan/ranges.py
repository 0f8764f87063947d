"""Numbers of layers in few characters."""

from __future__ import annotations

from collections.abc import Iterable


def in_ranges(numbers: Iterable[int]) -> str:
    """``0-3, 7, 9-11`` of sorted whole numbers."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
