"""Searches for coefficients, by name: the one table that says what there is to know of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch

from mergesafe.errors import TuningError
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.search.cmaes import check_cmaes, cmaes
from mergesafe.tune.search.gradient import check_gradient, gradient
from mergesafe.tune.search.lm_cocktail import check_lm_cocktail, lm_cocktail
from mergesafe.tune.search.points import check_grid, grid, random_points
from mergesafe.tune.search.problem import Problem
from mergesafe.tune.search.search import Search
from mergesafe.tune.section.read_options import at_least, positive, values
from mergesafe.tune.section.sections import SearchSpec

#: Steps of a search that would not end by itself.
_STEPS: Final = 100

#: Defaults from arXiv 2406.14563 (CMA-ES, LM-Cocktail and the grid). Rate 0 stands for that of the
#: granularity, population 0 for CMA-ES's own.
SEARCHES: Final[Mapping[str, Search]] = {
    "gradient": Search(
        gradient,
        check_gradient,
        {
            "rate": (0.0, positive),
            "patience": (4, at_least(0)),
            "check_every": (5, at_least(1)),
        },
        gradient=True,
        steps=_STEPS,
    ),
    "cmaes": Search(
        cmaes,
        check_cmaes,
        {"sigma": (1 / 6, positive), "population": (0, at_least(2))},
        steps=_STEPS,
    ),
    "lm_cocktail": Search(lm_cocktail, check_lm_cocktail, {"temperature": (1.0, positive)}),
    "grid": Search(grid, check_grid, {"values": ((0.25, 0.5, 1.0), values)}),
    "random": Search(random_points, steps=_STEPS),
}


def check_searches(
    space: CoefficientSpace, specs: Sequence[SearchSpec], source: Path | None
) -> None:
    """Refuse searches that cannot tune ``space``; ``source``: the recipe's file.

    Raises:
        TuningError: a search cannot; says where it stands, and what to do.
    """
    for spec in specs:
        try:
            SEARCHES[spec.method].check(space, spec)
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
        x = problem.best([x, SEARCHES[spec.method].run(problem, x, spec)])
    return x
