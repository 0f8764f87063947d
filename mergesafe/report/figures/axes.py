"""Linear axes with round ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mergesafe.report.text import MINUS, percent

_ROUND: Final = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Axis:
    """``low`` is drawn at ``start``, ``high`` at ``end``, both in units of the drawing."""

    low: float
    high: float
    start: float
    end: float
    share: bool = False
    ticks: tuple[float, ...] = ()

    def at(self, value: float) -> float:
        """Where ``value`` is drawn; values outside the axis at its nearest end."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def label(self, tick: float) -> str:
        """A tick in words."""
        return percent(tick) if self.share else tick_label(tick)


def share_axis(start: float, end: float) -> Axis:
    """0 to 100 %, so that figures side by side can be compared."""
    return Axis(0.0, 1.0, start, end, share=True, ticks=(0.0, 0.25, 0.5, 0.75, 1.0))


def fitted_axis(values: Iterable[float], start: float, end: float, *, ticks: int = 4) -> Axis:
    """Round ticks around ``values``, which may all be one number."""
    finite = list(values)
    low, high = min(finite), max(finite)
    if math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-12):
        margin = abs(low) / 2 or 1.0
        low, high = low - margin, high + margin
    step = round_up((high - low) / ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(
        first * step, last * step, start, end, ticks=tuple(i * step for i in range(first, last + 1))
    )


def round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(m * power for m in _ROUND if m * power >= value * (1 - 1e-9))


def tick_label(tick: float) -> str:
    """Without trailing zeros: ``0.25``, ``−1``, ``2e−05``."""
    if abs(tick) < 1e-12:
        return "0"
    return f"{tick:.4g}".replace("-", MINUS)
