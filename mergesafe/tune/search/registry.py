"""Searches for coefficients, by name. Each takes a problem, a start and its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import torch

from mergesafe.errors import TuningError
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.model.tensor_function import check_differentiable
from mergesafe.tune.search.cmaes import check_cmaes, cmaes
from mergesafe.tune.search.gradient import gradient
from mergesafe.tune.search.lm_cocktail import check_lm_cocktail, lm_cocktail
from mergesafe.tune.search.points import check_grid, grid, random_points
from mergesafe.tune.search.problem import Problem
from mergesafe.tune.section.sections import SearchSpec

#: Returns the best point found, which lies within the bounds.
Search: TypeAlias = Callable[[Problem, torch.Tensor, SearchSpec], torch.Tensor]

SEARCHES: Final[Mapping[str, Search]] = {
    "gradient": gradient,
    "cmaes": cmaes,
    "lm_cocktail": lm_cocktail,
    "grid": grid,
    "random": random_points,
}


#: Refuses what a search cannot find, before any model is loaded.
_CHECKS: Final[Mapping[str, Callable[[CoefficientSpace, SearchSpec], None]]] = {
    "gradient": lambda space, _: check_differentiable(space),
    "cmaes": check_cmaes,
    "lm_cocktail": check_lm_cocktail,
    "grid": check_grid,
}


def check_searches(
    space: CoefficientSpace, specs: Sequence[SearchSpec], source: Path | None
) -> None:
    """Refuse searches that cannot tune ``space``; ``source``: the recipe's file.

    Raises:
        TuningError: a search cannot; says where it stands, and what to do.
    """
    for spec in specs:
        check = _CHECKS.get(spec.method)
        try:
            if check is not None:
                check(space, spec)
        except TuningError as error:
            where = f"{source}:{spec.line}: " if source and spec.line else ""
            raise TuningError(f"{where}{error}") from None


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
