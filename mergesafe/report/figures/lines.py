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
    ident: str, title: str, description: str, series: Sequence[tuple[int, float]]
) -> Markup:
    """``series``: step and value, in order of steps; the last value stands at its end."""
    figure = Figure(ident, title, description, HEIGHT)
    steps, values = zip(*series, strict=True)
    first, last = steps[0], max(steps[-1], steps[0] + 1)
    across = Axis(first, last, LEFT, RIGHT, ticks=(first, last))
    up = fitted_axis(values, BOTTOM, TOP, ticks=3)
    for tick in up.ticks:
        figure.line(LEFT, up.at(tick), RIGHT, up.at(tick), "grid")
        figure.text(LEFT - 6, up.at(tick) + 4, up.label(tick), "tick", anchor="end")
    for tick in across.ticks:
        figure.text(across.at(tick), BOTTOM + 18, f"{tick:.0f}", "tick", anchor="middle")
    figure.text((LEFT + RIGHT) / 2, BOTTOM + 18, "step", "axis-title", anchor="middle")
    placed = [(across.at(step), up.at(value)) for step, value in _thinned(series)]
    figure.polyline(placed, "trace")
    x, y = placed[-1]
    figure.circle(x, y, 3, "mark model")
    figure.text(x + 7, y + 4, number(values[-1]), "label")
    return figure.markup()


def _thinned(series: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most about four points a unit of width: the extremes of each stretch, and the ends."""
    stretch = len(series) // int(RIGHT - LEFT) // 2
    if stretch < 2:
        return list(series)
    kept = {series[0], series[-1]}
    for start in range(0, len(series), stretch):
        part = series[start : start + stretch]
        kept |= {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
    return sorted(kept)
