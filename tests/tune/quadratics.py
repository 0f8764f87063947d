"""Objectives with known minima, and a coefficient space without any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mergesafe.errors import LossError
from mergesafe.journal import Journal
from mergesafe.methods.registry import get_method
from mergesafe.tune.objective.evaluation import Evaluates, Evaluation
from mergesafe.tune.search.problem import Problem, RecordedObjective
from mergesafe.tune.search.trajectory import TUNE, Trajectory

_OPEN: dict[Path, Journal] = {}


class Space:
    """Two experts and ``groups`` groups of TIES: weights in [0, 1], and densities where wanted."""

    def __init__(self, names: Sequence[str] = ("weight",), groups: int = 2) -> None:
        self.names, self.experts = tuple(names), ("one", "two")
        self.method = get_method("ties")
        self.parameters = tuple(p for p in self.method.parameters if p.name in names)
        self.groups, self.granularity = tuple(range(groups)), "layer"
        self.size = 2 * groups * len(names)
        self.bounds = (torch.zeros(self.size, dtype=torch.float64), self.initial(1.0))

    def initial(self, value: float = 0.5) -> torch.Tensor:
        return torch.full((self.size,), value, dtype=torch.float64)

    def clamp(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(0.0, 1.0)

    def view(self, x: torch.Tensor, name: str) -> torch.Tensor:
        begin = self.names.index(name) * 2 * len(self.groups)
        return x[begin : begin + 2 * len(self.groups)].view(2, -1)


@dataclass
class Quadratic(Evaluates):
    """``sum((x - target)^2) + lift``, times 1 + noise of the step; not finite in ``bad`` calls."""

    target: torch.Tensor
    lift: float = 0.0
    noise: float = 0.0
    bad: Mapping[int, str] = field(default_factory=dict)
    calls: int = 0

    def evaluate(self, x: torch.Tensor, *, grad: bool, step: int = 0) -> Evaluation:
        self.calls += 1
        if self.calls in self.bad:
            raise LossError(self.bad[self.calls])
        scale = 1.0 + self.noise * ((step * 7919) % 13) / 13
        away = x - self.target
        value = scale * float(away.square().sum()) + self.lift
        gradient = 2 * scale * away if grad else None
        return Evaluation(value, {"square": value}, gradient, 1, 1)


def problem(
    folder: Path, objective: Any, space: Any = None, *, resume: bool = False, seed: int = 0
) -> Problem:
    """A problem whose trajectory lies in ``folder``."""
    before = _OPEN.pop(folder, None)
    if before is not None:  # held by one run at a time; that one is over
        before.__exit__()
    _OPEN[folder] = Journal(folder / "state", TUNE)
    trajectory = Trajectory(_OPEN[folder], {"subject": 1}, resume=resume)
    return Problem(
        space or Space(),
        RecordedObjective("batch", objective, trajectory),
        RecordedObjective("whole", objective, trajectory),
        trajectory,
        seed,
    )
