"""Heat maps: a strip of cells for each row, its name above, and a scale with its numbers.

Cells of one colour are one path, so that a map of thousands of cells stays small. Scales have steps
and the scale shows them: a reader can tell which range a cell is in.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from mergesafe.report.figures.axes import tick_label
from mergesafe.report.figures.svg import WIDTH, Figure, fit, text_width
from mergesafe.report.text import number

#: Steps of the style sheet's two colour ramps.
SEQUENTIAL_STEPS: Final = 9
DIVERGING_STEPS: Final = 11
#: Ends of scales are these times a power of ten: fine enough to use most of the ramp.
_ROUND: Final = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
#: Cells at least this wide hold their value as text.
_READABLE: Final = 34.0
_NAME, _CELL, _GAP = 16.0, 20.0, 8.0
#: Steps between numbered columns, and how wide a column's name may be.
_STEPS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500)
_LONGEST: Final = 90.0

Rows = Sequence[tuple[str, Sequence[float | None]]]


@dataclass(frozen=True)
class Scale:
    """Equal steps from ``low`` to ``high``, coloured by the ramp ``q`` or ``d`` (diverging).

    ``flipped``: the warm half of ``d`` is for low values. It is always for those that harm a merge.
    """

    low: float
    high: float
    ramp: str
    steps: int
    label: Callable[[float], str] = tick_label
    flipped: bool = False

    def step(self, value: float) -> int:
        """Which step a value is in; those outside count to the ends."""
        share = (value - self.low) / (self.high - self.low)
        return min(max(int(share * self.steps), 0), self.steps - 1)

    def style(self, step: int) -> str:
        """The class of a step's colour."""
        return f"{self.ramp}{self.steps - 1 - step if self.flipped else step}"


def from_zero(rows: Rows, *, at_most: float | None = None) -> Scale:
    """0 to a round number at or above the largest value, or to ``at_most``."""
    high = at_most or _round_up(_farthest(_values(rows)))
    return Scale(0, high, "q", SEQUENTIAL_STEPS)


def around(centre: float, rows: Rows, *, flipped: bool = False) -> Scale:
    """Symmetric about ``centre``, out to a round distance that reaches the farthest value."""
    reach = _round_up(_farthest(x - centre for x in _values(rows)))
    return Scale(centre - reach, centre + reach, "d", DIVERGING_STEPS, flipped=flipped)


def around_one(rows: Rows) -> Scale:
    """Ratios: 1/r to r in equal steps of the logarithm. Give :func:`heat_map` logarithms."""
    limit = math.log2(_round_up(2.0 ** min(_farthest(_values(rows)), 100)))
    return Scale(-limit, limit, "d", DIVERGING_STEPS, label=lambda x: tick_label(_rounded(2**x)))


def _farthest(distances: Iterable[float]) -> float:
    """The largest without its sign; 1 where all are 0 or so small that no scale has room."""
    farthest = max(map(abs, distances), default=0.0)
    return farthest if farthest > 1e-30 else 1.0


def _round_up(value: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(m * power for m in _ROUND if m * power >= value * (1 - 1e-9))


def _values(rows: Rows) -> list[float]:
    return [value for _, row in rows for value in row if value is not None]


def heat_map(
    ident: str,
    title: str,
    description: str,
    rows: Rows,
    columns: Sequence[str],
    scale: Scale,
    *,
    column_title: str = "",
) -> Markup:
    """Values by row and column; a value that is missing has a colour outside the scale."""
    figure = Figure(ident, title, description)
    width = WIDTH / len(columns)
    cells: dict[str, list[str]] = defaultdict(list)
    texts: list[tuple[float, float, str, str]] = []
    y = 0.0
    for name, row in rows:
        figure.text(0, y + _NAME - 4, fit(name, WIDTH), "label")
        y += _NAME
        for i, value in enumerate(row):
            style = "missing" if value is None else scale.style(scale.step(value))
            cells[style].append(_cell(i * width, y, width, _CELL))
            if width >= _READABLE and value is not None:
                texts.append(
                    (i * width + width / 2, y + 14, scale.label(_rounded(value)), f"on-{style}")
                )
        y += _CELL + _GAP
    for style, commands in sorted(cells.items()):
        figure.path("".join(commands), f"cell {style}")
    for x, baseline, text, style in texts:
        figure.text(x, baseline, text, f"value {style}", anchor="middle")
    y = _column_labels(figure, columns, y - _GAP + 14, column_title)
    figure.height = _scale_bar(figure, scale, y + 10)
    return figure.markup()


def ranges(rows: Rows) -> str:
    """The map for those who cannot see it: from where to where each row goes."""
    parts = []
    for name, row in rows:
        values = [value for value in row if value is not None]
        if values:
            parts.append(f"{name}: from {number(min(values))} to {number(max(values))}")
    return "; ".join(parts) + "."


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def _cell(x: float, y: float, width: float, height: float) -> str:
    """A rectangle as part of a path."""
    gap = 0.8 if width > 4 else 0
    return f"M{x:.2f} {y:.1f}h{width - gap:.2f}v{height:.0f}h-{width - gap:.2f}z"


def _column_labels(figure: Figure, columns: Sequence[str], y: float, title: str) -> float:
    """Round numbers first, then other names, as far as there is room."""
    width = WIDTH / len(columns)
    numbers = [i for i, column in enumerate(columns) if _is_number(column)]
    widest = max((text_width(columns[i]) for i in numbers), default=0) + 8
    every = next((step for step in _STEPS if step * width >= widest), len(columns))
    names = [i for i in range(len(columns)) if not _is_number(columns[i])]
    taken: list[tuple[float, float]] = []
    for i in [*(i for i in numbers if int(columns[i]) % every == 0), *names]:
        label = fit(columns[i], max(width, _LONGEST))
        half = text_width(label) / 2
        x = min(max(i * width + width / 2, half), WIDTH - half)
        if all(x + half + 4 <= left or x - half - 4 >= right for left, right in taken):
            figure.text(x, y, label, "tick", anchor="middle")
            taken.append((x - half, x + half))
    if title:
        y += 15
        figure.text(0, y, fit(title, WIDTH), "axis-title")
    return y


def _is_number(column: str) -> bool:
    return column.isdecimal() and len(column) < 10


def _scale_bar(figure: Figure, scale: Scale, y: float) -> float:
    """The steps side by side, with the numbers at its ends and middle."""
    width = (WIDTH - 24) / scale.steps
    for i in range(scale.steps):
        figure.path(_cell(12 + i * width, y, width + 0.8, 8), f"cell {scale.style(i)}")
    for mark in (0, scale.steps / 2, scale.steps):
        value = scale.low + (scale.high - scale.low) * mark / scale.steps
        x = 12 + mark * width
        anchor = "start" if mark == 0 else "end" if mark == scale.steps else "middle"
        shift = {"start": -12, "end": 12, "middle": 0}[anchor]
        figure.text(x + shift, y + 22, scale.label(_rounded(value)), "tick", anchor=anchor)
    return y + 28
