"""One tuning run: from a setup and a model to coefficients and what is known about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mergesafe.tune.merged_model import MergedModel
from mergesafe.tune.objectives import Evaluation
from mergesafe.tune.problem import Problem, Progress, Recorded
from mergesafe.tune.result import Checked, FrontPoint, TuneResult
from mergesafe.tune.search import run_searches
from mergesafe.tune.setup import Setup
from mergesafe.tune.terms import Terms, make_terms
from mergesafe.tune.trajectory import Trajectory
from mergesafe.tune.tuned import rounded


@dataclass(frozen=True)
class Found:
    """The coefficients that are written, and how the constraints fare, if there are any."""

    x: torch.Tensor
    constraints: tuple[Checked, ...] = ()
    front: tuple[FrontPoint, ...] | None = None
    hypervolume: float | None = None

    @property
    def feasible(self) -> bool:
        return all(each.met for each in self.constraints)


class Run:
    """Solves what a setup asks for, recording every evaluation in ``trajectory``."""

    def __init__(
        self,
        setup: Setup,
        merged: MergedModel,
        trajectory: Trajectory,
        progress: Progress | None = None,
    ) -> None:
        self.setup, self.merged, self.trajectory = setup, merged, trajectory
        section = setup.section
        self.train = make_terms(section, setup.splits, setup.space)
        self.problem = Problem(
            setup.space,
            self.recorded("train", self.train, section.batch),
            self.recorded("all train", self.train, None),
            trajectory,
            section.seed,
            progress,
        )

    def recorded(self, name: str, terms: Terms, batch: int | None) -> Recorded:
        """The objective of ``terms``, on ``batch`` examples of each a step, in the trajectory."""
        objective = terms.objective(self.merged, batch, self.setup.section.seed)
        return Recorded(name, objective, self.trajectory)

    def solve(self) -> Found:
        """Search as the section says."""
        setup = self.setup
        x = run_searches(self.problem, setup.start, setup.section.searches)
        return Found(rounded(setup.space, x))

    def result(self, found: Found, out: Path) -> TuneResult:
        """What there is to say about ``found``."""
        setup, problem, x = self.setup, self.problem, found.x
        space = setup.space
        start = problem.whole.evaluate(setup.start, grad=False)
        there = problem.whole.evaluate(x, grad=False)
        return TuneResult(
            recipe=setup.recipe.source,
            out=out,
            granularity=space.granularity,
            models=space.experts,
            groups=tuple(group.name for group in space.groups),
            coefficients={name: space.view(x, name).tolist() for name in space.names},
            searches=tuple(spec.method for spec in setup.section.searches),
            start=start.value,
            objective=there.value,
            terms=there.terms,
            heldout=self._heldout(x).terms,
            evaluations=self.trajectory.evaluations,
            forward_passes=self.trajectory.forward_passes,
            seconds=round(self.trajectory.seconds, 3),
            history=tuple(problem.history),
            warnings=setup.warnings,
            constraints=found.constraints,
            feasible=found.feasible,
            front=found.front,
            hypervolume=found.hypervolume,
        )

    def _heldout(self, x: torch.Tensor) -> Evaluation:
        terms = make_terms(self.setup.section, self.setup.splits, self.setup.space, heldout=True)
        return self.recorded("held out", terms, None).evaluate(x, grad=False)
