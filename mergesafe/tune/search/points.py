"""Searches that evaluate points which are known beforehand: a grid, and random ones."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, product

import torch

from mergesafe.errors import PointError, TuningError
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.search.problem import Problem
from mergesafe.tune.section.sections import Budget, SearchSpec

#: Points of a grid without a budget that allows for more.
MAX_GRID = 10_000


def grid(problem: Problem, start: torch.Tensor, spec: SearchSpec) -> torch.Tensor:
    """Every combination of ``values`` over the coefficients, one for all groups; the best counts.

    The baseline of arXiv 2406.14563 ({0.25, 0.5, 1} for weight and density), but selected on the
    data that are optimised, never on a test metric.

    Raises:
        TuningError: the grid has more points than the budget has evaluations.
    """
    check_grid(problem.space, spec)
    values, axes = spec.numbers("values"), _axes(problem.space)
    points = (
        _filled(start, axes, combination, problem.space)
        for combination in product(values, repeat=len(axes))
    )
    return _lowest(problem, start, points, "grid", spec.budget)


def check_grid(space: CoefficientSpace, spec: SearchSpec) -> None:
    """Refuse a grid with values outside the bounds, or more points than the budget allows.

    Raises:
        TuningError: it has; says which, or how many.
    """
    values, axes = spec.numbers("values"), _axes(space)
    low, high = space.bounds
    for name in space.names:
        least, most = float(space.view(low, name).min()), float(space.view(high, name).max())
        wrong = [value for value in values if not least <= value <= most]
        if wrong:
            raise TuningError(
                f"the grid's value {wrong[0]:g} lies outside the bounds of '{name}', [{least:g}, "
                f"{most:g}]; remove it, or widen 'bounds'"
            )
    limits = [n for n in (spec.budget.steps, spec.budget.evaluations) if n is not None]
    count, allowed = len(values) ** len(axes), min(limits, default=MAX_GRID)
    if count > allowed:
        raise TuningError(
            f"the grid has {len(values)}^{len(axes)} = {count:,} points and its budget is "
            f"{allowed:,} evaluations; allow more, give it fewer values or coefficients, or use "
            "the search 'random' or 'cmaes'"
        )


def random_points(problem: Problem, start: torch.Tensor, spec: SearchSpec) -> torch.Tensor:
    """Uniform points within the bounds, every group its own, drawn by the seed."""
    return _lowest(problem, start, _uniform(problem), "random", spec.budget)


def _uniform(problem: Problem) -> Iterator[torch.Tensor]:
    low, high = (bound.tolist() for bound in problem.space.bounds)
    draw = random.Random(problem.seed)
    while True:
        drawn = [draw.uniform(a, b) for a, b in zip(low, high, strict=True)]
        yield torch.tensor(drawn, dtype=torch.float64)


def _lowest(
    problem: Problem, start: torch.Tensor, points: Iterable[torch.Tensor], name: str, budget: Budget
) -> torch.Tensor:
    """The point with the lowest objective on all examples."""
    meter = problem.meter(budget)
    best, lowest = start, float("inf")
    source = iter(points)
    group: list[torch.Tensor] = []
    while True:
        if not group:
            group = list(islice(source, meter.fits(problem.whole.parallel)))[::-1]
            problem.whole.expect(group[::-1])
        if not group or not meter.step():
            break
        x = group.pop()
        try:
            found = problem.whole.evaluate(x, grad=False)
        except PointError:
            continue  # this point is nothing; if all are, the start is evaluated next, and told
        problem.note(name, meter.steps, found)
        if found.value < lowest:
            best, lowest = x, found.value
    return best


def _axes(space: CoefficientSpace) -> list[tuple[str, int]]:
    """Every coefficient of every expert, whatever the group."""
    return [
        (name, row) for name in space.names for row in range(len(space.view(space.bounds[0], name)))
    ]


def _filled(
    start: torch.Tensor,
    axes: Sequence[tuple[str, int]],
    values: Sequence[float],
    space: CoefficientSpace,
) -> torch.Tensor:
    x = start.clone()
    for (name, row), value in zip(axes, values, strict=True):
        space.view(x, name)[row] = value
    return space.clamp(x)
