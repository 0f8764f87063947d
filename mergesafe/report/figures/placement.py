"""Labels beside points, none over another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

#: Directions in which a label may lie, the preferred first: right, left, above, below, diagonals.
_DIRECTIONS: Final = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1))
_DISTANCES: Final = (9.0, 18.0, 30.0, 44.0, 60.0, 78.0, 98.0, 120.0)
_SWEEPS: Final = 4
#: Costs of a unit of overlapped area, and of a unit of distance.
_ON_LABEL, _ON_MARK, _ON_BAR, _FAR = 1000.0, 20.0, 0.25, 0.4


@dataclass(frozen=True)
class Box:
    """A rectangle: left, top, right, bottom."""

    x1: float
    y1: float
    x2: float
    y2: float

    def overlap(self, other: Box) -> float:
        """The common area."""
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        return max(width, 0.0) * max(height, 0.0)


def place(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    *,
    bounds: Box,
    bars: Sequence[Box] = (),
    taken: Sequence[Box] = (),
    mark: float = 6.0,
) -> list[Box]:
    """A box of each size near its point, inside ``bounds``.

    Every label takes the cheapest of the positions around its point in turn, a few times over:
    first it avoids other labels and what is ``taken``, then marks (squares of side ``2 mark``
    around points), then ``bars``, then distance. Deterministic; labels overlap only where there is
    no room at all.
    """
    marks = [Box(x - mark, y - mark, x + mark, y + mark) for x, y in points]
    options = [_positions(*point, *size, bounds) for point, size in zip(points, sizes, strict=True)]
    placed: list[Box | None] = [None] * len(points)
    for _ in range(_SWEEPS):
        for i, candidates in enumerate(options):
            others = [box for j, box in enumerate(placed) if box is not None and j != i]
            others += taken

            def cost(option: tuple[Box, float], others: list[Box] = others) -> float:
                box, distance = option
                return (
                    _ON_LABEL * sum(box.overlap(other) for other in others)
                    + _ON_MARK * sum(box.overlap(other) for other in marks)
                    + _ON_BAR * sum(box.overlap(other) for other in bars)
                    + _FAR * distance
                )

            placed[i] = min(candidates, key=cost)[0]
    return [box for box in placed if box is not None]


def _positions(
    x: float, y: float, width: float, height: float, bounds: Box
) -> list[tuple[Box, float]]:
    """Boxes around a point, with their distance; moved inside ``bounds`` where they stick out."""
    found = []
    for distance in _DISTANCES:
        for rank, (dx, dy) in enumerate(_DIRECTIONS):
            reach = distance / math.hypot(dx, dy)
            left = x + dx * reach - (width if dx < 0 else 0 if dx > 0 else width / 2)
            top = y + dy * reach - (height if dy < 0 else 0 if dy > 0 else height / 2)
            left = min(max(left, bounds.x1), max(bounds.x1, bounds.x2 - width))
            top = min(max(top, bounds.y1), max(bounds.y1, bounds.y2 - height))
            found.append((Box(left, top, left + width, top + height), distance + rank))
    return found
