"""The gradient search on a problem: see :mod:`mergesafe.tune.gradient`."""

from __future__ import annotations

import torch

from mergesafe.tune.gradient import GradientSearch, Options
from mergesafe.tune.problem import Problem
from mergesafe.tune.section import SearchSpec


def gradient(problem: Problem, start: torch.Tensor, spec: SearchSpec) -> torch.Tensor:
    """Adam on the coefficients.

    With ``patience`` the objective on all examples is evaluated every ``check_every`` steps, the
    search stops when it does not fall any more, and its lowest point counts. It is not evaluated on
    held-out data: what is chosen on them cannot be verified on them.
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
    while not search.finished and meter.step():
        step = search.step()
        problem.note("gradient", step.number, step.evaluation)
    if not patience or search.best_value == float("inf"):
        return search.x
    return problem.best([search.best, search.x])  # the last steps are not checked yet
