"""A quantity over the steps of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

from mergesafe.report.figures.axes import Axis, fitted_axis
from mergesafe.report.figures.svg import WIDTH, Figure
from mergesafe.report.text import number

LEFT, RIGHT, TOP, BOTTOM = 44.0, WIDTH - 44, 10.0, 110.0
HEIGHT: Final = 132.0


def line_chart(
    ident: str, title: str, description: str, runs: Sequence[Sequence[tuple[int, float]]]
) -> Markup:
    """``runs``: place and value, in order; each is a line of its own, the last value is written."""
    figure = Figure(ident, title, description, HEIGHT)
    first, last = runs[0][0][0], runs[-1][-1][0]
    across = Axis(first, max(last, first + 1), LEFT, RIGHT)
    up = fitted_axis((value for run in runs for _, value in run), BOTTOM, TOP, ticks=3)
    for tick in up.ticks:
        figure.line(LEFT, up.at(tick), RIGHT, up.at(tick), "grid")
        figure.text(LEFT - 6, up.at(tick) + 4, up.label(tick), "tick", anchor="end")
    for place in (first, last):
        figure.text(across.at(place), BOTTOM + 18, str(place + 1), "tick", anchor="middle")
    figure.text((LEFT + RIGHT) / 2, BOTTOM + 18, "step", "axis-title", anchor="middle")
    stretch = sum(map(len, runs)) // int(RIGHT - LEFT) // 2
    for run in runs:
        figure.polyline([(across.at(x), up.at(y)) for x, y in _thinned(run, stretch)], "trace")
    x, y = across.at(last), up.at(runs[-1][-1][1])
    figure.circle(x, y, 3, "mark model")
    figure.text(x + 7, y + 4, number(runs[-1][-1][1]), "label")
    return figure.markup()


def _thinned(run: Sequence[tuple[int, float]], stretch: int) -> list[tuple[int, float]]:
    """The extremes of each ``stretch`` of points, and the ends: four points a unit of width."""
    if stretch < 2:
        return list(run)
    kept = {run[0], run[-1]}
    for start in range(0, len(run), stretch):
        part = run[start : start + stretch]
        kept |= {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
    return sorted(kept)
