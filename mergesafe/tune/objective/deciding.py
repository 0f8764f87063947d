"""Decides a run's constraints: whose figures they compare with, and which losses stand for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from mergesafe.errors import TuningError
from mergesafe.recipe.model import ModelRef, Recipe
from mergesafe.results.metrics import OVER_REFUSAL
from mergesafe.results.tuning import ConstraintCheck, Subset
from mergesafe.safety.evaluation.result import Figure
from mergesafe.safety.gate.decide import Decision, decide
from mergesafe.safety.statistics import CONFIDENCE
from mergesafe.tune.data.splits import Split
from mergesafe.tune.data.terms import records_of
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.objective.constrained import Level, shortfall
from mergesafe.tune.objective.constraints import RATES
from mergesafe.tune.objective.measure import Measurer
from mergesafe.tune.section.sections import Constraint

#: A likelihood is asked to be this share better than its bound, since a search ends near it.
_MARGIN: Final = 0.02


@dataclass(frozen=True)
class Decider:
    """The constraints of ``recipe``, measured by ``measurer``."""

    recipe: Recipe
    constraints: Sequence[Constraint]
    splits: Sequence[Split]
    measurer: Measurer
    merged: MergedModel
    _references: dict[tuple[str, Subset], Figure | None] = field(default_factory=dict)

    def decisions(self, x: torch.Tensor, subset: Subset) -> list[Decision]:
        """What each constraint comes to at ``x``."""
        figures = self.measurer.tuned(self.merged, x, subset)
        return [
            decide(
                each.requirement, figures[each.metric], self._reference(each, subset), CONFIDENCE
            )
            for each in self.constraints
        ]

    def verified(self, x: torch.Tensor) -> tuple[ConstraintCheck, ...]:
        """The constraints on held-out questions."""
        return tuple(
            ConstraintCheck(
                constraint.text, constraint.metric, each.bound,
                each.figure.value, each.figure.low, each.figure.high, each.figure.n,
                met=shortfall(each) == 0, shown=each.met,
            )
            for constraint, each in zip(
                self.constraints, self.decisions(x, "heldout"), strict=True
            )
        )  # fmt: skip

    def levels(self) -> dict[str, Level]:
        """The loss that stands for each constraint, by its text.

        Raises:
            TuningError: no set has answers whose loss could stand for one.
        """
        return {each.text: self._level(each) for each in self.constraints}

    def _level(self, constraint: Constraint) -> Level:
        shares = surrogates(constraint, self.splits)
        if constraint.requirement.is_rate:
            return Level(shares)
        reference = self._reference(constraint, "train")
        requirement = constraint.requirement
        most = requirement.offset
        if reference is not None:
            most += requirement.factor * reference.estimate.value
        return Level(shares, fixed=(1 - _MARGIN) * most)

    def _reference(self, constraint: Constraint, subset: Subset) -> Figure | None:
        """The figure that the constraint compares with; None for a plain number."""
        if constraint.of is None:
            return None
        key = f"{constraint.of} {constraint.metric}", subset
        if key not in self._references:
            refs = self._compared(constraint)
            found = [self.measurer.model(ref, subset)[constraint.metric] for ref in refs]
            best = max if constraint.requirement.above else min
            self._references[key] = best(found, key=lambda figure: figure.estimate.value)
        return self._references[key]

    def _compared(self, constraint: Constraint) -> Sequence[ModelRef]:
        if constraint.of == "base":
            assert self.recipe.base_model is not None  # as the reader makes sure
            return [self.recipe.base_model]
        named = [
            split.about.expert
            for split in self.splits
            if split.name == constraint.data_set and split.about.expert is not None
        ]
        return named or self.recipe.inputs


def surrogates(constraint: Constraint, splits: Sequence[Split]) -> Mapping[str, float]:
    """The sets whose answers' loss stands for the constraint, with their shares of it.

    Raises:
        TuningError: there are none.
    """
    role = RATES.get(constraint.metric)
    used = [
        split
        for split in splits
        if (split.about.role == role if role else split.name == constraint.data_set)
        and records_of(split, heldout=False)
    ]
    if not used:
        hint = (
            "give the harmless questions answers, such as the base model's own"
            if constraint.metric == OVER_REFUSAL
            else "add a set with answers"
        )
        raise TuningError(
            f"constraint '{constraint.text}': no set has answers whose likelihood could be "
            f"optimised for it; {hint}"
        )
    weights = {split.name: split.about.weight or 1.0 for split in used}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
