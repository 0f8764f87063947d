"""Constrained merging: the best objective among the merges that keep every constraint.

A likelihood is constrained as it is. A rate has no gradient, so the loss of the answers that it
counts stands for it: the refusals for ``safe_rate`` and ``refusal_rate``, the plain answers to
harmless questions for ``over_refusal``, the set's answers for ``domain.SET``. How low that loss
must be for the rate is not known beforehand. Each round solves the problem for some level by the
augmented Lagrangian, has the model answer questions that it was optimised on, and moves the level:
half-way between the highest loss at which the constraint was met and the lowest at which it was
not. The result is verified once, on questions that played no part in this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import torch

from mergesafe.safety.gate.decide import Decision
from mergesafe.tune.objective.evaluation import Evaluates
from mergesafe.tune.objective.scalar import Bound, Lagrangian
from mergesafe.tune.search.problem import Problem
from mergesafe.tune.search.registry import run_searches
from mergesafe.tune.section.sections import SearchSpec

#: Searches after the first, which knows no constraint.
ROUNDS: Final = 6
#: Grows after every round, so that what is not met is asked for more firmly.
PENALTIES: Final = tuple(2.0**k for k in range(1, ROUNDS + 1))
_ROUNDING: Final = 1e-9
#: Levels that are known to lie within this share of each other are not searched between.
_CLOSE: Final = 0.05
#: Decides each constraint for a model's figures.
Decisions = Callable[[torch.Tensor], list[Decision]]


@dataclass
class Level:
    """The loss that stands for one constraint, and what is known about where it must lie.

    ``fixed``: the level itself where it is known: the constraint is on this loss.
    """

    shares: Mapping[str, float]
    fixed: float | None = None
    good: float = field(default=-math.inf)
    bad: float = field(default=math.inf)

    def learn(self, loss: float, met: bool) -> None:
        """A model with this loss has, or has not, met the constraint."""
        if met:
            self.good = max(self.good, loss)
        else:
            self.bad = min(self.bad, loss)

    @property
    def most(self) -> float:
        """What to ask for next; infinity where nothing speaks against any loss."""
        if self.fixed is not None:
            return self.fixed
        if math.isinf(self.bad):
            return math.inf
        # Rates are not exact functions of the loss: a model may fail where another passed.
        known = 0 <= self.good < self.bad
        return (self.good + self.bad) / 2 if known else self.bad / 2

    @property
    def settled(self) -> bool:
        """Whether another level would change little."""
        return (
            self.fixed is not None
            or math.isinf(self.bad)
            or (0 <= self.bad - self.good <= _CLOSE * self.bad)
        )


@dataclass(frozen=True)
class Candidate:
    """A point, its objective, and the constraints' decisions on the questions it was found with."""

    x: torch.Tensor
    objective: float
    decisions: Sequence[Decision]

    @property
    def broken(self) -> float:
        """By how much the constraints are broken, summed; 0 where all are met."""
        return sum(shortfall(each) for each in self.decisions)


@dataclass(frozen=True)
class Losses:
    """The objective's parts by name, on the examples of a step and on all, and their weights."""

    batch: Mapping[str, Evaluates]
    whole: Mapping[str, Evaluates]
    weights: Mapping[str, float]

    def at(self, x: torch.Tensor) -> dict[str, float]:
        return {name: part.evaluate(x, grad=False).value for name, part in self.whole.items()}


def shortfall(decision: Decision) -> float:
    """How far the value is on the wrong side of its bound, as a share of the bound."""
    margin = decision.margin.value
    wrong = -margin if decision.requirement.above else margin
    return max(0.0, wrong - _ROUNDING) / max(abs(decision.bound), _ROUNDING) if wrong > 0 else 0.0


def solve(
    problem: Problem,
    start: torch.Tensor,
    specs: tuple[SearchSpec, ...],
    losses: Losses,
    levels: Mapping[str, Level],
    decisions: Decisions,
) -> Candidate:
    """The candidate with the lowest objective among those that meet all constraints.

    Where none does, the one that breaks them least.
    """
    x = run_searches(replace(problem, part="without constraints"), start, specs)
    multipliers = dict.fromkeys(levels, 0.0)
    found: list[Candidate] = []
    for number, penalty in enumerate((*PENALTIES, None), 1):
        at_x = losses.at(x)
        objective = sum(weight * at_x[name] for name, weight in losses.weights.items())
        candidate = Candidate(x, objective, decisions(x))
        found.append(candidate)
        for level, decision in zip(levels.values(), candidate.decisions, strict=True):
            level.learn(Bound(level.shares, 0.0).excess(at_x), shortfall(decision) == 0)
        settled = all(level.settled for level in levels.values())
        if penalty is None or (candidate.broken == 0 and (len(found) == 1 or settled)):
            break
        bounds = {
            name: Bound(level.shares, level.most)
            for name, level in levels.items()
            if not math.isinf(level.most)
        }
        functions = [
            Lagrangian(parts, losses.weights, bounds, multipliers, penalty)
            for parts in (losses.batch, losses.whole)
        ]
        functions[0].update(at_x)  # the multipliers are shared
        part = f"constrained, round {number} of at most {ROUNDS}"
        x = run_searches(
            replace(problem, batch=functions[0], whole=functions[1], part=part), x, specs
        )
    return min(found, key=lambda each: (each.broken, each.objective))
