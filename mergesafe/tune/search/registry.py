"""Searches for coefficients, by name. Each takes a problem, a start and its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import torch

from mergesafe.tune.problem import Problem
from mergesafe.tune.search.cmaes import cmaes
from mergesafe.tune.search.gradient import gradient
from mergesafe.tune.search.lm_cocktail import lm_cocktail
from mergesafe.tune.search.points import grid, random_points
from mergesafe.tune.section import SearchSpec

#: Returns the best point found, which lies within the bounds.
Search: TypeAlias = Callable[[Problem, torch.Tensor, SearchSpec], torch.Tensor]

SEARCHES: Final[Mapping[str, Search]] = {
    "gradient": gradient,
    "cmaes": cmaes,
    "lm_cocktail": lm_cocktail,
    "grid": grid,
    "random": random_points,
}


def run_searches(
    problem: Problem, start: torch.Tensor, specs: Sequence[SearchSpec]
) -> torch.Tensor:
    """One search after the other, each from the best point of the one before.

    A search whose point is worse than its start on all examples is passed over.
    """
    x = start
    for spec in specs:
        x = problem.best([x, SEARCHES[spec.method](problem, x, spec)])
    return x
