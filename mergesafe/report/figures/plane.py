"""Points with intervals on a plane, labelled directly: models, Pareto fronts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from mergesafe.report.figures.axes import Axis, fitted_axis, share_axis
from mergesafe.report.figures.placement import Box, place
from mergesafe.report.figures.svg import FONT, WIDTH, Figure, fit, text_width
from mergesafe.report.measure import Measure

LEFT, RIGHT, TOP, BOTTOM = 44.0, WIDTH - 10, 30.0, 270.0
HEIGHT: Final = 312.0
#: More points than this are labelled by their number in the table.
MAX_NAMES: Final = 10
_LABEL_WIDTH: Final = 168.0
_LINE: Final = FONT + 2


@dataclass(frozen=True)
class Point:
    """``style``: base, parent, merge or model, which decides its mark."""

    label: str
    x: Measure
    y: Measure
    style: str = "model"


@dataclass(frozen=True)
class Direction:
    """An axis: its title, whether it is in percent, and whether less is better."""

    title: str
    share: bool
    lower_is_better: bool = False

    def axis(self, measures: Sequence[Measure], start: float, end: float) -> Axis:
        """Better lies to the right and up on every plane."""
        if self.lower_is_better:
            start, end = end, start
        if self.share:
            return share_axis(start, end)
        values = (v for m in measures for v in (m.value, m.low, m.high) if v is not None)
        return fitted_axis(values, start, end)


def plane(
    ident: str,
    title: str,
    description: str,
    points: Sequence[Point],
    x: Direction,
    y: Direction,
    *,
    required: float | None = None,
    joined: bool = False,
) -> Markup:
    """The plane; ``required`` is a bound on ``y`` to show, ``joined`` connects points in order."""
    figure = Figure(ident, title, description, HEIGHT)
    across = x.axis([p.x for p in points], LEFT, RIGHT)
    up = y.axis([p.y for p in points], BOTTOM, TOP)
    _frame(figure, across, up, x, y)
    taken = [] if required is None else _bound(figure, up, required)
    placed = [(across.at(p.x.value or 0), up.at(p.y.value or 0)) for p in points]
    if joined:
        figure.polyline(placed, "trace")
    bars = _bars(figure, points, across, up, placed)
    if taken and required is not None:
        bars.append(Box(LEFT, up.at(required) - 1.5, RIGHT, up.at(required) + 1.5))
    for point, (px, py) in zip(points, placed, strict=True):
        _mark(figure, point.style, px, py)
    _labels(figure, points, placed, bars, taken)
    return figure.markup()


def _bound(figure: Figure, up: Axis, required: float) -> list[Box]:
    """A line at a required value, and where its label is."""
    if not up.low <= required <= up.high:
        return []
    y, text = up.at(required), "required"
    figure.line(LEFT, y, RIGHT, y, "required")
    figure.text(RIGHT, y + 12, text, "note", anchor="end")
    return [Box(RIGHT - text_width(text), y, RIGHT, y + 14)]


def _frame(figure: Figure, across: Axis, up: Axis, x: Direction, y: Direction) -> None:
    for tick in up.ticks:
        figure.line(LEFT, up.at(tick), RIGHT, up.at(tick), "grid")
        figure.text(LEFT - 6, up.at(tick) + 4, up.label(tick), "tick", anchor="end")
    for tick in across.ticks:
        figure.line(across.at(tick), BOTTOM, across.at(tick), BOTTOM + 4, "axis")
        near_end = across.at(tick) > RIGHT - 12
        figure.text(
            RIGHT if near_end else across.at(tick),
            BOTTOM + 18,
            across.label(tick),
            "tick",
            anchor="end" if near_end else "middle",
        )
    figure.line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis")
    figure.text(0, 14, fit(f"\N{UPWARDS ARROW} {y.title}", WIDTH), "axis-title")
    title = fit(f"{x.title} \N{RIGHTWARDS ARROW}", WIDTH - LEFT)
    figure.text(RIGHT, BOTTOM + 37, title, "axis-title", anchor="end")


def _bars(
    figure: Figure,
    points: Sequence[Point],
    across: Axis,
    up: Axis,
    placed: Sequence[tuple[float, float]],
) -> list[Box]:
    """Intervals both ways, drawn and returned as what labels should avoid."""
    bars = []
    for point, (px, py) in zip(points, placed, strict=True):
        if point.x.low is not None and point.x.high is not None:
            x1, x2 = sorted((across.at(point.x.low), across.at(point.x.high)))
            figure.line(x1, py, x2, py, f"bar {point.style}")
            bars.append(Box(x1, py - 1.5, x2, py + 1.5))
        if point.y.low is not None and point.y.high is not None:
            y1, y2 = sorted((up.at(point.y.low), up.at(point.y.high)))
            figure.line(px, y1, px, y2, f"bar {point.style}")
            bars.append(Box(px - 1.5, y1, px + 1.5, y2))
    return bars


def _mark(figure: Figure, style: str, x: float, y: float) -> None:
    """Base: a square; parent: an open circle; merge: a filled diamond; baseline: an open triangle.
    Colour is not needed.
    """
    if style == "merge":
        figure.polyline([(x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y), (x, y - 6)], "mark merge")
    elif style == "base":
        figure.polyline(
            [(x - 4, y - 4), (x + 4, y - 4), (x + 4, y + 4), (x - 4, y + 4), (x - 4, y - 4)],
            "mark base",
        )
    elif style == "baseline":
        figure.polyline([(x, y - 5), (x + 5, y + 4), (x - 5, y + 4), (x, y - 5)], "mark baseline")
    else:
        figure.circle(x, y, 4.5, f"mark {style}")


def _labels(
    figure: Figure,
    points: Sequence[Point],
    placed: Sequence[tuple[float, float]],
    bars: Sequence[Box],
    taken: Sequence[Box],
) -> None:
    numbered = len(points) > MAX_NAMES
    texts = [str(i + 1) if numbered else fit(p.label, _LABEL_WIDTH) for i, p in enumerate(points)]
    sizes = [
        (text_width(text, bold=point.style == "merge") + 2, _LINE)
        for text, point in zip(texts, points, strict=True)
    ]
    bounds = Box(LEFT + 2, TOP - 8, RIGHT, BOTTOM - 2)
    boxes = place(placed, sizes, bounds=bounds, bars=bars, taken=taken)
    for point, text, box, (px, py) in zip(points, texts, boxes, placed, strict=True):
        near_x, near_y = min(max(px, box.x1), box.x2), min(max(py, box.y1), box.y2)
        if abs(near_x - px) + abs(near_y - py) > 14:
            figure.line(px, py, near_x, near_y, "leader")
        # The estimate of the width is an upper one: the text ends at the side of its mark.
        anchor, x = ("end", box.x2 - 1) if box.x2 <= px else ("start", box.x1 + 1)
        figure.text(x, box.y2 - 3.5, text, f"label {point.style}", anchor=anchor)
