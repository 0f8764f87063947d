"""The gradient search on a problem: see :mod:`mergesafe.tune.search.adam`."""

from __future__ import annotations

import torch

from mergesafe.tune.search.adam import GradientSearch, Options
from mergesafe.tune.search.problem import Problem
from mergesafe.tune.section.sections import SearchSpec


def gradient(problem: Problem, start: torch.Tensor, spec: SearchSpec) -> torch.Tensor:
    """Adam on the coefficients.

    With ``patience`` the objective on all examples is evaluated every ``check_every`` steps, the
    search stops when it does not fall any more, and its lowest point counts, or the mean of the
    points of the later half if that is lower still: steps on few examples are noisy, and their
    noise averages out (Polyak & Juditsky, SIAM Journal on Control and Optimization 30(4), 1992). It
    is not evaluated on held-out data: what is chosen on them cannot be verified on them.
    """
    patience = int(spec.number("patience"))
    options = Options(
        rate=spec.number("rate") or None,
        patience=patience,
        check_every=int(spec.number("check_every")),
    )
    whole = problem.whole if patience else None
    search = GradientSearch(problem.batch, problem.space, x=start, held_out=whole, options=options)
    meter = problem.meter(spec.budget)
    points = [search.x]
    while not search.finished and meter.step():
        step = search.step()
        points.append(search.x)
        problem.note("gradient", step.number, step.evaluation)
    if not patience:
        return search.x
    checked = [search.best] if search.best_value < float("inf") else []
    mean = torch.stack(points[len(points) // 2 :]).mean(0)
    return problem.best([*checked, search.x, mean])
