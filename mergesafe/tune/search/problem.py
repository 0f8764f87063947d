"""What a search sees: objectives whose every evaluation is recorded, a budget, a history."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch

from mergesafe.errors import DeviceMemoryError, PointError
from mergesafe.log_lines import LogLines
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.objective.evaluation import Evaluates, Evaluation
from mergesafe.tune.search.trajectory import Trajectory, question
from mergesafe.tune.section.sections import Budget


@dataclass(frozen=True)
class Progress:
    """One line of the history: the search, its step, and the objective there.

    ``part``: which of the searches it is, where constraints or a front make several necessary.
    ``share``: how much of the search's budget is used up, for whoever watches.
    """

    search: str
    step: int
    objective: float
    terms: dict[str, float]
    evaluations: int
    seconds: float
    part: str = ""
    share: float | None = field(default=None, compare=False)

    @property
    def text(self) -> str:
        """One line for people."""
        terms = ", ".join(f"{name} {value:.3f}" for name, value in self.terms.items())
        part = f" ({self.part})" if self.part else ""
        return (
            f"{self.search} step {self.step}{part}: {self.objective:.4f}"
            f"{f' ({terms})' if terms else ''}, {self.evaluations} evaluations, "
            f"{self.seconds:.0f} s"
        )

    def show(self, lines: LogLines) -> None:
        """In a log: the first step, and then a line every ten seconds."""
        first = self.step == 1
        lines.share(f"{self.search} {self.part}", self.share, self.text, at_once=first)


#: Called after every step of a search.
OnProgress: TypeAlias = Callable[[Progress], None]


class RecordedObjective(Evaluates):
    """An objective whose answers are kept in the trajectory, under ``name``."""

    def __init__(self, name: str, objective: Evaluates, trajectory: Trajectory) -> None:
        self.name, self.objective, self.trajectory = name, objective, trajectory
        self._known: dict[str, Evaluation] = {}

    @property
    def parallel(self) -> int:
        return self.objective.parallel

    def expect(self, points: Sequence[torch.Tensor], *, step: int = 0) -> None:
        """Announce what is neither known nor in the file of the run that is resumed."""
        keys = {self._key(x, grad=False, step=step): x for x in points}
        fresh = [key for key in keys if key not in self._known][self.trajectory.replayable :]
        self.objective.expect([keys[key] for key in fresh], step=step)

    def evaluate(self, x: torch.Tensor, *, grad: bool, step: int = 0) -> Evaluation:
        """The objective's answer; a question asked before costs nothing.

        Raises:
            DeviceMemoryError: the device ran out of memory; says which budget to change.
        """
        key = self._key(x, grad=grad, step=step)
        if key not in self._known:
            self._known[key] = self.trajectory.evaluation(
                key, lambda: self._computed(x, grad=grad, step=step)
            )
        return self._known[key]

    def _key(self, x: torch.Tensor, *, grad: bool, step: int) -> str:
        return question(x, f"{self.name} step {step}{' gradient' if grad else ''}")

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

    ``batch``: the objective on the examples of one step; ``whole``: on all of them. ``part``: what
    the history calls this one of several.
    """

    space: CoefficientSpace
    batch: Evaluates
    whole: Evaluates
    trajectory: Trajectory
    seed: int = 0
    progress: OnProgress | None = None
    part: str = ""
    history: list[Progress] = field(default_factory=list)
    _meter: Meter | None = field(default=None, init=False, repr=False)

    def note(self, search: str, step: int, evaluation: Evaluation) -> None:
        """Add to the history, and tell whoever watches."""
        done = self.trajectory
        line = Progress(
            search, step, evaluation.value, evaluation.terms, done.evaluations,
            round(done.seconds, 3), self.part,
        )  # fmt: skip
        self.history.append(line)
        if self.progress is not None:
            share = None if self._meter is None else self._meter.share()
            self.progress(replace(line, share=share))

    def meter(self, budget: Budget) -> Meter:
        """Counts from here on."""
        self._meter = Meter(budget, self.trajectory)
        return self._meter

    def best(self, points: Sequence[torch.Tensor]) -> torch.Tensor:
        """The point with the lowest objective on all examples; of equal ones the first.

        Raises:
            PointError: none of them has a finite one.
        """
        values: list[float] = []
        for x in points:
            try:
                values.append(self.whole.evaluate(x, grad=False).value)
            except PointError:
                if len(values) == len(points) - 1 and all(map(math.isinf, values)):
                    raise
                values.append(math.inf)
        return points[min(range(len(points)), key=values.__getitem__)]


class Meter:
    """Says when a budget is used up, from what the trajectory counts."""

    def __init__(self, budget: Budget, trajectory: Trajectory) -> None:
        self.budget, self._trajectory = budget, trajectory
        self.steps = 0
        self._evaluations, self._seconds = trajectory.evaluations, trajectory.seconds

    def fits(self, points: int) -> int:
        """How many of so many points, each an evaluation and a step, the budget still allows."""
        used = self._trajectory.evaluations - self._evaluations
        limits = [
            limit - spent
            for limit, spent in ((self.budget.steps, self.steps), (self.budget.evaluations, used))
            if limit is not None
        ]
        return max(0, min([points, *limits]))

    def step(self) -> bool:
        """Whether there is budget for one more step, which it takes."""
        if any(used >= limit for used, limit in self._limits()):
            return False
        self.steps += 1
        return True

    def share(self) -> float | None:
        """How much of the budget is used up, by what is nearest to its end."""
        return max((min(1.0, used / limit) for used, limit in self._limits()), default=None)

    def _limits(self) -> list[tuple[float, float]]:
        """What is used of every limit that there is."""
        evaluations = self._trajectory.evaluations - self._evaluations
        minutes = (self._trajectory.seconds - self._seconds) / 60
        limits = (
            (self.steps, self.budget.steps),
            (evaluations, self.budget.evaluations),
            (minutes, self.budget.minutes),
        )
        return [(used, limit) for used, limit in limits if limit is not None]
