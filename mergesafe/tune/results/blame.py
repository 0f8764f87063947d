"""Which parent, and which of its layers, spoils the bunch.

Two answers for every expert and group of tensors, about a loss at coefficients x:

- the *gradient attribution* ``x_ig * dL/dx_ig``: to first order, what the loss would fall by if
  this part of the task vector were left out. One backward pass gives all of them.
- the *leave-one-out change* ``L(x) - L(x with x_ig = 0)``: the same, by leaving it out. One
  forward evaluation each; exact, and also where the two differ because the loss bends.

Positive values are to blame: they raise the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mergesafe.errors import ArgumentError
from mergesafe.results import tuning as schema
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.objective.evaluation import Evaluates


@dataclass(frozen=True)
class Blame:
    """Tables of [models][groups]; ``leave_one_out`` is None where it was not asked for."""

    models: tuple[str, ...]
    groups: tuple[str, ...]
    gradient: list[list[float]]
    leave_one_out: list[list[float]] | None

    def ranked(self) -> list[tuple[str, str, float]]:
        """(model, group, blame) with the worst first, by what was left out where that is known."""
        table = self.gradient if self.leave_one_out is None else self.leave_one_out
        found = [
            (model, group, value)
            for model, row in zip(self.models, table, strict=True)
            for group, value in zip(self.groups, row, strict=True)
        ]
        return sorted(found, key=lambda item: -item[2])

    def by_model(self) -> list[tuple[str, float]]:
        """(model, sum of its groups' attributions) with the worst first."""
        table = self.gradient if self.leave_one_out is None else self.leave_one_out
        totals = [(model, sum(row)) for model, row in zip(self.models, table, strict=True)]
        return sorted(totals, key=lambda item: -item[1])

    def document(self) -> schema.Blame:
        """As it is written."""
        return schema.Blame(list(self.models), list(self.groups), self.gradient, self.leave_one_out)


def blame(
    objective: Evaluates,
    space: CoefficientSpace,
    x: torch.Tensor,
    *,
    leave_one_out: bool = True,
    progress: Callable[[int, int, float], None] | None = None,
) -> Blame:
    """Blame for the value of ``objective`` (give one of the safety set alone) at ``x``.

    ``progress`` is called with the number of parts left out, how many there are, and the value
    without the last. With SLERP there is
    one coefficient, t, and its row is that of the model that is not the base.

    Raises:
        TuningError: method or coefficients have no gradient, or a loss is not finite.
        ArgumentError: the space has neither weights nor t.
    """
    name = next((name for name in ("weight", "t") if name in space.names), None)
    if name is None:
        raise ArgumentError(f"blame needs weights or t, the space has {', '.join(space.names)}")
    whole = objective.evaluate(x, grad=True)
    assert whole.gradient is not None  # as asked for
    table = space.view(whole.gradient * x, name)
    models = space.experts if name == "weight" else space.experts[1:]
    left = None
    if leave_one_out:
        left = [[0.0] * len(space.groups) for _ in models]
        total = table.numel()
        for done, (row, column) in enumerate(torch.cartesian_prod(*map(torch.arange, table.shape))):
            without = x.clone()
            space.view(without, name)[row, column] = 0.0
            value = objective.evaluate(without, grad=False).value
            left[int(row)][int(column)] = whole.value - value
            if progress is not None:
                progress(done + 1, total, value)
    groups = tuple(group.name for group in space.groups)
    return Blame(models, groups, table.tolist(), left)
