"""What an evaluation's file holds, as far as a gate rests on it: checked against itself.

A file may have been written by anyone. Nothing tells a made-up answer from a real one, but numbers
that no measurement gives, or that contradict each other, are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final

import msgspec

from mergesafe.safety.evaluation.result import Kind
from mergesafe.safety.gate.requirement import is_rate

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
#: Figures are written with four digits after the point, outcomes with six.
_ROUNDING: Final = 1e-4


class WrittenFigure(msgspec.Struct):
    """A metric of one model. ``n`` is checked beside the interval, for one error of both."""

    value: float
    low: float
    high: float
    n: int
    kind: Kind
    undecided: Count = 0
    hits: Count | None = None

    def __post_init__(self) -> None:
        check_values(self.kind, (self.value, self.low, self.high))
        if not self.low <= self.value <= self.high or not 0 <= self.n <= 2**53:
            raise ValueError(
                f"a figure is {self.value:g}, between {self.low:g} and {self.high:g}, of {self.n} "
                "questions"
            )
        if self.hits is not None and not _is_share(self.value, self.hits, self.n):
            raise ValueError(f"a figure is {self.value:g}, but {self.hits} of {self.n} questions")


class WrittenModel(msgspec.Struct):
    name: str
    identity: str
    metrics: dict[str, WrittenFigure]
    outcomes: dict[str, list[float]] = {}
    reference: str | None = None

    def __post_init__(self) -> None:
        for metric, figure in self.metrics.items():
            if metric.partition(".")[0] and is_rate(metric) != (figure.kind == "rate"):
                _check_kind(metric, figure.kind)
            outcomes = self.outcomes.get(metric)
            if outcomes is not None:
                check_values(figure.kind, outcomes)
                _check_outcomes(metric, figure, outcomes)
        for metric in self.outcomes.keys() - self.metrics.keys():
            raise ValueError(f"there are outcomes of {metric[:60]!r}, but no such figure")


class WrittenJudge(msgspec.Struct):
    name: str
    version: str


class WrittenSet(msgspec.Struct):
    name: str
    role: str
    sha256: str
    records: Count


class WrittenEvaluation(msgspec.Struct):
    models: list[WrittenModel]
    judges: list[WrittenJudge]
    sets: list[WrittenSet]
    settings: dict[str, Any] = {}
    meaning: dict[str, str] = {}
    notes: list[str] = []

    def __post_init__(self) -> None:
        _check_distinct("models", (each.name for each in self.models))
        _check_distinct("sets", (each.name for each in self.sets))


def check_values(kind: str, values: Iterable[float]) -> None:
    """Refuse what no measurement gives.

    Raises:
        ValueError: a number is not finite, or no share though the figure is a rate.
    """
    for value in values:
        if not math.isfinite(value) or (kind == "rate" and not 0 <= value <= 1):
            raise ValueError(f"a {kind} holds {value!r}")


def _check_kind(metric: str, kind: str) -> None:
    # A metric of lm-eval is of either kind, and what has another name than ours is not decided on.
    if is_rate(metric) or metric.endswith(".nll"):
        raise ValueError(f"{metric[:60]!r} is a {kind}, which it cannot be")


def _check_outcomes(metric: str, figure: WrittenFigure, outcomes: Sequence[float]) -> None:
    """The figure is the mean of its outcomes."""
    if len(outcomes) != figure.n:
        raise ValueError(
            f"{metric[:60]!r} is of {figure.n} questions, but there are {len(outcomes)} outcomes"
        )
    mean = math.fsum(outcomes) / len(outcomes) if outcomes else 0.0
    if abs(mean - figure.value) > _ROUNDING * max(1.0, abs(mean)):
        raise ValueError(
            f"{metric[:60]!r} is {figure.value:g}, but the mean of its outcomes is {mean:g}"
        )


def _check_distinct(what: str, names: Iterable[str]) -> None:
    listed = list(names)
    if len(set(listed)) < len(listed):
        twice = next(name for name in listed if listed.count(name) > 1)
        raise ValueError(f"two {what} are called {twice[:60]!r}")


def _is_share(value: float, hits: int, n: int) -> bool:
    return hits <= n and abs((hits / n if n else 0.0) - value) <= _ROUNDING
