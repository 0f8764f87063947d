"""The safety-skill front: what can be had of one at what price of the other.

The two ends are found first: the safety loss alone, and the skill loss alone. Between them each
point is the minimum of a smooth Tchebycheff function for another weight, started from the best of
the points before, so that most of the way has been gone already. The front is drawn and measured
with the log-likelihoods of held-out answers, on which nothing was optimised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from mergesafe.tune.data.terms import SAFETY, SKILL
from mergesafe.tune.objective.evaluation import Evaluates
from mergesafe.tune.objective.scalar import SmoothTchebycheff
from mergesafe.tune.results.pareto import Point
from mergesafe.tune.search.problem import Problem
from mergesafe.tune.search.registry import run_searches
from mergesafe.tune.section.sections import SearchSpec

#: Losses closer than this, in nats a token, are the same: the ends of the front coincide.
_SAME = 1e-6
_OTHER = {SAFETY: SKILL, SKILL: SAFETY}


@dataclass(frozen=True)
class Sides:
    """The safety loss and the skill loss: on the examples of a step, on all, and held out."""

    batch: Mapping[str, Evaluates]
    whole: Mapping[str, Evaluates]
    heldout: Mapping[str, Evaluates]

    def losses(self, x: torch.Tensor) -> dict[str, float]:
        """Both losses on all the examples that are optimised on."""
        return {side: each.evaluate(x, grad=False).value for side, each in self.whole.items()}

    def point(self, x: torch.Tensor) -> Point:
        """(safety, skill): mean log-likelihoods of held-out answers, nats a token."""
        found = {side: each.evaluate(x, grad=False).value for side, each in self.heldout.items()}
        return -found[SAFETY], -found[SKILL]


def find_front(
    problem: Problem, start: torch.Tensor, specs: tuple[SearchSpec, ...], sides: Sides, count: int
) -> list[tuple[float, torch.Tensor]]:
    """``count`` points with the weight of safety in each, from 1 to 0."""

    def search(part: str, batch: Evaluates, whole: Evaluates, x: torch.Tensor) -> torch.Tensor:
        return run_searches(replace(problem, batch=batch, whole=whole, part=part), x, specs)

    ends = {
        side: search(f"{side} alone", sides.batch[side], sides.whole[side], start)
        for side in _OTHER
    }
    losses = {side: sides.losses(x) for side, x in ends.items()}
    ideal = {side: losses[side][side] for side in ends}
    span = {side: max(losses[_OTHER[side]][side] - ideal[side], _SAME) for side in ends}
    found = [(1.0, ends[SAFETY])]
    for number in range(1, count - 1):
        share = 1.0 - number / (count - 1)
        weights = {SAFETY: share, SKILL: 1.0 - share}
        batch, whole = (
            SmoothTchebycheff(parts, weights, ideal, span) for parts in (sides.batch, sides.whole)
        )
        nearest = replace(problem, whole=whole).best([*ends.values(), *(x for _, x in found[1:])])
        part = f"point {number + 1} of {count}"
        found.append((share, search(part, batch, whole, nearest)))
    return [*found, (0.0, ends[SKILL])]
