"""Fronts and areas worked out by hand; larger is better in both coordinates."""

from __future__ import annotations

import random

import pytest

from mergesafe.tune.results.pareto import hypervolume, nondominated


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], []),
        ([(1, 1)], [0]),
        ([(1, 3), (2, 2), (3, 1)], [0, 1, 2]),
        ([(3, 1), (1, 3), (2, 2)], [1, 2, 0]),  # by the first coordinate
        ([(1, 1), (2, 2)], [1]),
        ([(2, 2), (2, 1)], [0]),  # equal in one, worse in the other
        ([(2, 2), (2, 2)], [0]),  # of equal points the first
        ([(1, 3), (1.5, 1.5), (2, 2)], [0, 2]),
    ],
)
def test_nondominated(points: list[tuple[float, float]], front: list[int]) -> None:
    assert nondominated(points) == front


@pytest.mark.parametrize(
    ("points", "area"),
    [
        ([], 0),
        ([(2, 3)], 6),
        ([(1, 3), (3, 1)], 5),  # 3 + 3 less the unit square that both cover
        ([(1, 3), (2, 2), (3, 1)], 6),
        ([(1, 3), (2, 2), (3, 1), (1.5, 1.5)], 6),  # a dominated point adds nothing
        ([(1, 3), (-1, 5), (5, 0)], 3),  # nor does one that is not above the reference
    ],
)
def test_hypervolume(points: list[tuple[float, float]], area: float) -> None:
    assert hypervolume(points, (0, 0)) == area


def test_the_reference_is_a_corner() -> None:
    assert hypervolume([(-1, -2)], (-3, -3)) == 2


def test_hypervolume_counts_what_some_point_beats() -> None:
    """On a grid of cells the area is the number of cells below some point."""
    rng = random.Random(0)
    for _ in range(50):
        points = [(rng.randint(0, 9), rng.randint(0, 9)) for _ in range(rng.randint(1, 8))]
        cells = sum(any(x < p and y < q for p, q in points) for x in range(10) for y in range(10))
        assert hypervolume(points, (0, 0)) == cells
