"""One tuning run: from a setup and a model to coefficients and what is known about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from mergesafe.results.tuning import AtBounds, ConstraintCheck, FrontPoint
from mergesafe.safety.judges.registry import make_judge
from mergesafe.tune.data.examples import MAX_TOKENS, Term
from mergesafe.tune.data.terms import SAFETY, Terms, front_sides, make_sides, make_terms, records_of
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.objective.constrained import Losses, solve
from mergesafe.tune.objective.deciding import Decider
from mergesafe.tune.objective.evaluation import Evaluates, Evaluation
from mergesafe.tune.objective.measure import Measurer
from mergesafe.tune.objective.objectives import Penalties
from mergesafe.tune.results.blame import Blame, blame
from mergesafe.tune.results.front import Sides, find_front
from mergesafe.tune.results.pareto import hypervolume, nondominated
from mergesafe.tune.results.result import TuneResult
from mergesafe.tune.results.tuned import rounded
from mergesafe.tune.search.problem import OnProgress, Problem, RecordedObjective
from mergesafe.tune.search.registry import run_searches
from mergesafe.tune.search.remote_model import Pool
from mergesafe.tune.search.trajectory import Trajectory
from mergesafe.tune.setup import TuningSetup

#: Records of each safety set that blame is found on: leaving out every part takes a pass for each.
EXPLAINED: Final = 32


@dataclass(frozen=True)
class Solution:
    """The coefficients that are written, and how the constraints fare, if there are any."""

    x: torch.Tensor
    constraints: tuple[ConstraintCheck, ...] = ()
    front: tuple[FrontPoint, ...] | None = None
    hypervolume: float | None = None
    reference: tuple[float, float] | None = None

    @property
    def feasible(self) -> bool:
        return all(each.met for each in self.constraints)


def values_of(space: CoefficientSpace, x: torch.Tensor) -> dict[str, list[list[float]]]:
    """The coefficients by name, [experts][groups]."""
    return {name: space.view(x, name).tolist() for name in space.names}


def at_bounds(space: CoefficientSpace, x: torch.Tensor) -> tuple[AtBounds, ...]:
    """The coefficients of which some values lie on a bound that could be wider."""
    found = []
    for parameter in space.parameters:
        values = space.view(x, parameter.name)
        low, high = (float(space.view(bound, parameter.name)[0, 0]) for bound in space.bounds)
        at_low = 0 if low == parameter.minimum else int((values == low).sum())
        at_high = 0 if high == parameter.maximum else int((values == high).sum())
        if at_low or at_high:
            found.append(AtBounds(parameter.name, low, high, at_low, at_high, values.numel()))
    return tuple(found)


def without_search(setup: TuningSetup, x: torch.Tensor, out: Path) -> TuneResult:
    """What there is to say about the start alone, for which no model was run."""
    space = setup.space
    return TuneResult(
        recipe=setup.recipe.source, out=out, granularity=space.granularity, models=space.experts,
        groups=tuple(group.name for group in space.groups), coefficients=values_of(space, x),
        start=None, objective=None, terms={}, heldout={}, evaluations=0, forward_passes=0,
        seconds=0.0, history=(), warnings=setup.warnings, at_bounds=at_bounds(space, x),
    )  # fmt: skip


class Run:
    """Solves what a setup asks for, recording every evaluation in ``trajectory``."""

    def __init__(
        self,
        setup: TuningSetup,
        merged: MergedModel,
        trajectory: Trajectory,
        progress: OnProgress | None = None,
        pool: Pool | None = None,
    ) -> None:
        self.setup, self.merged, self.trajectory, self.pool = setup, merged, trajectory, pool
        self._warnings: dict[str, None] = {}
        section = setup.section
        self.train = make_terms(section, setup.splits, setup.space)
        # Now, though it is needed at the end: what is wrong with the records is told before.
        self.heldout = self.recorded(
            "held out", make_terms(section, setup.splits, setup.space, heldout=True), None
        )
        self.problem = Problem(
            setup.space,
            self.recorded("train", self.train, section.batch),
            self.recorded("all train", self.train, None),
            trajectory,
            section.seed,
            progress,
        )

    def recorded(self, name: str, terms: Terms, batch: int | None) -> RecordedObjective:
        """The objective of ``terms``, on ``batch`` examples of each a step, in the trajectory."""
        local = terms.objective(self.merged, batch, self.setup.section.seed)
        for data in local.sets:
            if data.tokens.cut:
                self._warnings[
                    f"term '{data.term.name}': {data.tokens.cut} of {len(data.rows)} answers are "
                    f"cut short, since question and answer count up to {MAX_TOKENS:,} tokens"
                ] = None
        objective = local if self.pool is None else self.pool.objective(local)
        return RecordedObjective(name, objective, self.trajectory)

    def solve(self) -> Solution:
        """Search as the section says."""
        setup = self.setup
        if setup.section.front_points is not None:
            return self._front(setup.section.front_points)
        if setup.section.constraints:
            return self._constrained()
        x = run_searches(self.problem, setup.start, setup.section.searches)
        return Solution(rounded(setup.space, x))

    def _constrained(self) -> Solution:
        """The best merge that keeps the constraints, verified on held-out questions."""
        setup = self.setup
        decider = self._decider()
        levels = decider.levels()
        found = solve(
            self.problem, setup.start, setup.section.searches,
            self._losses([name for level in levels.values() for name in level.shares]), levels,
            lambda x: decider.decisions(x, "train"),
        )  # fmt: skip
        x = rounded(setup.space, found.x)
        return Solution(x, constraints=decider.verified(x))

    def _decider(self) -> Decider:
        setup, section = self.setup, self.setup.section
        measurer = Measurer(
            setup.splits, section.constraints, make_judge(section.judge), self.trajectory,
            setup.recipe.folder, str(self.merged.device),
        )  # fmt: skip
        return Decider(setup.recipe, section.constraints, setup.splits, measurer, self.merged)

    def _losses(self, constrained: Sequence[str]) -> Losses:
        """The objective in parts, so that each can be bounded: a part for each set's answers."""
        section = self.setup.section
        weights = {t.name: t.weight for t in self.train.terms if t.kind == "cross_entropy"}
        parts = {
            split.name: Terms((Term(split.name, records_of(split, heldout=False)),))
            for split in self.setup.splits
            if split.name in weights or split.name in constrained
        }
        rest = replace(
            self.train, terms=tuple(t for t in self.train.terms if t.kind != "cross_entropy")
        )
        if rest.terms:
            parts["other terms"], weights["other terms"] = rest, 1.0
        batch: dict[str, Evaluates] = {
            name: self.recorded(name, terms, section.batch) for name, terms in parts.items()
        }
        whole: dict[str, Evaluates] = {
            name: self.recorded(f"all {name}", terms, None) for name, terms in parts.items()
        }
        if not rest.terms and (rest.l1 or rest.l2):
            batch["the penalties"] = whole["the penalties"] = Penalties(rest.l1, rest.l2)
            weights["the penalties"] = 1.0
        return Losses(batch, whole, weights)

    def _front(self, count: int) -> Solution:
        """The front, and of its points the one with the lowest objective of the section."""
        setup, space = self.setup, self.setup.space
        sides = self._sides()
        ways = find_front(self.problem, setup.start, setup.section.searches, sides, count)
        listed = [(share, rounded(space, x)) for share, x in ways]
        points = [sides.point(x) for _, x in listed]
        reference = sides.point(setup.start)
        kept = set(nondominated(points))
        front = tuple(
            FrontPoint(*point, share, values_of(space, x), dominated=number not in kept)
            for number, (point, (share, x)) in enumerate(zip(points, listed, strict=True))
        )
        best = self.problem.best([x for _, x in listed])
        volume = hypervolume(points, reference)
        return Solution(best, front=front, hypervolume=volume, reference=reference)

    def _sides(self) -> Sides:
        """The two losses of a front."""
        section = self.setup.section
        both = front_sides(section, self.setup.splits)
        train, heldout = ({side: Terms(terms) for side, terms in each.items()} for each in both)
        return Sides(
            {side: self.recorded(side, terms, section.batch) for side, terms in train.items()},
            {side: self.recorded(f"all {side}", terms, None) for side, terms in train.items()},
            {side: self.recorded(f"held-out {side}", t, None) for side, t in heldout.items()},
        )

    def explain(self) -> Blame:
        """Which model and layer the safety loss of the untuned merge is due to."""
        terms = make_sides(self.setup.splits)[SAFETY]
        few = Terms(tuple(replace(t, records=t.records[:EXPLAINED]) for t in terms))

        def tell(done: int, total: int, value: float) -> None:
            evaluation = Evaluation(value, {}, None, 0, 0)
            part = f"leaving out {done} of {total} parts"
            replace(self.problem, part=part, history=[]).note("explain", done, evaluation)

        return blame(
            self.recorded("blame", few, None), self.setup.space, self.setup.start, progress=tell
        )

    def result(self, found: Solution, out: Path, blamed: Blame | None = None) -> TuneResult:
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
            coefficients=values_of(space, x),
            searches=tuple(spec.method for spec in setup.section.searches),
            start=start.value,
            objective=there.value,
            terms=there.terms,
            start_terms=start.terms,
            start_heldout=self.heldout.evaluate(setup.start, grad=False).terms,
            heldout=self.heldout.evaluate(x, grad=False).terms,
            sets=tuple(term.name for term in self.train.terms),
            evaluations=self.trajectory.evaluations,
            forward_passes=self.trajectory.forward_passes,
            seconds=round(self.trajectory.seconds, 3),
            history=tuple(problem.history),
            warnings=(*setup.warnings, *self._warnings),
            at_bounds=at_bounds(space, x),
            constraints=found.constraints,
            feasible=found.feasible,
            front=found.front,
            hypervolume=found.hypervolume,
            reference=found.reference,
            blame=blamed,
        )
