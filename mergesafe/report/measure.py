"""A figure as the page shows it."""

from __future__ import annotations

from dataclasses import dataclass

from mergesafe.results.evaluation import Figure
from mergesafe.results.metrics import Kind


@dataclass(frozen=True)
class Measure:
    """A value with its confidence interval, where it has one; None where nothing was counted."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    kind: Kind | None = None

    @classmethod
    def of(cls, figure: Figure) -> Measure:
        """The figure; of no questions it is no value, whatever stands for it."""
        if not figure.n:
            return cls(None, n=0, kind=figure.kind)
        return cls(figure.value, figure.low, figure.high, figure.n, figure.kind)
