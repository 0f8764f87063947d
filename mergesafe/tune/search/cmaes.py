"""CMA-ES: the covariance matrix adaptation evolution strategy, by the package ``cma``.

Hansen & Ostermeier, "Completely derandomized self-adaptation in evolution strategies", Evolutionary
Computation 9(2), 2001. As a search for merge coefficients: arXiv 2403.13187 and, with a safety
objective, arXiv 2406.14563, whose settings are the defaults: from weight 1/2 and density 1 with
step size 1/6, population 4 + floor(3 ln n).
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any

import torch

from mergesafe.errors import PointError, TuningError
from mergesafe.extras import install
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.objective.evaluation import Evaluation
from mergesafe.tune.search.problem import Problem
from mergesafe.tune.section.sections import SearchSpec

#: A candidate whose loss is not finite ranks behind all others.
_WORST = 1e30


def check_cmaes(space: CoefficientSpace, spec: SearchSpec) -> None:
    """Refuse to search without the package.

    Raises:
        TuningError: it is not installed; says how to.
    """
    if find_spec("cma") is None:
        raise TuningError(f"the search 'cmaes' needs the package cma: {install('tune')}")


def cmaes(problem: Problem, start: torch.Tensor, spec: SearchSpec) -> torch.Tensor:
    """Ask for a population, tell its values, until the budget or CMA-ES itself ends.

    All candidates of a generation are evaluated on the same examples. Coordinates are scaled so
    that every interval of bounds has length 1, which is what sigma refers to.
    """
    check_cmaes(problem.space, spec)
    low, high = problem.space.bounds
    width = high - low
    strategy = _strategy(((start - low) / width).tolist(), problem.seed, spec)
    meter = problem.meter(spec.budget)
    best, lowest = start, float("inf")
    while not strategy.stop() and meter.step():
        population = strategy.ask()
        points = [low + width * torch.tensor(each, dtype=torch.float64) for each in population]
        problem.batch.expect(points, step=meter.steps - 1)
        found = [_evaluated(problem, x, meter.steps - 1) for x in points]
        values = [_WORST if each is None else each.value for each in found]
        strategy.tell(population, values)
        first = min(range(len(values)), key=values.__getitem__)
        winner = found[first]
        if winner is None:
            continue
        problem.note("cmaes", meter.steps, winner)
        if winner.value < lowest:
            best, lowest = points[first], winner.value
    if not meter.steps:
        return start
    # With other examples in every generation the lowest value may be luck; the mean of the
    # distribution is not.
    mean = low + width * torch.tensor(strategy.result.xfavorite, dtype=torch.float64)
    return problem.best([problem.space.clamp(mean), best])


def _evaluated(problem: Problem, x: torch.Tensor, step: int) -> Evaluation | None:
    """None where there is no finite loss."""
    try:
        return problem.batch.evaluate(x, grad=False, step=step)
    except PointError:
        return None


def _strategy(x0: list[float], seed: int, spec: SearchSpec) -> Any:
    import numpy

    with warnings.catch_warnings():  # that matplotlib, which nobody needs here, is missing
        warnings.simplefilter("ignore", UserWarning)
        import cma

    options: dict[str, Any] = {
        "bounds": [0.0, 1.0],
        # A generator of its own: another library's use of numpy's changes nothing here.
        "randn": numpy.random.RandomState(seed % 2**32).randn,
        "seed": numpy.nan,
        "verbose": -9,
        "verb_log": 0,
        "verb_disp": 0,
    }
    if spec.number("population"):
        options["popsize"] = int(spec.number("population"))
    if len(x0) == 1:  # cma 4.5 fails to derive this limit from bounds in one dimension
        options["maxstd"] = numpy.inf
    return cma.CMAEvolutionStrategy(x0, spec.number("sigma"), options)
