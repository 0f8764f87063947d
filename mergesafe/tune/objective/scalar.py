"""Several losses as one: with constraints, and with a preference between two of them.

Both are smooth functions of the losses, so their gradient is a sum of the losses' gradients with
factors that follow from the losses' values; each loss is evaluated once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mergesafe.tune.objective.evaluation import Evaluates, Evaluation


@dataclass(frozen=True)
class Bound:
    """``sum_i share_i L_i <= most`` over the parts named in ``shares``."""

    shares: Mapping[str, float]
    most: float

    def excess(self, losses: Mapping[str, float]) -> float:
        """c = sum_i share_i L_i - most; positive where the bound is broken."""
        return sum(share * losses[name] for name, share in self.shares.items()) - self.most


class _OfParts(Evaluates):
    """A function of several objectives, its ``parts``, all evaluated at one point."""

    parts: Mapping[str, Evaluates]

    def expect(self, points: Sequence[torch.Tensor], *, step: int = 0) -> None:
        for part in self.parts.values():
            part.expect(points, step=step)

    @property
    def parallel(self) -> int:
        return max(part.parallel for part in self.parts.values())


@dataclass
class Lagrangian(_OfParts):
    """The augmented Lagrangian of minimising a weighted sum of losses under upper bounds of some.

    ``sum_i w_i L_i + sum_j (max(0, m_j + r c_j)^2 - m_j^2) / (2 r)`` with multipliers m_j >= 0 and
    penalty r > 0 (Rockafellar 1973; Nocedal & Wright, "Numerical Optimization", 17.4). At its
    minimum, :meth:`update` moves the multipliers towards those of the constrained minimum.

    Args:
        parts: the losses by name; ``weights``: of those that count in the objective.
        bounds: what is constrained, by the constraint's name.
    """

    parts: Mapping[str, Evaluates]
    weights: Mapping[str, float]
    bounds: Mapping[str, Bound]
    multipliers: dict[str, float]
    penalty: float = 10.0

    def evaluate(self, x: torch.Tensor, *, grad: bool, step: int = 0) -> Evaluation:
        """Value, the parts' losses as terms, and the gradient."""
        found = {n: part.evaluate(x, grad=grad, step=step) for n, part in self.parts.items()}
        losses = {name: each.value for name, each in found.items()}
        value = sum(weight * losses[name] for name, weight in self.weights.items())
        slopes = dict(self.weights)
        for name, bound in self.bounds.items():
            multiplier = self.multipliers[name]
            force = max(0.0, multiplier + self.penalty * bound.excess(losses))
            value += (force * force - multiplier * multiplier) / (2 * self.penalty)
            for part, share in bound.shares.items():
                slopes[part] = slopes.get(part, 0.0) + force * share
        return _combined(found, value, slopes, grad)

    def update(self, losses: Mapping[str, float]) -> None:
        """``m_j <- max(0, m_j + r c_j)`` with the parts' losses on all examples."""
        for name, bound in self.bounds.items():
            moved = self.multipliers[name] + self.penalty * bound.excess(losses)
            self.multipliers[name] = max(0.0, moved)


@dataclass(frozen=True)
class SmoothTchebycheff(_OfParts):
    """``mu log sum_i exp(w_i (L_i - ideal_i) / (range_i mu))`` of two losses.

    Lin et al., "Smooth Tchebycheff Scalarization for Multi-Objective Optimization",
    arXiv 2402.19078: unlike a weighted sum, its minima for all weights cover fronts of any shape.
    ``ideal``: each loss alone at its least; ``range``: to what it is where the other is least.
    """

    parts: Mapping[str, Evaluates]
    weights: Mapping[str, float]
    ideal: Mapping[str, float]
    range: Mapping[str, float]
    mu: float = 0.1

    def evaluate(self, x: torch.Tensor, *, grad: bool, step: int = 0) -> Evaluation:
        """Value, the two losses as terms, and the gradient."""
        found = {n: part.evaluate(x, grad=grad, step=step) for n, part in self.parts.items()}
        scale = {name: weight / self.range[name] for name, weight in self.weights.items()}
        exponents = {
            name: scale[name] * (found[name].value - self.ideal[name]) / self.mu for name in found
        }
        largest = max(exponents.values())
        powers = {name: math.exp(value - largest) for name, value in exponents.items()}
        total = sum(powers.values())
        slopes = {name: scale[name] * power / total for name, power in powers.items()}
        return _combined(found, self.mu * (largest + math.log(total)), slopes, grad)


def _combined(
    found: Mapping[str, Evaluation], value: float, slopes: Mapping[str, float], grad: bool
) -> Evaluation:
    """The evaluation of a function with derivative ``slopes[i]`` for the value of part i."""
    gradient = None
    if grad:
        for name, slope in slopes.items():
            part = found[name].gradient
            assert part is not None  # as asked for
            gradient = slope * part if gradient is None else gradient + slope * part
    return Evaluation(
        value,
        {name: each.value for name, each in found.items()},
        gradient,
        sum(each.forward_passes for each in found.values()),
        sum(each.examples for each in found.values()),
    )
