"""One metric of every model: a dot with its interval on a line, name and figure above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

from mergesafe.report.figures.axes import fitted_axis, share_axis
from mergesafe.report.figures.svg import WIDTH, Figure, fit, text_width
from mergesafe.report.measure import Measure
from mergesafe.report.text import measured

LEFT, RIGHT = 8.0, WIDTH - 12
_ROW: Final = 40.0
_AXIS: Final = 24.0


def intervals(
    ident: str,
    title: str,
    description: str,
    rows: Sequence[tuple[str, str, Measure]],
    *,
    share: bool,
) -> Markup:
    """``rows``: name, role and measure of each model."""
    bottom = _ROW * len(rows) + 4
    figure = Figure(ident, title, description, bottom + _AXIS)
    values = (v for _, _, m in rows for v in (m.value, m.low, m.high) if v is not None)
    axis = share_axis(LEFT, RIGHT) if share else fitted_axis(values, LEFT, RIGHT)
    for tick in axis.ticks:
        figure.line(axis.at(tick), 4, axis.at(tick), bottom, "grid")
        figure.text(
            axis.at(tick), bottom + 16, axis.label(tick), "tick", anchor=_anchor(axis.at(tick))
        )
    for i, (name, role, measure) in enumerate(rows):
        words, y = measured(measure, share), _ROW * i + 27
        room = WIDTH - text_width(words) - 12
        figure.line(LEFT, y, RIGHT, y, "grid")
        figure.text(0, y - 12, fit(name, room, bold=role == "merge"), f"halo label {role}")
        figure.text(WIDTH, y - 12, words, "halo figure", anchor="end")
        if measure.low is not None and measure.high is not None:
            figure.line(axis.at(measure.low), y, axis.at(measure.high), y, f"bar {role}")
        if measure.value is not None:
            figure.circle(axis.at(measure.value), y, 4.5, f"mark {role}")
    return figure.markup()


def _anchor(x: float) -> str:
    """Ticks at the edges are set inwards."""
    return "start" if x < 20 else "end" if x > WIDTH - 20 else "middle"
