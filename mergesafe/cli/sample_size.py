"""``mergesafe sample-size``: how many questions show a difference."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from rich.table import Table

from mergesafe.cli.evaluation import console
from mergesafe.cli.shared import print_json
from mergesafe.errors import ArgumentError
from mergesafe.safety.sample_size import (
    MOST,
    SampleSize,
    disagreement,
    sample_size,
    smallest_difference,
)

_MODELS: Final = ("alike", "half-way", "independent")


def run(
    points: float | None,
    *,
    questions: int | None,
    rate: float,
    power: float,
    confidence: float,
    json: bool,
) -> None:
    """Print the questions for a difference, or the difference for a number of questions.

    Raises:
        ArgumentError: neither or both are given, or a number is not possible.
    """
    if (points is None) == (questions is None):
        raise ArgumentError(
            "expected either POINTS, a difference in percentage points, or --questions N"
        )
    if 0 < power <= 1:
        raise ArgumentError(
            f"--power is {power:g} %; write {100 * power:g} for a share of {power:g}"
        )
    shares = {"rate": rate / 100, "power": power / 100, "confidence": confidence}
    if points is not None:
        found = sample_size(points / 100, **shares)
        if json:
            print_json(asdict(found))
        else:
            _show_questions(found)
        return
    assert questions is not None
    least = smallest_difference(questions, **shares)
    if json:
        names = ("alike", "half", "independent")
        print_json({"questions": questions, **shares, **dict(zip(names, least, strict=True))})
    else:
        _show_differences(questions, least, shares)


def _show_questions(found: SampleSize) -> None:
    table = Table(
        title=f"questions that show {_percent(found.rate - found.difference)} against "
        f"{_percent(found.rate)}, {_chance(found.power, found.confidence)}"
    )
    table.add_column("two models on the same questions are")
    table.add_column("differing answers", justify="right")
    table.add_column("questions", justify="right")
    shares = disagreement(found.rate, found.difference)
    for name, share, needed in zip(
        _MODELS, shares, (found.alike, found.half, found.independent), strict=True
    ):
        table.add_row(name, _percent(share), _count(needed))
    shown = console(False)
    shown.print(table)
    shown.print(
        f"one rate alone: ± {100 * found.difference:g} points with {_count(found.interval)}",
        highlight=False,
    )


def _show_differences(
    questions: int, least: tuple[float | None, ...], shares: dict[str, float]
) -> None:
    chance = _chance(shares["power"], shares["confidence"])
    table = Table(
        title=f"differences below {_percent(shares['rate'])} that {questions} questions show, "
        f"{chance}"
    )
    table.add_column("two models on the same questions are")
    table.add_column("points", justify="right")
    for name, difference in zip(_MODELS, least, strict=True):
        table.add_row(name, "none" if difference is None else f"{100 * difference:.1f}")
    console(False).print(table)


def _chance(power: float, confidence: float) -> str:
    return f"with a power of {_percent(power)} at {_percent(confidence)} confidence"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _count(needed: int | None) -> str:
    return f"more than {MOST:,}" if needed is None else f"{needed:,}"
