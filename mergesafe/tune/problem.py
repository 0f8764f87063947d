"""What a search sees: objectives whose every evaluation is recorded, a budget, a history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from mergesafe.errors import DeviceMemoryError
from mergesafe.tune.gradient import Evaluates
from mergesafe.tune.objectives import Evaluation
from mergesafe.tune.section import Budget
from mergesafe.tune.space import CoefficientSpace
from mergesafe.tune.trajectory import Trajectory, question


@dataclass(frozen=True)
class Moment:
    """One line of the history: the search, its step, and the objective there."""

    search: str
    step: int
    objective: float
    terms: dict[str, float]
    evaluations: int
    seconds: float


Progress = Callable[[Moment], None]


class Recorded:
    """An objective whose answers are kept in the trajectory, under ``name``."""

    def __init__(self, name: str, objective: Evaluates, trajectory: Trajectory) -> None:
        self.name, self.objective, self.trajectory = name, objective, trajectory
        self._known: dict[str, Evaluation] = {}

    def evaluate(self, x: torch.Tensor, *, grad: bool, step: int = 0) -> Evaluation:
        """The objective's answer; a question asked before costs nothing.

        Raises:
            DeviceMemoryError: the device ran out of memory; says which budget to change.
        """
        key = question(x, f"{self.name} step {step}{' gradient' if grad else ''}")
        if key not in self._known:
            self._known[key] = self.trajectory.evaluation(
                key, lambda: self._computed(x, grad=grad, step=step)
            )
        return self._known[key]

    def _computed(self, x: torch.Tensor, *, grad: bool, step: int) -> Evaluation:
        try:
            return self.objective.evaluate(x, grad=grad, step=step)
        except (torch.OutOfMemoryError, DeviceMemoryError) as error:
            raise DeviceMemoryError(
                f"the device ran out of memory in the objective '{self.name}' "
                f"({str(error).partition('.')[0]}). Lower --memory, the bytes of task vectors that "
                "are kept there, and go on with --resume; or start afresh with a smaller 'batch'"
            ) from None


@dataclass
class Problem:
    """What is minimised, and where.

    ``batch``: the objective on the examples of one step; ``whole``: on all of them.
    """

    space: CoefficientSpace
    batch: Evaluates
    whole: Evaluates
    trajectory: Trajectory
    seed: int = 0
    progress: Progress | None = None
    history: list[Moment] = field(default_factory=list)

    def note(self, search: str, step: int, evaluation: Evaluation) -> None:
        """Add to the history, and tell whoever watches."""
        done = self.trajectory
        moment = Moment(
            search, step, evaluation.value, evaluation.terms, done.evaluations,
            round(done.seconds, 3),
        )  # fmt: skip
        self.history.append(moment)
        if self.progress is not None:
            self.progress(moment)

    def meter(self, budget: Budget) -> Meter:
        """Counts from here on."""
        return Meter(budget, self.trajectory)

    def best(self, points: Sequence[torch.Tensor]) -> torch.Tensor:
        """The point with the lowest objective on all examples; of equal ones the first."""
        values = [self.whole.evaluate(x, grad=False).value for x in points]
        return points[min(range(len(points)), key=values.__getitem__)]


class Meter:
    """Says when a budget is used up, from what the trajectory counts."""

    def __init__(self, budget: Budget, trajectory: Trajectory) -> None:
        self.budget, self.trajectory = budget, trajectory
        self.steps = 0
        self._evaluations, self._seconds = trajectory.evaluations, trajectory.seconds

    def step(self) -> bool:
        """Whether there is budget for one more step, which it takes."""
        evaluations = self.trajectory.evaluations - self._evaluations
        minutes = (self.trajectory.seconds - self._seconds) / 60
        limits = (
            (self.steps, self.budget.steps),
            (evaluations, self.budget.evaluations),
            (minutes, self.budget.minutes),
        )
        if any(limit is not None and used >= limit for used, limit in limits):
            return False
        self.steps += 1
        return True
