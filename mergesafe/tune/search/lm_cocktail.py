"""LM-Cocktail: weights from how well each model does alone. Xiao et al., arXiv 2311.13534.

``w_k = softmax(-L_k / T)`` over the models that are merged, with L_k the objective of model k
alone; the same weights for every tensor. Data cost: one evaluation a model.
"""

from __future__ import annotations

import torch

from mergesafe.errors import TuningError
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.search.problem import Problem
from mergesafe.tune.section.sections import SearchSpec


def lm_cocktail(problem: Problem, start: torch.Tensor, spec: SearchSpec) -> torch.Tensor:
    """The weights, or t of SLERP, by the softmax; other coefficients stay as they are.

    Model k alone is weight 1 for it and 0 for all others, at density 1 and lambda 1.

    Raises:
        TuningError: the bounds exclude a model alone, or there is neither weight nor t to find.
    """
    space = problem.space
    count = len(space.experts)
    check_lm_cocktail(space, spec)
    losses = []
    alone = [_alone(space, start, k) for k in range(count)]
    problem.whole.expect(alone)
    for k, x in enumerate(alone):
        found = problem.whole.evaluate(x, grad=False)
        problem.note("lm_cocktail", k + 1, found)
        losses.append(found.value)
    weights = torch.softmax(
        -torch.tensor(losses, dtype=torch.float64) / spec.number("temperature"), dim=0
    )
    return _mixed(space, start, weights)


def check_lm_cocktail(space: CoefficientSpace, spec: SearchSpec) -> None:
    """Refuse coefficients among which no model stands alone.

    Raises:
        TuningError: there is neither weight nor t, or the bounds exclude 0 or 1.
    """
    name = "weight" if "weight" in space.names else "t"
    if name not in space.names:
        raise TuningError(
            "the search 'lm_cocktail' finds weights or SLERP's t, and neither is among the "
            f"coefficients: {', '.join(space.names)}"
        )
    low, high = (space.view(bound, name) for bound in space.bounds)
    if bool((low > 0).any() or (high < 1).any()):
        raise TuningError(
            f"the search 'lm_cocktail' tries each model alone, so the bounds of '{name}' must "
            "hold 0 and 1"
        )


def _alone(space: CoefficientSpace, start: torch.Tensor, model: int) -> torch.Tensor:
    """One model of the merge, whole."""
    x = start.clone()
    for name in space.names:
        if name in ("density", "lambda"):
            space.view(x, name)[:] = 1.0
    weights = torch.zeros(len(space.experts), dtype=torch.float64)
    weights[model] = 1.0
    return _mixed(space, x, weights)


def _mixed(space: CoefficientSpace, start: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    x = start.clone()
    if "weight" in space.names:
        space.view(x, "weight")[:] = weights[:, None]
    else:
        space.view(x, "t")[:] = weights[1]  # the share of the model that is not the base
    return x
