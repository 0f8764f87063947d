"""The front of what cannot be improved in both respects, and the area that it dominates."""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[float, float]


def nondominated(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other point beats, larger being better in both coordinates.

    In order of the first coordinate, rising; of equal points the first alone. A point beats
    another that it exceeds in one coordinate and equals or exceeds in the other.
    """
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1], i))
    front: list[int] = []
    best = -math.inf
    for index in order:
        if points[index][1] > best:
            best = points[index][1]
            front.append(index)
    return front[::-1]


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The area of {z: reference <= z <= p for some point p}, larger being better.

    Zitzler & Thiele, "Multiobjective optimization using evolutionary algorithms", PPSN 1998. A
    point that is not better than ``reference`` in both coordinates adds nothing.
    """
    better = [p for p in points if p[0] > reference[0] and p[1] > reference[1]]
    area, left = 0.0, reference[0]
    for first, second in (better[i] for i in nondominated(better)):
        area += (first - left) * (second - reference[1])
        left = first
    return area
